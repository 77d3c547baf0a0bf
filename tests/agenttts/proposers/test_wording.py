"""The lessons from pairs of trials: signs, and that the text cites no trial of its own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from agenttts.proposers import wording
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation, StageChoice
from tests.agenttts.choosing import view_of
from tests.agenttts.made_trials import made_trial
from tests.agenttts.small_specs import small_spec

SMALL, LARGE = StageChoice("small", 2), StageChoice("large", 2)


def lesson(
    before: tuple[StageChoice, StageChoice, float], after: tuple[StageChoice, StageChoice, float]
) -> str:
    """What is learnt from two trials, each two choices and a share of right answers."""
    view = view_of(SearchSpace(small_spec(), 40))
    trials = tuple(
        made_trial(
            number,
            Allocation({"retrieve": first, "answer": second}),
            {f"e{i:03}": float(i < share * 200) for i in range(200)},
        )
        for number, (first, second, share) in enumerate((before, after))
    )
    (only,) = wording.lessons(replace(view, trials=trials))
    assert only.trials == (0, 1) and "trial" not in only.text
    return only.text


def figures(text: str) -> tuple[float, float, float]:
    mean, low, high = re.findall(r"[+-]\d\.\d{3}", text)
    return float(mean), float(low), float(high)


@pytest.mark.parametrize(("earlier", "later"), [(0.4, 0.6), (0.6, 0.4)])
def test_the_better_option_comes_first_with_a_positive_difference(earlier: float, later: float) -> None:
    """Whichever trial came first, "A is clearly better than B" has A minus B, above 0 with its interval."""
    text = lesson((SMALL, SMALL, earlier), (SMALL, LARGE, later))
    better, worse = ("large×2", "small×2") if later > earlier else ("small×2", "large×2")
    assert text.startswith(f"At answer, {better} is clearly better than {worse}: ")
    mean, low, high = figures(text)
    assert 0 < low < mean < high


@pytest.mark.parametrize(
    ("n", "share", "words"),
    [(4, 0.7, "more samples pay"), (4, 0.3, "more samples hurt"), (1, 0.7, "fewer samples are better"),
     (1, 0.3, "fewer samples cost")],
)  # fmt: skip
def test_a_change_of_n_has_the_sign_of_what_it_did(n: int, share: float, words: str) -> None:
    """The figures are of the later count minus the earlier one, and the words agree with their sign."""
    text = lesson((SMALL, SMALL, 0.5), (SMALL, StageChoice("small", n), share))
    assert text.startswith(f"At answer, {words}: small×2 → {n} changes the score by ")
    assert (figures(text)[0] > 0) == (share > 0.5)


@pytest.mark.parametrize(("share", "word"), [(0.7, "better"), (0.3, "worse")])
def test_several_changes_at_once_are_a_sentence(share: float, word: str) -> None:
    """Changes at both stages are clearly better or worse, with a difference of that sign."""
    text = lesson((SMALL, SMALL, 0.5), (LARGE, LARGE, share))
    assert f" is clearly {word}: " in text and (figures(text)[0] > 0) == (word == "better")
