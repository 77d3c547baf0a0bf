"""From gathered rows to a dataset: every row that is dropped has a step and a reason.

The order of the steps is that of `clean`. Which text tells its language, and how, is in `language`.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from agenttts.tasktune.data.language import language_check
from agenttts.tasktune.data.rows import Dropped, PreferencePair, TaskRow, score_answer
from agenttts.tasktune.data.subtask import SubTask
from datastore.keys import canonical_json
from pipelines.dataset.splits import seeded_order
from pipelines.errors import CustomCodeFailed, DatasetError
from pipelines.examples import Example
from pipelines.extras import library
from pipelines.spec.variants import BuiltinMetric
from pipelines.stages import metrics
from pipelines.stages.parsers import Parsed, parse

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

CONTRADICTED = "contradicted"
"""The flag of a row whose chat occurs with another answer, where one alone can be right."""

CountTokens: TypeAlias = Callable[[str], int]
Check: TypeAlias = Callable[[TaskRow], str | None]
"""Why a row is dropped; None when it stays."""
_InputText: TypeAlias = Callable[[Mapping[str, object]], str]

_SHINGLE = 5  # characters, so that texts without spaces have them too
_PERMUTATIONS = 128
_SEED = 1
_NEAR_DUPLICATES = "finding near duplicates"
_EQUALITY = {"accuracy", "exact_match", "number", "squad_exact_match"}
_PERSONAL = {
    "email": re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]{2,}\b"),
    "phone": re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[ -]?)?(?:\(\d{2,4}\)[ -]?)?\d{3,4}[ -]\d{3,4}(?:[ -]\d{2,4})?(?![\w.])"
    ),
    "phone-cn": re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)"),
    "id-cn": re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)"),
    "ssn": re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"),
    "card": re.compile(r"(?<!\d)(?:\d{4}[ -]?){3}\d{4}(?!\d)"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b"),
}


@dataclass
class Cleaned:
    """The rows that are left, and what each step did.

    Attributes:
        rows: The rows that are left.
        dropped: The rows that were dropped.
        counts: The number of rows that were left after each step, by its name, in order.
    """

    rows: list[TaskRow]
    dropped: list[Dropped] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, check: Check) -> None:
        """Drop the rows for which a check has a reason.

        Args:
            name: The name of the step.
            check: The check; it is called once for each row, in order.
        """
        left = []
        for row in self.rows:
            reason = check(row)
            if reason is None:
                left.append(row)
            else:
                self.dropped.append(Dropped(step=name, reason=reason, source=row.source))
        self.rows = left
        self.counts[name] = len(left)


def clean(
    rows: Sequence[TaskRow],
    tasks: Mapping[str, SubTask],
    *,
    sealed: Iterable[Mapping[str, object]] = (),
    near: float | None = 0.85,
    count_tokens: CountTokens | None = None,
    max_tokens: int | None = None,
    drop_personal: bool = False,
    drop_contradicted: bool = False,
) -> Cleaned:
    """Check rows: schema, language, leaks, exact and near duplicates, length, personal data.

    Fields that all rows and sealed inputs have in common, such as a list of tools, do not make inputs alike.

    Args:
        rows: The rows.
        tasks: Their sub-tasks by name.
        sealed: Inputs that no row may repeat, exactly or nearly.
        near: The Jaccard similarity of character 5-grams from which inputs count as the same, estimated by
            MinHash with 128 permutations. None: there is no such check.
        count_tokens: Counts the tokens of a text.
        max_tokens: The most tokens of prompt and answer together. None: there is no such check.
        drop_personal: Drop rows that seem to hold personal data, instead of flagging them.
        drop_contradicted: Drop rows whose chat occurs with another answer, instead of flagging them.

    Raises:
        MissingDependency: A check needs a library of the extra `tune`.
        UserError: The languages of a sub-task are no ISO 639-1 codes.
    """
    cleaned = Cleaned(list(rows), counts={"gathered": len(rows)})
    sealed_inputs = list(sealed)
    shared = _shared_fields([*(row.inputs for row in rows), *sealed_inputs])

    def text_of(inputs: Mapping[str, object]) -> str:
        return input_text({name: value for name, value in inputs.items() if name not in shared})

    cleaned.step("schema", lambda row: schema_problem(tasks[row.task], row))
    if any(task.languages for task in tasks.values()):
        cleaned.step("language", language_check(tasks))
    cleaned.step("leak", _leaks([text_of(inputs) for inputs in sealed_inputs], near, text_of))
    cleaned.step("duplicate", _repeats())
    if near is not None:
        cleaned.step("near-duplicate", _near_repeats(near, text_of))
    if count_tokens is not None and max_tokens is not None:
        cleaned.step("length", lambda row: _too_long(row, count_tokens, max_tokens))
    torn = contradicted(cleaned.rows, tasks)
    cleaned.rows = [
        replace(row, flags=(*personal_data(row), *((CONTRADICTED,) if row.id in torn else ())))
        for row in cleaned.rows
    ]
    if drop_contradicted:
        cleaned.step(CONTRADICTED, lambda row: torn.get(row.id))
    if drop_personal:
        cleaned.step("personal", _holds_personal_data)
    return cleaned


def input_text(inputs: object) -> str:
    """Inputs as one text, without case and spacing: rows are compared by it."""
    return " ".join(unicodedata.normalize("NFKC", canonical_json(inputs)).casefold().split())


def schema_problem(task: SubTask, row: TaskRow) -> str | None:
    """Check that a row's answer parses and that its own metric counts it as right.

    Args:
        task: The row's sub-task.
        row: The row.

    Returns:
        What is wrong; None when nothing is.
    """
    example = Example(row.id, row.fields)
    try:
        parsed = parse(task.parser, row.completion, example)
        if not isinstance(parsed, Parsed):
            return f"the answer does not parse: {parsed.reason}"
        score = metrics.score(task.metric, parsed.value, example)
    except (CustomCodeFailed, DatasetError) as error:
        return str(error)
    if score is not None and score < 1.0:
        return f"the answer scores {score:.2f} under its own metric"
    return None


def personal_data(row: TaskRow) -> tuple[str, ...]:
    """The kinds of personal data that a row seems to hold, by pattern. Names of people are not looked for."""
    text = " ".join([*(message["content"] for message in row.messages), row.completion])
    return tuple(kind for kind, pattern in _PERSONAL.items() if pattern.search(text))


def contradicted(rows: Sequence[TaskRow], tasks: Mapping[str, SubTask]) -> dict[str, str]:
    """Find rows whose chat occurs with another answer, which is wrong if theirs is right.

    Sub-tasks are looked at that have one right answer: by their choices, or by a metric of equality.

    Args:
        rows: The rows.
        tasks: Their sub-tasks by name.

    Returns:
        By the id of a row the first answer that contradicts it, in words.
    """
    by_chat: dict[str, list[TaskRow]] = {}
    for row in rows:
        if _one_is_right(tasks[row.task]):
            by_chat.setdefault(canonical_json([row.task, list(row.messages)]), []).append(row)
    reasons: dict[str, str] = {}
    for alike in by_chat.values():
        for row in alike:
            other = next(
                (o for o in alike if (score_answer(tasks[row.task], row, o.completion) or 0.0) < 1.0), None
            )
            if other is not None:
                reasons[row.id] = f"says {row.completion!r:.60}, {other.source} says {other.completion!r:.60}"
    return reasons


def near_index(near: float) -> MinHashLSH:
    """An empty index of sketches.

    Args:
        near: The Jaccard similarity from which two texts count as the same.

    Raises:
        MissingDependency: datasketch is not installed.
    """
    index: MinHashLSH = library("datasketch", _NEAR_DUPLICATES).MinHashLSH(
        threshold=near, num_perm=_PERMUTATIONS
    )
    return index


def sketch(text: str) -> MinHash:
    """The MinHash of a text's character 5-grams.

    Raises:
        MissingDependency: datasketch is not installed.
    """
    shingles = {text[i : i + _SHINGLE].encode() for i in range(max(1, len(text) - _SHINGLE + 1))}
    signature: MinHash = library("datasketch", _NEAR_DUPLICATES).MinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    signature.update_batch(sorted(shingles))
    return signature


def clean_pairs(pairs: Sequence[PreferencePair], rows: Sequence[TaskRow]) -> list[PreferencePair]:
    """The pairs whose prompt is that of one of the rows."""
    prompts = {canonical_json(list(row.messages)) for row in rows}
    return [pair for pair in pairs if canonical_json(list(pair.messages)) in prompts]


def split_groups(
    rows: Sequence[TaskRow], eval_share: float, seed: int
) -> tuple[list[TaskRow], list[TaskRow]]:
    """Split rows; the rows of a group are on one side.

    A sub-task with two groups or more has at least one on each side where the share is above 0. One with a
    single group has it in training.

    Args:
        rows: The rows.
        eval_share: The share of the groups that is for evaluation.
        seed: Decides which side a group is on.

    Returns:
        The rows for training and the rows for evaluation.
    """

    def order(groups: Iterable[str]) -> list[str]:
        return seeded_order(set(groups), str, seed)

    all_groups = order(row.group for row in rows)
    held_out = set(all_groups[: round(eval_share * len(all_groups))])
    if eval_share > 0:
        by_task: dict[str, list[str]] = {}
        for row in rows:
            by_task.setdefault(row.task, []).append(row.group)
        for groups in map(order, by_task.values()):
            if len(groups) > 1 and not held_out.intersection(groups):
                held_out.add(groups[0])
        for groups in map(order, by_task.values()):
            if held_out.issuperset(groups):
                held_out.discard(groups[-1])
    return [row for row in rows if row.group not in held_out], [row for row in rows if row.group in held_out]


def evenly(rows: Sequence[TaskRow], count: int) -> list[TaskRow]:
    """At most so many rows, of every sub-task as many, in their order."""
    by_task: dict[str, list[TaskRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_task.values()))
    return list(itertools.islice((row for row in turns if row is not None), count))


def drop_counts(dropped: Iterable[Dropped]) -> dict[str, dict[str, int]]:
    """How many rows were dropped at each step, by reason; reasons that differ in figures count as one."""
    by_step: dict[str, Counter[str]] = {}
    for row in dropped:
        reason = re.sub(r"\d+(\.\d+)?", "N", row.reason.split(": ")[0].split(", got")[0])
        by_step.setdefault(row.step, Counter())[reason] += 1
    return {step: dict(counts.most_common()) for step, counts in by_step.items()}


def _one_is_right(task: SubTask) -> bool:
    kind = task.metric.kind if isinstance(task.metric, BuiltinMetric) else ""
    return bool(task.choices) or kind in _EQUALITY


def _holds_personal_data(row: TaskRow) -> str | None:
    kinds = [flag for flag in row.flags if flag in _PERSONAL]
    return f"holds {', '.join(kinds)}" if kinds else None


def _shared_fields(inputs: Sequence[Mapping[str, object]]) -> set[str]:
    """Fields whose value is the same everywhere, where others differ."""
    values: dict[str, set[str]] = {}
    for fields in inputs:
        for name, value in fields.items():
            values.setdefault(name, set()).add(canonical_json(value))
    same = {name for name, distinct in values.items() if len(distinct) == 1}
    return same if len(same) < len(values) else set()


def _repeats() -> Check:
    """Of equal rows the first stays."""
    sources: dict[tuple[str, str], str] = {}

    def check(row: TaskRow) -> str | None:
        key = (row.task, canonical_json([list(row.messages), " ".join(row.completion.split())]))
        if key in sources:
            return f"repeats {sources[key]}"
        sources[key] = row.source
        return None

    return check


def _near_repeats(near: float, text_of: _InputText) -> Check:
    """Of rows with nearly the same inputs the first one's group stays."""
    indices: dict[str, MinHashLSH] = {}
    reasons: dict[tuple[str, str], str | None] = {}

    def check(row: TaskRow) -> str | None:
        index = indices.setdefault(row.task, near_index(near))
        place = (row.task, row.group)
        if place not in reasons:
            signature = sketch(text_of(row.inputs))
            similar = index.query(signature)
            reasons[place] = f"nearly repeats the inputs of {sorted(similar)[0]}" if similar else None
            if not similar:
                index.insert(row.source, signature, check_duplication=False)
        return reasons[place]

    return check


def _too_long(row: TaskRow, count_tokens: CountTokens, most: int) -> str | None:
    tokens = sum(count_tokens(message["content"]) for message in row.messages) + count_tokens(row.completion)
    return f"{tokens} tokens, at most {most} may be" if tokens > most else None


def _leaks(sealed: Sequence[str], near: float | None, text_of: _InputText) -> Check:
    exact = set(sealed)
    index = near_index(near) if near is not None and sealed else None
    if index is not None:
        for position, text in enumerate(dict.fromkeys(sealed)):
            index.insert(position, sketch(text))

    def check(row: TaskRow) -> str | None:
        text = text_of(row.inputs)
        if text in exact:
            return "its inputs are those of a sealed row"
        if index is not None and index.query(sketch(text)):
            return "its inputs are nearly those of a sealed row"
        return None

    return check
