"""Allocations and what they are made of: their text, their JSON, their order."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.allocation import Allocation, StageChoice, StageOption

names = st.text(min_size=1, max_size=8)
choices = st.builds(StageChoice, names, st.integers(1, 99), st.none() | names)


@given(st.dictionaries(names, choices, min_size=1, max_size=4).map(Allocation))
def test_an_allocation_survives_json(allocation: Allocation) -> None:
    """Also with `@` in names; a choice without a verifier has no such key."""
    assert Allocation.from_json(allocation.to_json()) == allocation
    for stage, choice in allocation.to_dict().items():
        assert ("verifier" in choice) == (allocation[stage].verifier is not None)


@given(st.lists(st.builds(StageOption, names, st.none() | names)))
def test_options_can_be_sorted(options: list[StageOption]) -> None:
    assert sorted(options) == sorted(options, key=lambda o: (o.model, o.verifier or ""))


def test_choices_in_words() -> None:
    """As people read and write them."""
    choice = StageOption("small", "judge").with_samples(8)
    assert choice == StageChoice("small", 8, "judge") and choice.option == StageOption("small", "judge")
    assert str(choice) == "small@judge×8" and str(StageChoice("small", 8)) == "small×8"
    assert str(Allocation({"answer": choice})) == "answer small@judge×8"


@pytest.mark.parametrize(
    ("choice", "law"),
    [
        ({"model": "small"}, "takes exactly model, n_samples and perhaps verifier"),
        ({"model": "small", "n_samples": 1, "judge": "j"}, "takes exactly"),
        ({"model": "small", "n_samples": True}, "n_samples an integer"),
        ({"model": "small", "n_samples": 1, "verifier": 2}, "verifier and prompt are text or null"),
        ({"model": "small", "n_samples": 0}, "n_samples must be >= 1"),
        ("small×1", "takes exactly"),
    ],
)
def test_another_shape_is_refused(choice: object, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        Allocation.from_dict({"answer": choice})


def test_a_model_with_at_in_its_name_stays_one() -> None:
    """What is written in one word is taken apart by the space alone, which knows the stage's options."""
    read = Allocation.from_dict({"answer": {"model": "small@judge", "n_samples": 4}})
    assert read["answer"] == StageChoice("small@judge", 4)


def test_an_allocation_from_another_process_is_found() -> None:
    """It is equal to one made here, and has its hash, though texts hash differently there."""
    made = "pickle.dumps(Allocation({'answer': StageOption('small').with_samples(2)}))"
    program = f"import pickle, sys; from pipelines.allocation import *; sys.stdout.buffer.write({made})"
    sent = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    ).stdout
    assert pickle.loads(sent) in {Allocation({"answer": StageOption("small").with_samples(2)})}
