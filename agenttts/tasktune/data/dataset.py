"""A dataset on disk. Its rows are gathered by `build`.

The directory holds `examples/` (a DatasetDict of train, eval, test), `preferences/` (a Dataset, where there
are pairs), `subtasks.yaml`, `dropped.jsonl` (every row that was dropped, with the reason), `flagged.jsonl`
(rows with something that a person should look at), `card.json` and `README.md`. It is written beside its
final path and moved there when it is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agenttts.errors import UserError
from agenttts.tasktune.data.cleaning import Cleaned, clean_pairs, drop_counts, split_groups
from agenttts.tasktune.data.cost import LlmCost, SampleCost
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import SubTask, SubTasks, load_subtasks, subtasks_yaml
from agenttts.training.extras import no_progress_bars
from datastore.keys import canonical_json
from pipelines.extras import library
from pipelines.files import whole
from pipelines.jsonvalues import JSON

if TYPE_CHECKING:
    from datasets import Dataset

_FORMAT = 1
_ON_DISK = "a dataset on disk"


class RowCounts(BaseModel):
    """The number of rows of a sub-task in each split.

    Attributes:
        train: Rows to learn from.
        eval: Rows to score on while tuning.
        test: Rows to compare models on.
        inputs: Distinct inputs in training and evaluation.
    """

    model_config = ConfigDict(frozen=True)

    train: int
    eval: int
    test: int
    inputs: int


class DatasetCard(BaseModel):
    """How a dataset was made: the content of `card.json`. Further keys of the file are preserved.

    Attributes:
        format: The version of the layout on disk.
        digest: SHA-256, in hex, of all rows and pairs.
        domain: What the field is.
        seed: The seed of the split.
        steps: The number of rows that were left after each check, in order.
        dropped: The number of rows that were dropped at each check, by reason.
        rows: The number of rows in each split, and of preference pairs.
        tasks: The number of rows of each sub-task.
        flagged: The number of rows with each flag.
        functions_from: The directory of the user's own modules; None where there are none.
        cost: What the samples cost that `agenttts improve` made the rows of; None of other datasets.
        llm_cost: What an LLM was asked to write and judge rows; None where none was.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int
    digest: str
    domain: str
    seed: int
    steps: dict[str, int]
    dropped: dict[str, dict[str, int]]
    rows: dict[str, int]
    tasks: dict[str, RowCounts]
    flagged: dict[str, int]
    functions_from: str | None = None
    cost: SampleCost | None = None
    llm_cost: LlmCost | None = None

    def to_json_dict(self) -> dict[str, JSON]:
        """The keys that were set, JSON-able."""
        return self.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A dataset.

    Attributes:
        path: Its directory.
        tasks: Its sub-tasks by name.
        train: The rows to learn from.
        eval: The rows to score on while tuning.
        test: The rows to compare models on.
        pairs: Pairs of a right and a wrong answer to prompts of the rows to learn from.
        card: How it was made.
    """

    path: Path
    tasks: Mapping[str, SubTask]
    train: Sequence[TaskRow]
    eval: Sequence[TaskRow]
    test: Sequence[TaskRow]
    pairs: Sequence[PreferencePair]
    card: DatasetCard

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all rows and pairs."""
        return self.card.digest


def write_dataset(
    path: Path,
    gathered: Sequence[Gathered],
    cleaned: Cleaned,
    test: Sequence[TaskRow],
    tasks: Mapping[str, SubTask],
    *,
    domain: str,
    eval_share: float,
    seed: int,
    about: Mapping[str, JSON],
    cost: SampleCost | None = None,
    llm_cost: LlmCost | None = None,
) -> TaskData:
    """Split rows, and write them as a dataset. An older dataset at the same place is replaced.

    Args:
        path: The directory.
        gathered: What the sources gave, for its pairs and for what was dropped.
        cleaned: The rows that passed the checks.
        test: The rows to compare models on.
        tasks: The sub-tasks by name.
        domain: What the field is.
        eval_share: The share of the inputs to score on while tuning.
        seed: Decides the split.
        about: Further keys of the card.
        cost: What the samples cost that the rows were made of; None where that is not known.
        llm_cost: What an LLM was asked to write and judge rows; None where none was.

    Raises:
        UserError: No row is left, the place is taken by something else, or it can't be written.
    """
    dropped = [*(one for source in gathered for one in source.dropped), *cleaned.dropped]
    if not cleaned.rows:
        reasons = "; ".join(
            f"{step}: {n} {reason}"
            for step, counts in drop_counts(dropped).items()
            for reason, n in counts.items()
        )
        raise UserError(f"no row is left for {path}: {reasons or 'the sources gave none'}")
    if path.exists() and not (path / "card.json").is_file() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path}: must be free, or a dataset of this command; choose another out")
    train, held_out = split_groups(cleaned.rows, eval_share, seed)
    pairs = clean_pairs([pair for source in gathered for pair in source.pairs], train)
    splits = {"train": train, "eval": held_out, "test": list(test)}
    flags = sorted({flag for row in cleaned.rows for flag in row.flags})
    card = DatasetCard(
        format=_FORMAT,
        digest=_digest(train, held_out, test, pairs),
        domain=domain,
        seed=seed,
        steps=cleaned.counts,
        dropped=drop_counts(dropped),
        rows={**{name: len(rows) for name, rows in splits.items()}, "preferences": len(pairs)},
        tasks={
            name: RowCounts(
                **{split: sum(row.task == name for row in rows) for split, rows in splits.items()},
                inputs=len({row.group for row in cleaned.rows if row.task == name}),
            )
            for name in tasks
        },
        flagged={flag: sum(flag in row.flags for row in cleaned.rows) for flag in flags},
        **({} if cost is None else {"cost": cost}),  # type: ignore[arg-type]
        **({} if llm_cost is None else {"llm_cost": llm_cost}),  # type: ignore[arg-type]
        **about,  # type: ignore[arg-type]
    )
    data = TaskData(path=path, tasks=tasks, train=train, eval=held_out, test=test, pairs=pairs, card=card)
    try:
        with whole(path, replace_directory=True) as beside:
            _write(beside, data, dropped)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror or error}") from None
    return data


def load_dataset(path: Path | str) -> TaskData:
    """Read a dataset that `agenttts tune data` has written.

    Args:
        path: Its directory.

    Raises:
        UserError: There is none.
        MissingDependency: The extra `tune` is not installed.
    """
    path = Path(path)
    try:
        card = DatasetCard.model_validate_json((path / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        raise UserError(
            f"{path}: must be a directory that `agenttts tune data` made, it has no card"
        ) from None
    datasets = library("datasets", _ON_DISK)
    splits = datasets.load_from_disk(str(path / "examples"))
    pairs = datasets.load_from_disk(str(path / "preferences")) if (path / "preferences").is_dir() else ()
    functions_from = card.functions_from
    named = load_subtasks(
        path / "subtasks.yaml", functions_from=Path(functions_from) if functions_from else None
    )
    return TaskData(
        path=path,
        tasks={task.name: task for task in named.subtasks},
        train=[_row(record) for record in splits["train"]],
        eval=[_row(record) for record in splits.get("eval", ())],
        test=[_row(record) for record in splits.get("test", ())],
        pairs=[PreferencePair(**{**pair, "messages": tuple(pair["messages"])}) for pair in pairs],
        card=card,
    )


def card_text(card: DatasetCard) -> str:
    """The card as Markdown."""
    lines = [f"# {card.domain}", "", f"Digest `{card.digest[:16]}`, seed {card.seed}.", ""]
    lines += ["| sub-task | inputs | train | eval | test |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {name} | {t.inputs} | {t.train} | {t.eval} | {t.test} |" for name, t in card.tasks.items()]
    lines += ["", "| step | rows left |", "| --- | ---: |"]
    lines += [f"| {step} | {count} |" for step, count in card.steps.items()]
    lines += ["", "| dropped at | why | rows |", "| --- | --- | ---: |"]
    lines += [
        f"| {step} | {reason} | {count} |"
        for step, reasons in card.dropped.items()
        for reason, count in reasons.items()
    ]
    if card.flagged:
        flags = ", ".join(f"{flag} in {count}" for flag, count in card.flagged.items())
        lines += ["", f"Rows flagged, one by one in flagged.jsonl: {flags}."]
    lines += [line for cost in (card.cost, card.llm_cost) if cost for line in ("", f"Made of {cost.text}.")]
    return "\n".join(lines) + "\n"


def _digest(*parts: Sequence[TaskRow] | Sequence[PreferencePair]) -> str:
    """SHA-256, in hex, of all rows and pairs in order."""
    records = [[one.to_record() for one in part] for part in parts]
    return hashlib.sha256(canonical_json(records).encode()).hexdigest()


def _write(folder: Path, data: TaskData, dropped: Sequence[Dropped]) -> None:
    datasets = library("datasets", _ON_DISK)
    folder.mkdir(parents=True)

    def table(rows: Sequence[TaskRow] | Sequence[PreferencePair]) -> Dataset:
        return datasets.Dataset.from_list([row.to_record() for row in rows])

    splits = {"train": data.train, "eval": data.eval, "test": data.test}
    with no_progress_bars(datasets):
        tables = {name: table(rows) for name, rows in splits.items() if rows}
        datasets.DatasetDict(tables).save_to_disk(str(folder / "examples"))
        if data.pairs:
            table(data.pairs).save_to_disk(str(folder / "preferences"))
    card = data.card
    named = SubTasks(domain=card.domain, subtasks=tuple(data.tasks.values()))
    lines = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in dropped)
    flagged = "".join(
        json.dumps(
            {"flags": row.flags, "source": row.source, "completion": row.completion}, ensure_ascii=False
        )
        + "\n"
        for row in (*data.train, *data.eval)
        if row.flags
    )
    for name, text in (
        ("subtasks.yaml", subtasks_yaml(named)),
        ("dropped.jsonl", lines),
        ("flagged.jsonl", flagged),
        ("README.md", card_text(card)),
        ("card.json", json.dumps(card.to_json_dict(), indent=2, ensure_ascii=False)),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def _row(record: Mapping[str, Any]) -> TaskRow:
    return TaskRow(
        task=record["task"],
        messages=tuple(dict(message) for message in record["messages"]),
        completion=record["completion"],
        inputs={},
        fields=json.loads(record["fields"]),
        group=record["group"],
        source=record["source"],
        weight=record["weight"],
        flags=tuple(record["flags"]),
    )
