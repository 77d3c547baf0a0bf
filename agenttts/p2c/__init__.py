"""Prefer-to-classify: text classifiers trained on labels and on preferences between texts (arXiv 2306.04925).

`texts` and `preferences` are what is learnt from, `trainer` learns, `classifier` and `verifier` are the two
commands. `backbone`, `batches`, `losses`, `network`, `trained` and `trainer` import torch; the others do not.
"""
