"""What a run found, behind HTTP: an OpenAI-compatible endpoint, on the executor that the search ran."""
