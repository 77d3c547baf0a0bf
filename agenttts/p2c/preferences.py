"""`agenttts tune prefer`: which of two texts of one label is more of it, from votes, an LLM, or people.

All preferences are rows of one table in the store, with who gave them. An LLM is asked in both orders; where
the orders disagree it is a tie. What it answered is in the sample bank.
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
from agenttts.p2c.texts import TIE, LabelledText, Pairs
from agenttts.tasktune.chat import JsonChat
from datastore.keys import canonical_json
from datastore.records import Preference
from pipelines.tables import read_file

COLUMNS = ("first", "second", "label", "preferred", "source", "judge")
_ALWAYS = 0.9
_SCHEMA = {
    "type": "object",
    "properties": {"preferred": {"enum": ["A", "B", "none"]}},
    "required": ["preferred"],
    "additionalProperties": False,
}


def drawn_pairs(texts: Sequence[LabelledText], count: int, seed: int) -> list[tuple[int, int]]:
    """Distinct pairs of texts of one class, the classes by their texts, drawn by the seed.

    Fewer where there are not so many. UserError when no class has two texts.
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
    found: dict[tuple[int, int], None] = {}
    while len(found) < min(count, possible):
        members = classes[int(rng.choice(len(classes), p=weights / weights.sum()))]
        i, j = sorted(int(x) for x in rng.choice(members, 2, replace=False))
        found[(i, j)] = None
    return list(found)


def by_votes(
    name: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    *,
    tie: float,
    at: float,
) -> list[Preference]:
    """From annotators' votes: the text with the larger share for the label; a tie within `tie`."""
    voted = Pairs(texts=texts, tie=tie)
    return [
        preference(
            name, texts[i], texts[j], labels, voted.preferred(i, j), source="votes", judge="votes", at=at
        )
        for i, j in pairs
    ]


async def by_llm(
    name: str,
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    chat: JsonChat,
    *,
    at: float,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[Preference], list[str]]:
    """An LLM's preferences, asked in both orders, and what a person should know of them.

    A malformed answer counts as no preference.
    """

    async def ask(a: str, b: str, label: str) -> str:
        try:
            return str((await chat.ask(question(a, b, label), _SCHEMA))["preferred"])
        except ValueError:
            return "malformed"

    async def one(i: int, j: int) -> tuple[str, str]:
        first, second, label = texts[i].text, texts[j].text, labels[texts[i].label]
        return await ask(first, second, label), await ask(second, first, label)

    told(f"asking {chat.model} about {len(pairs)} pairs, in both orders")
    answers = await asyncio.gather(*(one(i, j) for i, j in pairs))
    found = []
    for (i, j), said in zip(pairs, answers, strict=True):
        preferred = {("A", "B"): 1.0, ("B", "A"): 0.0}.get(said, TIE)
        prompt = question(texts[i].text, texts[j].text, labels[texts[i].label])[-1]["content"]
        found.append(
            preference(
                *(name, texts[i], texts[j], labels, preferred),
                source="llm",
                judge=chat.model,
                prompt=prompt,
                at=at,
            )
        )
    return found, warnings_of([word for said in answers for word in said])


def warnings_of(said: Sequence[str]) -> list[str]:
    """What is suspicious about a judge's answers: one place always, never a preference, no proper answers."""
    found = []
    for word, told in (
        ("A", "named the first text in"),
        ("B", "named the second text in"),
        ("none", "had no preference in"),
        ("malformed", "gave no proper answer in"),
    ):
        share = sum(one == word for one in said) / max(1, len(said))
        if share >= _ALWAYS:
            found.append(f"the judge {told} {share:.0%} of {len(said)} answers: hardly a preference is left")
    return found


def question(a: str, b: str, label: str) -> list[dict[str, str]]:
    """What a judge is asked about two texts of one label."""
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
    name: str,
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
    """The record; its key is made of collection, texts, label and judge: a judge counts once a pair."""
    label = labels[first.label]
    return Preference(
        key=_key(name, first.text, second.text, label, source, judge),
        collection=name,
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
    """(i, j) → preferred, for pairs of these texts; of several judges the majority, a draw is a tie.

    UserError when none of the preferences is about two of the texts.
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
    """How often two judges of one pair say the same, over pairs of judges (`of`: with this one in them).

    None where no pair has two judges. Ties count as an answer of their own.
    """
    said: dict[tuple[str, ...], dict[str, float]] = {}
    for one in preferences:
        turned = one.first > one.second
        texts = (one.second, one.first) if turned else (one.first, one.second)
        place = (*texts, one.label)
        said.setdefault(place, {})[one.judge] = 1 - one.preferred if turned else one.preferred
    both = [
        a == b
        for judges in said.values()
        for (x, a), (y, b) in itertools.combinations(sorted(judges.items()), 2)
        if of is None or of in (x, y)
    ]
    return sum(both) / len(both) if both else None


def write_csv(preferences: Iterable[Preference], path: Path) -> int:
    """Preferences as a CSV file; how many. UserError when it can't be written."""
    rows = list(preferences)
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from None
    return len(rows)


def read_csv(name: str, path: Path, *, at: float) -> list[Preference]:
    """Preferences of a CSV file with the columns of `write_csv`; source and judge may be missing.

    UserError for a row without texts or label, or whose `preferred` is not 1, 0 or 0.5.
    """
    found = []
    for row in read_file(path):
        fields: Mapping[str, str] = {key: str(value or "") for key, value in row.fields.items()}
        for column in COLUMNS[:4]:
            if not fields.get(column, "").strip():
                raise UserError(f"{row.place}: the column {column!r} must be there and not empty")
        if fields["preferred"] not in ("1", "0", "1.0", "0.0", "0.5"):
            raise UserError(f"{row.place}: preferred is 1, 0 or 0.5, got {fields['preferred']!r}")
        source, judge = fields.get("source") or "people", fields.get("judge") or path.stem
        texts = fields["first"], fields["second"]
        found.append(
            Preference(
                key=_key(name, *texts, fields["label"], source, judge),
                collection=name,
                first=texts[0],
                second=texts[1],
                label=fields["label"],
                preferred=float(fields["preferred"]),
                source=source,
                judge=judge,
                prompt=None,
                created_at=at,
            )
        )
    return found


def _key(*parts: str) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]
