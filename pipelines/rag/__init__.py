"""Retrieve → rerank → answer: questions over a corpus that is searched, the reader's own files too."""
