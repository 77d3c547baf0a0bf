"""`agenttts tune prefer`: which of two texts of one label is more of it, from votes, an LLM, or people.

All preferences are rows of one table in the store, with who gave them. An LLM is asked in both orders; where
the orders disagree it is a tie. Its answers are in the sample bank.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from agenttts.errors import UserError
from agenttts.llm import JsonChat, Message
from agenttts.p2c.texts import TIE, LabelledText, Pairs
from datastore.keys import canonical_json
from datastore.records import Preference
from pipelines.dataset.rows import read_file
from pipelines.files import whole
from pipelines.jsonvalues import JSON

COLUMNS = ("first", "second", "label", "preferred", "source", "judge")
"""The columns of a CSV file of preferences."""
_SUSPICIOUS_SHARE = 0.9
_SCHEMA: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"preferred": {"enum": ["A", "B", "none"]}},
    "required": ["preferred"],
    "additionalProperties": False,
}


def drawn_pairs(texts: Sequence[LabelledText], count: int, seed: int) -> list[tuple[int, int]]:
    """Draw distinct pairs of texts of one class; larger classes are drawn more often.

    Args:
        texts: The texts.
        count: How many pairs to draw; fewer are drawn where there are not so many.
        seed: Decides the draw.

    Returns:
        Positions of two texts each, the smaller one first.

    Raises:
        UserError: No class has two texts.
    """
    by_class: dict[int, list[int]] = {}
    for i, one in enumerate(texts):
        by_class.setdefault(one.label, []).append(i)
    classes = [members for members in by_class.values() if len(members) > 1]
    if not classes:
        raise UserError("no class has two texts, so that there is no pair to prefer in")
    possible = sum(len(members) * (len(members) - 1) // 2 for members in classes)
    rng = np.random.default_rng(seed)
    weights = np.array([len(members) for members in classes], dtype=float)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < min(count, possible):
        members = classes[int(rng.choice(len(classes), p=weights / weights.sum()))]
        i, j = sorted(int(x) for x in rng.choice(members, 2, replace=False))
        pairs[(i, j)] = None
    return list(pairs)


def by_votes(
    collection: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    *,
    tie: float,
    at: float,
) -> list[Preference]:
    """Derive preferences from annotators' votes: the text with the larger share for the label is preferred.

    Args:
        collection: The name of the collection.
        texts: The texts with their votes.
        labels: The names of the classes.
        pairs: The positions of two texts each.
        tie: Shares that differ by at most this are a tie.
        at: The time of the preferences, in Unix seconds.
    """
    voted = Pairs(texts=texts, tie=tie)
    return [
        preference(
            collection,
            texts[i],
            texts[j],
            labels,
            voted.preferred(i, j),
            source="votes",
            judge="votes",
            at=at,
        )
        for i, j in pairs
    ]


async def by_llm(
    collection: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    chat: JsonChat,
    *,
    at: float,
    on_status: Callable[[str], None] = lambda _: None,
) -> tuple[list[Preference], list[str]]:
    """Ask an LLM for preferences, each pair in both orders. A malformed answer counts as no preference.

    Args:
        collection: The name of the collection.
        texts: The texts.
        labels: The names of the classes.
        pairs: The positions of two texts each.
        chat: The LLM.
        at: The time of the preferences, in Unix seconds.
        on_status: Is called with what is being done.

    Returns:
        The preferences, and warnings for the person.
    """

    async def ask(a: str, b: str, label: str) -> str:
        try:
            return str((await chat.ask(question(a, b, label), _SCHEMA))["preferred"])
        except ValueError:
            return "malformed"

    async def in_both_orders(i: int, j: int) -> tuple[str, str]:
        first, second, label = texts[i].text, texts[j].text, labels[texts[i].label]
        return await ask(first, second, label), await ask(second, first, label)

    on_status(f"asking {chat.model} about {len(pairs)} pairs, in both orders")
    answers = await asyncio.gather(*(in_both_orders(i, j) for i, j in pairs))
    preferences = []
    for (i, j), both in zip(pairs, answers, strict=True):
        prompt = question(texts[i].text, texts[j].text, labels[texts[i].label])[-1]["content"]
        preferences.append(
            preference(
                collection,
                texts[i],
                texts[j],
                labels,
                {("A", "B"): 1.0, ("B", "A"): 0.0}.get(both, TIE),
                source="llm",
                judge=chat.model,
                prompt=prompt,
                at=at,
            )
        )
    return preferences, warnings_of([answer for both in answers for answer in both])


def warnings_of(answers: Sequence[str]) -> list[str]:
    """Say what is suspicious about a judge: always the same place, never a preference, malformed answers.

    Args:
        answers: `A`, `B`, `none` or `malformed` for each question.

    Returns:
        A sentence for each kind that makes up nine tenths of the answers.
    """
    warnings = []
    for answer, words in (
        ("A", "named the first text in"),
        ("B", "named the second text in"),
        ("none", "had no preference in"),
        ("malformed", "gave no proper answer in"),
    ):
        share = sum(one == answer for one in answers) / max(1, len(answers))
        if share >= _SUSPICIOUS_SHARE:
            warnings.append(
                f"the judge {words} {share:.0%} of {len(answers)} answers: hardly a preference is left"
            )
    return warnings


def question(a: str, b: str, label: str) -> list[Message]:
    """The chat that asks a judge about two texts of one label.

    Args:
        a: The first text.
        b: The second text.
        label: The name of their class.
    """
    return [
        {"role": "system", "content": "You compare two texts. Answer with JSON only."},
        {
            "role": "user",
            "content": f"Both texts are labelled {label!r}. Which one is more {label}?\n\n"
            f"A: {a}\n\nB: {b}\n\n"
            'Answer {"preferred": "A"}, {"preferred": "B"}, or {"preferred": "none"} for no preference.',
        },
    ]


def preference(
    collection: str,
    first: LabelledText,
    second: LabelledText,
    labels: Sequence[str],
    preferred: float,
    *,
    source: str,
    judge: str,
    at: float,
    prompt: str | None = None,
) -> Preference:
    """Make a record, whose key depends on collection, texts, label and judge: a judge counts once a pair.

    Args:
        collection: The name of the collection.
        first: The first text.
        second: The second text, of the same label.
        labels: The names of the classes.
        preferred: 1 where the first text is more of the label, 0 where the second is, 0.5 for a tie.
        source: `votes`, `llm` or `people`.
        judge: Who prefers.
        at: The time, in Unix seconds.
        prompt: What an LLM was asked; None for other sources.
    """
    label = labels[first.label]
    return Preference(
        key=_key(collection, first.text, second.text, label, source, judge),
        collection=collection,
        first=first.text,
        second=second.text,
        label=label,
        preferred=preferred,
        source=source,
        judge=judge,
        prompt=prompt,
        created_at=at,
    )


def known_pairs(
    preferences: Iterable[Preference], texts: Sequence[LabelledText], labels: Sequence[str]
) -> dict[tuple[int, int], float]:
    """Put the judges of each pair together: the majority counts, a draw is a tie.

    Args:
        preferences: The preferences; those about other texts are left out.
        texts: The texts.
        labels: The names of the classes.

    Returns:
        (i, j) → 1 where text i is preferred, 0 where text j is, 0.5 for a tie; i is smaller than j.

    Raises:
        UserError: None of the preferences is about two of the texts.
    """
    places = {(one.text, labels[one.label]): i for i, one in enumerate(texts)}
    votes: dict[tuple[int, int], list[float]] = {}
    for one in preferences:
        i, j = places.get((one.first, one.label)), places.get((one.second, one.label))
        if i is None or j is None or i == j:
            continue
        pair, value = ((i, j), one.preferred) if i < j else ((j, i), 1 - one.preferred)
        votes.setdefault(pair, []).append(value)
    if not votes:
        raise UserError("none of the preferences is about two of these texts and their labels")
    means = {pair: sum(values) / len(values) for pair, values in votes.items()}
    return {pair: TIE if mean == TIE else float(mean > TIE) for pair, mean in means.items()}


def agreement(preferences: Iterable[Preference], *, of: str | None = None) -> float | None:
    """How often two judges of one pair agree, over pairs of judges. A tie is an answer of its own.

    Args:
        preferences: The preferences.
        of: A judge who is one of the two; None: any two.

    Returns:
        The share, or None where no pair has two judges.
    """
    answers: dict[tuple[str, ...], dict[str, float]] = {}
    for one in preferences:
        turned = one.first > one.second
        texts = (one.second, one.first) if turned else (one.first, one.second)
        answers.setdefault((*texts, one.label), {})[one.judge] = (
            1 - one.preferred if turned else one.preferred
        )
    agreements = [
        a == b
        for judges in answers.values()
        for (x, a), (y, b) in itertools.combinations(sorted(judges.items()), 2)
        if of is None or of in (x, y)
    ]
    return sum(agreements) / len(agreements) if agreements else None


def write_csv(preferences: Iterable[Preference], path: Path) -> int:
    """Write preferences as a CSV file with the columns of `COLUMNS`.

    Args:
        preferences: The preferences.
        path: The file.

    Returns:
        How many there are.

    Raises:
        UserError: The file can't be written.
    """
    rows = list(preferences)
    try:
        with whole(path) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from None
    return len(rows)


def read_csv(collection: str, path: Path, *, at: float) -> list[Preference]:
    """Read preferences from a CSV file with the columns of `write_csv`; source and judge may be missing.

    Args:
        collection: The name of the collection that they become part of.
        path: The file.
        at: The time of the preferences, in Unix seconds.

    Raises:
        UserError: A row lacks texts or label, or its `preferred` is not 1, 0 or 0.5.
    """
    preferences = []
    for row in read_file(path):
        fields: Mapping[str, str] = {key: str(value or "") for key, value in row.fields.items()}
        for column in COLUMNS[:4]:
            if not fields.get(column, "").strip():
                raise UserError(f"{row.place}: the column {column!r} must be there and not empty")
        if fields["preferred"] not in ("1", "0", "1.0", "0.0", "0.5"):
            raise UserError(f"{row.place}: preferred is 1, 0 or 0.5, got {fields['preferred']!r}")
        preferences.append(
            preference(
                collection,
                LabelledText(text=fields["first"], label=0),
                LabelledText(text=fields["second"], label=0),
                [fields["label"]],
                float(fields["preferred"]),
                source=fields.get("source") or "people",
                judge=fields.get("judge") or path.stem,
                at=at,
            )
        )
    return preferences


def _key(*parts: str) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]
