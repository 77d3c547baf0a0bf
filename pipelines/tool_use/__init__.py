"""Decompose → select tools → fill parameters: requests that take several tools (TaskBench, UltraTool)."""
