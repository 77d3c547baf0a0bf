"""What identifies a sample."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastore import canonical_json, make_prompt, model_key, prompt_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=4)


@given(OBJECT)
def test_order_does_not_matter(value: dict[str, object]) -> None:
    """Canonical JSON reads back as the value, and does not depend on the order of keys."""
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text


@given(OBJECT, OBJECT)
def test_text_and_mapping_have_one_key(content: dict[str, object], sampling: dict[str, object]) -> None:
    """A key is the same from mappings and from their canonical text, and is 128 bits in hex."""
    key = prompt_key("m", content, sampling)
    assert key == prompt_key("m", canonical_json(content), canonical_json(sampling))
    assert key == make_prompt("m", content, sampling).key
    assert len(key) == 32 and int(key, 16) >= 0


def test_keys_stay_what_they_are() -> None:
    """A key of the first version is still that key: banks on disk depend on it."""
    key = prompt_key("small@r1", {"prompt": "2 + 2 ="}, {"temperature": 1.0})
    assert key == "51ebf434cc21c7412ab7959a4f3ea8bf"


@pytest.mark.parametrize(
    "other",
    [
        ("b", {"prompt": "x"}, {"temperature": 1.0}),
        ("a", {"prompt": "y"}, {"temperature": 1.0}),
        ("a", {"prompt": "x"}, {"temperature": 0.5}),
    ],
)
def test_every_part_counts(other: tuple[str, dict[str, str], dict[str, float]]) -> None:
    """Another model, prompt or sampling parameter is another key."""
    assert prompt_key("a", {"prompt": "x"}, {"temperature": 1.0}) != prompt_key(*other)


def test_a_revision_is_part_of_the_model() -> None:
    """A model's key is its name, with the revision where there is one."""
    assert (model_key("m", None), model_key("m", "abc")) == ("m", "m@abc")


def test_nan_is_refused() -> None:
    """What JSON cannot hold has no canonical text."""
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"temperature": float("nan")})


def test_lone_surrogates_become_replacement_characters() -> None:
    """Text that no UTF-8 file can hold still has a key."""
    assert canonical_json({"prompt": "a\ud83db"}) == '{"prompt":"a\ufffdb"}'
    assert canonical_json({"prompt": "\U0001f600"}) == '{"prompt":"\U0001f600"}'
