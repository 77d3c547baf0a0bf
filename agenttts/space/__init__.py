"""What is searched: the space of allocations, their planned cost, and what is sought."""
