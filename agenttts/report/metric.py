"""The name of a metric as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS = {"f1": "F1", "squad": "SQuAD", "rouge": "ROUGE", "l": "L"}


def metric_name(metric: object) -> str:
    """Return the name of a metric in words: `token F1` for token_f1, `answer F1` for a function answer_f1.

    Args:
        metric: The metric as a stored spec has it: a mapping with `kind`, or with the reference of a function
            under `python`; None for a spec that names none.
    """
    if isinstance(metric, Mapping):
        metric = metric.get("kind") or metric.get("python")
    name = str(metric or "score").replace(":", ".").rpartition(".")[2]
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words.replace("ROUGE L", "ROUGE-L")
