"""From sources to a dataset on disk: sub-tasks, rows, their checks, and what an LLM adds to them."""
