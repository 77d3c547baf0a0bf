"""The controls that every claim of the search is compared with: optimisers, racing and LLM baselines."""
