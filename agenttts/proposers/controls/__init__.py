"""What every claim of the search is compared with: optimisers, racing, other ways to ask an LLM."""
