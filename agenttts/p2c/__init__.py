"""Prefer-to-classify (arXiv 2306.04925): text classifiers trained on labels and preferences."""
