"""Score the output of a stage against the gold value of an example, in [0, 1].

Values are compared by `comparing`, as votes are, so that an output that holds nothing equals nothing. The
metrics named after SQuAD are those of its official evaluation script, bit for bit. Where an example has no
gold value for a stage's metric the score is None.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pipelines.errors import ConfigurationError, CustomCodeFailed
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.reading.comparing import as_text, equal, same_answer, vote_key
from pipelines.reading.folding import answer_words, words
from pipelines.reading.numeric import same_number
from pipelines.spec.functions import UserFunction, reference
from pipelines.spec.variants import MetricSpec, PythonMetric
from pipelines.stages.parsers import normal_space

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(metric: MetricSpec, output: JSON, example: Example) -> float | None:
    """Score an output with a built-in metric or a user-defined function.

    The metrics of texts and of numbers take the best score over a list of aliases.

    Args:
        metric: A built-in metric, or a function that is called as `function(output, example)`.
        output: The output; None when no sample parsed, which every built-in metric scores 0.
        example: The example with its gold value.

    Returns:
        The score in [0, 1]; None when the example has no gold value in the field that the metric names.

    Raises:
        CustomCodeFailed: The function raised an exception, or returned no number in [0, 1].
        ConfigurationError: The function raised it, for example because no sandbox is available.
    """
    if isinstance(metric, PythonMetric):
        return _own(metric.python, output, example)
    gold = example.get(metric.label)
    if gold is None:
        return None
    return 0.0 if output is None else _METRICS[metric.kind](output, gold)


def normal_answer(text: str) -> str:
    """Normalise a text as SQuAD's evaluation does: lower case, no punctuation, no articles, single spaces."""
    return normal_space(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)))


def exact_match(output: JSON, gold: JSON) -> float:
    """Return 1 when the output is the same answer as one of the aliases, else 0."""
    return max(float(same_answer(output, alias)) for alias in _aliases(gold))


def token_f1(output: JSON, gold: JSON) -> float:
    """Compute the F1 of the two bags of `folding.answer_words`; the best over the aliases."""
    tokens = answer_words(as_text(output))
    return max(_f1(tokens, answer_words(as_text(alias))) for alias in _aliases(gold))


def number(output: JSON, gold: JSON) -> float:
    """Return 1 when the output is the number of one of the aliases, else 0; see `numeric.same_number`.

    A sign of a currency beside a number does not count, nor does `x =` before it.
    """
    return max(float(same_number(output, alias, beside=True)) for alias in _aliases(gold))


def squad_exact_match(output: JSON, gold: JSON) -> float:
    """Compute the exact match of SQuAD's evaluation script (Rajpurkar et al. 2016).

    A missing output is wrong.
    """
    if output is None:
        return 0.0
    answer = normal_answer(_text(output))
    return max(float(answer == normal_answer(_text(alias))) for alias in _aliases(gold))


def squad_f1(output: JSON, gold: JSON) -> float:
    """Compute the F1 of SQuAD's evaluation script; 0 for a missing output.

    Two texts without tokens are equal, as they are there.
    """
    if output is None:
        return 0.0
    tokens = normal_answer(_text(output)).split()
    golds = [normal_answer(_text(alias)).split() for alias in _aliases(gold)]
    return max(_f1(tokens, other) if tokens and other else float(tokens == other) for other in golds)


def rouge_l(output: JSON, gold: JSON) -> float:
    """Compute ROUGE-L's F-measure (Lin 2004) over lower-case words; the best over the aliases.

    With the longest common subsequence lcs it is 2·lcs / (|output| + |gold|), lengths in words. A Chinese,
    Japanese or Korean character is a word.
    """
    return max(rouge_l_of(words(as_text(output)), words(as_text(alias))) for alias in _aliases(gold))


def rouge_l_of(tokens: Sequence[str], gold: Sequence[str]) -> float:
    """Compute ROUGE-L's F-measure of two sequences of tokens; 0 when they have no token in common."""
    row = [0] * (len(gold) + 1)
    for token in tokens:
        before = 0
        for i, other in enumerate(gold):
            above = row[i + 1]
            row[i + 1] = before + 1 if token == other else max(above, row[i])
            before = above
    return 2 * row[-1] / (len(tokens) + len(gold)) if row[-1] else 0.0


def set_precision(output: JSON, gold: JSON) -> float:
    """Return the share of the output's items that are gold. If either set is empty: 1 if both are, else 0."""
    answer_items, gold_items = _items(output), _items(gold)
    return (
        len(answer_items & gold_items) / len(answer_items)
        if answer_items and gold_items
        else float(answer_items == gold_items)
    )


def set_recall(output: JSON, gold: JSON) -> float:
    """Return the share of the gold items in the output. If either set is empty: 1 if both are, else 0."""
    return set_precision(gold, output)


def set_f1(output: JSON, gold: JSON) -> float:
    """Compute 2·|both| / (|output| + |gold|). If either set is empty: 1 if both are, else 0."""
    answer_items, gold_items = _items(output), _items(gold)
    return (
        2 * len(answer_items & gold_items) / (len(answer_items) + len(gold_items))
        if answer_items or gold_items
        else 1.0
    )


def accuracy(output: JSON, gold: JSON) -> float:
    """Return 1 when the output equals the gold value, else 0; case matters, see `comparing.equal`."""
    return float(equal(output, gold, case=True))


def _f1(tokens: Sequence[str], gold: Sequence[str]) -> float:
    both = sum((Counter(tokens) & Counter(gold)).values())
    return 2 * both / (len(tokens) + len(gold)) if both else 0.0


def _text(value: JSON) -> str:
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _aliases(gold: JSON) -> Sequence[JSON]:
    return gold if isinstance(gold, list) and gold else [gold]


def _items(value: JSON) -> frozenset[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return frozenset(filter(None, (vote_key(item, case=True) for item in items)))


def _own(function: UserFunction, output: JSON, example: Example) -> float:
    try:
        value = float(function(output, example))
    except ConfigurationError:
        raise
    except Exception as error:
        raise CustomCodeFailed(
            f"metric {reference(function)} raised {type(error).__name__}: {error}"
        ) from error
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise CustomCodeFailed(f"metric {reference(function)} must return a number in [0, 1], got {value:g}")
    return value


_METRICS: Mapping[str, Callable[[JSON, JSON], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "number": number,
    "squad_exact_match": squad_exact_match,
    "squad_f1": squad_f1,
    "rouge_l": rouge_l,
    "set_precision": set_precision,
    "set_recall": set_recall,
    "set_f1": set_f1,
    "accuracy": accuracy,
}
