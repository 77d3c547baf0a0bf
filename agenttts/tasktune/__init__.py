"""AnyTaskTune: sub-tasks of a domain, a dataset for each, small models tuned on them (arXiv 2407.07094).

`data` makes the dataset on disk, `fit` tunes, `evaluation` compares models, `improve` closes the loop with a
search.
"""
