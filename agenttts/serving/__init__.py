"""Where model servers run: the memory that each needs, and the GPUs that it gets."""
