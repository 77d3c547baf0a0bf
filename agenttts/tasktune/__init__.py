"""AnyTaskTune: sub-tasks of a domain, a dataset for each, small models tuned on them (arXiv 2407.07094).

`subtask` says what a task is, `sources`, `traces` and `cleaning` make its rows, `build` the dataset on disk;
`fit` tunes, `adapters` knows what a tuned model is, `evaluation` compares models, `improve` closes the loop
with a search. `classified` and `p2c` train text classifiers on labels and preferences (arXiv 2306.04925),
`preferring` and `judgepage` collect preferences, `verifier` trains what picks the best of n samples.
"""
