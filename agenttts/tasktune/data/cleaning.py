"""From gathered rows to a dataset: what is wrong with a row is found, and every row that goes has its reason.

Each step takes rows and gives rows; what it drops is noted under its name. The order is that of `clean`.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import Dropped, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import SubTask
from datastore.keys import canonical_json
from pipelines import metrics
from pipelines.dataset import seeded_order
from pipelines.errors import CustomCodeFailed, DatasetError
from pipelines.examples import Example
from pipelines.extras import library
from pipelines.parsers import Parsed, parse

CountTokens = Callable[[str], int]
_SHINGLE = 5  # characters, so that texts without spaces have them too
_PERMUTATIONS = 128
_SEED = 1
_NEAR_DUPLICATES = "finding near duplicates"
_LETTERS = 40  # a shorter text does not tell its language
_SURE = 0.95
_COMMON = (
    "en",
    "zh",
    "es",
    "fr",
    "de",
    "it",
    "pt",
    "nl",
    "ru",
    "uk",
    "ar",
    "he",
    "hi",
    "ja",
    "ko",
    "vi",
    "th",
    "tr",
)
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
    """What is left, and what each step did: `counts` is rows left after it, by its name, in order."""

    rows: list[TaskRow]
    dropped: list[Dropped] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, judge: Callable[[TaskRow], str | None]) -> None:
        """Drop the rows for which `judge` has a reason."""
        kept = []
        for row in self.rows:
            reason = judge(row)
            if reason is None:
                kept.append(row)
            else:
                self.dropped.append(Dropped(step=name, reason=reason, source=row.source))
        self.rows = kept
        self.counts[name] = len(kept)


def clean(
    rows: Sequence[TaskRow],
    tasks: dict[str, SubTask],
    *,
    sealed: Iterable[Mapping[str, Any]] = (),
    near: float | None = 0.85,
    count_tokens: CountTokens | None = None,
    max_tokens: int | None = None,
    drop_personal: bool = False,
) -> Cleaned:
    """Schema, language, leaks, exact and near duplicates, length, personal data.

    sealed: inputs that no row may repeat, exactly or nearly; what all rows and sealed inputs have in common,
    such as a list of tools, does not make them alike. near: the Jaccard
    similarity of character 5-grams from which inputs count as the same (MinHash, 128 permutations); None: no
    such check. max_tokens: of prompt and answer together, by `count_tokens`.
    """
    found = Cleaned(list(rows), counts={"gathered": len(rows)})
    kept_apart = list(sealed)
    shared = _shared_fields([*(row.inputs for row in rows), *kept_apart])

    def told(inputs: Mapping[str, Any]) -> str:
        return input_text({name: value for name, value in inputs.items() if name not in shared})

    found.step("schema", lambda row: schema_problem(tasks[row.task], row))
    if any(task.languages for task in tasks.values()):
        identify = _identifier()
        found.step("language", lambda row: _language_problem(tasks[row.task], row, identify))
    found.step("leak", _leaks([told(inputs) for inputs in kept_apart], near, told))
    seen: dict[tuple[str, str], str] = {}
    found.step("duplicate", lambda row: _repeats(row, seen))
    if near is not None:
        found.step("near-duplicate", _near_repeats(near, told))
    if count_tokens is not None and max_tokens is not None:
        found.step("length", lambda row: _too_long(row, count_tokens, max_tokens))
    found.rows = [replace(row, flags=personal_data(row)) for row in found.rows]
    if drop_personal:
        found.step("personal", lambda row: f"holds {', '.join(row.flags)}" if row.flags else None)
    return found


def input_text(inputs: object) -> str:
    """What rows are compared by: their inputs as one text, case and spacing aside."""
    return " ".join(unicodedata.normalize("NFKC", canonical_json(inputs)).casefold().split())


def schema_problem(task: SubTask, row: TaskRow) -> str | None:
    """Why a row's answer is none: it does not parse, or its own metric does not count it as right."""
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
    """Kinds of personal data that the row seems to hold, by pattern; names of people are not looked for."""
    text = " ".join([*(message["content"] for message in row.messages), row.completion])
    return tuple(kind for kind, pattern in _PERSONAL.items() if pattern.search(text))


def near_index(near: float) -> Any:
    """An empty MinHash index. MissingDependency without datasketch."""
    return library("datasketch", _NEAR_DUPLICATES).MinHashLSH(threshold=near, num_perm=_PERMUTATIONS)


def sketch(text: str) -> Any:
    """The MinHash of a text's character 5-grams."""
    shingles = {text[i : i + _SHINGLE].encode() for i in range(max(1, len(text) - _SHINGLE + 1))}
    made = library("datasketch", _NEAR_DUPLICATES).MinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    made.update_batch(sorted(shingles))
    return made


def clean_pairs(pairs: Sequence[PreferencePair], kept: Sequence[TaskRow]) -> list[PreferencePair]:
    """Pairs whose prompt is among the kept rows'."""
    prompts = {canonical_json(list(row.messages)) for row in kept}
    return [pair for pair in pairs if canonical_json(list(pair.messages)) in prompts]


def split_groups(
    rows: Sequence[TaskRow], eval_share: float, seed: int
) -> tuple[list[TaskRow], list[TaskRow]]:
    """Rows for training and for evaluation; a group is on one side, which side the seed decides.

    A task with two groups has one at least on each side where eval_share is above 0, one with a single group
    has it in training.
    """

    def order(groups: Iterable[str]) -> list[str]:
        return seeded_order(set(groups), str, seed)

    everyone = order(row.group for row in rows)
    held = set(everyone[: round(eval_share * len(everyone))])
    if eval_share > 0:
        by_task: dict[str, list[str]] = {}
        for row in rows:
            by_task.setdefault(row.task, []).append(row.group)
        for groups in map(order, by_task.values()):
            if len(groups) > 1 and not held.intersection(groups):
                held.add(groups[0])
        for groups in map(order, by_task.values()):
            if held.issuperset(groups):
                held.discard(groups[-1])
    return [row for row in rows if row.group not in held], [row for row in rows if row.group in held]


def evenly(rows: Sequence[TaskRow], count: int) -> list[TaskRow]:
    """At most so many rows, of every task as many, in their order."""
    by_task: dict[str, list[TaskRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_task.values()))
    return list(itertools.islice((row for row in turns if row is not None), count))


def drop_counts(dropped: Iterable[Dropped]) -> dict[str, dict[str, int]]:
    """How many rows went at each step, by reason; figures in reasons made one."""
    found: dict[str, Counter[str]] = {}
    for one in dropped:
        reason = re.sub(r"\d+(\.\d+)?", "N", one.reason.split(": ")[0].split(", got")[0])
        found.setdefault(one.step, Counter())[reason] += 1
    return {step: dict(counts.most_common()) for step, counts in found.items()}


Told = Callable[[Mapping[str, Any]], str]


def _shared_fields(inputs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Fields whose value is the same everywhere, where others differ."""
    values: dict[str, set[str]] = {}
    for one in inputs:
        for name, value in one.items():
            values.setdefault(name, set()).add(canonical_json(value))
    same = {name for name, found in values.items() if len(found) == 1}
    return same if len(same) < len(values) else set()


def _repeats(row: TaskRow, seen: dict[tuple[str, str], str]) -> str | None:
    key = (row.task, canonical_json([list(row.messages), " ".join(row.completion.split())]))
    if key in seen:
        return f"repeats {seen[key]}"
    seen[key] = row.source
    return None


def _near_repeats(near: float, told: Told) -> Callable[[TaskRow], str | None]:
    """Of rows with nearly the same inputs the first one's group stays."""
    indices: dict[str, Any] = {}
    groups: dict[str, str] = {}

    def judge(row: TaskRow) -> str | None:
        index = indices.setdefault(row.task, near_index(near))
        place = f"{row.task}|{row.group}"
        if place in groups:
            return groups[place] or None
        made = sketch(told(row.inputs))
        like = index.query(made)
        groups[place] = f"nearly repeats the inputs of {sorted(like)[0]}" if like else ""
        if not like:
            index.insert(row.source, made, check_duplication=False)
        return groups[place] or None

    return judge


def _too_long(row: TaskRow, count_tokens: CountTokens, most: int) -> str | None:
    tokens = sum(count_tokens(message["content"]) for message in row.messages) + count_tokens(row.completion)
    return f"{tokens} tokens, at most {most} may be" if tokens > most else None


def _leaks(sealed: Sequence[str], near: float | None, told: Told) -> Callable[[TaskRow], str | None]:
    exact = set(sealed)
    index = near_index(near) if near is not None and sealed else None
    for position, text in enumerate(dict.fromkeys(sealed)):
        if index is not None:
            index.insert(position, sketch(text))

    def judge(row: TaskRow) -> str | None:
        text = told(row.inputs)
        if text in exact:
            return "its inputs are those of a sealed row"
        if index is not None and index.query(sketch(text)):
            return "its inputs are nearly those of a sealed row"
        return None

    return judge


def _language_problem(task: SubTask, row: TaskRow, identify: Any) -> str | None:
    if not task.languages:
        return None
    text = " ".join([*(v for v in row.inputs.values() if isinstance(v, str)), row.completion])
    scripts = _script(text)
    if scripts == "cjk" and not {"zh", "ja", "ko"} & set(task.languages):
        return f"its script is not that of {', '.join(task.languages)}"
    letters = sum(char.isalpha() for char in text)
    if scripts != "cjk" and set(task.languages) <= {"zh", "ja", "ko"} and letters:
        return f"its script is not that of {', '.join(task.languages)}"
    if letters < _LETTERS or scripts == "cjk":
        return None
    language, sure = identify(text, task.languages)
    if language not in task.languages and sure >= _SURE:
        return f"its language is {language}, not {' or '.join(task.languages)}"
    return None


def _script(text: str) -> str:
    """`cjk` where at least a third of the letters are Chinese, Japanese or Korean, else `other`."""
    letters = [char for char in text if char.isalpha()]
    asian = sum(
        "CJK" in (name := unicodedata.name(c, ""))
        or "HIRAGANA" in name
        or "KATAKANA" in name
        or "HANGUL" in name
        for c in letters
    )
    return "cjk" if letters and asian * 3 >= len(letters) else "other"


def _identifier() -> Callable[[str, Sequence[str]], tuple[str, float]]:
    langid = library("py3langid.langid", "checking languages")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def identify(text: str, wanted: Sequence[str]) -> tuple[str, float]:
        try:
            identifier.set_languages(sorted({*wanted, *_COMMON}))
        except ValueError as error:
            raise UserError(
                f"languages are ISO 639-1 codes such as en, got {', '.join(wanted)}: {error}"
            ) from None
        language, sure = identifier.classify(text)
        return str(language), float(sure)

    return identify
