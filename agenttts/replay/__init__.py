"""What recorded samples say of allocations, without a call."""
