"""What a dataset is on disk. Where its rows come from is left to `build`.

The directory holds `examples/` (a DatasetDict of train, eval, test), `preferences/` (a Dataset, where there
are pairs), `subtasks.yaml`, `dropped.jsonl` (every row that went, with the reason), `card.json`, `README.md`.
It is made beside its place and moved there when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.tasktune.data.cleaning import Cleaned, clean_pairs, drop_counts, split_groups
from agenttts.tasktune.data.rows import Dropped, Gathered, PreferencePair, TaskRow
from agenttts.tasktune.data.subtask import SubTask, SubTasks, load_subtasks, subtasks_yaml
from agenttts.training.extras import no_progress_bars
from datastore.keys import canonical_json
from pipelines.extras import library

_FORMAT = 1
_ON_DISK = "a dataset on disk"


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A built dataset: its rows, its sub-tasks, its card."""

    path: Path
    tasks: Mapping[str, SubTask]
    train: Sequence[TaskRow]
    eval: Sequence[TaskRow]
    test: Sequence[TaskRow]
    pairs: Sequence[PreferencePair]
    card: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return str(self.card["digest"])


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
    about: Mapping[str, Any],
) -> TaskData:
    """Split, write, move into place. UserError when nothing is left, or the place holds something else."""
    dropped = [*(one for found in gathered for one in found.dropped), *cleaned.dropped]
    if not cleaned.rows:
        counts = drop_counts(dropped)
        why = "; ".join(
            f"{step}: {n} {reason}" for step, all_ in counts.items() for reason, n in all_.items()
        )
        raise UserError(f"no row is left for {path}: {why or 'the sources gave none'}")
    if path.exists() and not (path / "card.json").is_file() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path}: must be free, or a dataset of this command; choose another out")
    train, held = split_groups(cleaned.rows, eval_share, seed)
    pairs = clean_pairs([pair for found in gathered for pair in found.pairs], train)
    digest = dataset_digest(train, held, test, pairs)
    card = {
        "format": _FORMAT,
        "digest": digest,
        "domain": domain,
        "seed": seed,
        "steps": cleaned.counts,
        "dropped": drop_counts(dropped),
        "rows": {"train": len(train), "eval": len(held), "test": len(test), "preferences": len(pairs)},
        "tasks": {
            name: {
                "train": sum(row.task == name for row in train),
                "eval": sum(row.task == name for row in held),
                "test": sum(row.task == name for row in test),
                "inputs": len({row.group for row in cleaned.rows if row.task == name}),
            }
            for name in tasks
        },
        "flagged": {
            kind: sum(kind in row.flags for row in cleaned.rows)
            for kind in sorted({flag for row in cleaned.rows for flag in row.flags})
        },
        **about,
    }
    data = TaskData(path=path, tasks=tasks, train=train, eval=held, test=test, pairs=pairs, card=card)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, data, dropped, domain)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{path}: can't be written: {error.strerror or error}") from None
    return data


def load_dataset(path: Path | str) -> TaskData:
    """A dataset that `build` wrote. UserError when there is none."""
    path = Path(path)
    try:
        card = json.loads((path / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path}: must be a directory that `agenttts tune data` made, it has no card"
        ) from None
    datasets = library("datasets", _ON_DISK)
    splits = datasets.load_from_disk(str(path / "examples"))
    pairs = datasets.load_from_disk(str(path / "preferences")) if (path / "preferences").is_dir() else ()
    own = card.get("functions_from")
    named = load_subtasks(path / "subtasks.yaml", functions_from=Path(own) if own else None)
    tasks = {task.name: task for task in named.subtasks}
    return TaskData(
        path=path,
        tasks=tasks,
        train=[_restored(record) for record in splits["train"]],
        eval=[_restored(record) for record in splits.get("eval", ())],
        test=[_restored(record) for record in splits.get("test", ())],
        pairs=[PreferencePair(**{**pair, "messages": tuple(pair["messages"])}) for pair in pairs],
        card=card,
    )


def dataset_digest(*parts: Sequence[TaskRow] | Sequence[PreferencePair]) -> str:
    """SHA-256, in hex, of all rows and pairs in order."""
    records = [[one.to_record() for one in part] for part in parts]
    return hashlib.sha256(canonical_json(records).encode()).hexdigest()


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# {card['domain']}", "", f"Digest `{card['digest'][:16]}`, seed {card['seed']}.", ""]
    lines += ["| sub-task | inputs | train | eval | test |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {t['inputs']} | {t['train']} | {t['eval']} | {t['test']} |"
        for name, t in card["tasks"].items()
    ]
    lines += ["", "| step | rows left |", "| --- | ---: |"]
    lines += [f"| {step} | {count} |" for step, count in card["steps"].items()]
    lines += ["", "| dropped at | why | rows |", "| --- | --- | ---: |"]
    lines += [
        f"| {step} | {reason} | {count} |"
        for step, reasons in card["dropped"].items()
        for reason, count in reasons.items()
    ]
    if card["flagged"]:
        told = ", ".join(f"{kind} in {count}" for kind, count in card["flagged"].items())
        lines += ["", f"Rows that seem to hold personal data: {told}."]
    return "\n".join(lines) + "\n"


def _write(partial: Path, data: TaskData, dropped: Sequence[Dropped], domain: str) -> None:
    datasets = library("datasets", _ON_DISK)
    partial.mkdir(parents=True)
    splits = {"train": data.train, "eval": data.eval, "test": data.test}
    made = {
        name: _table_of(datasets, [row.to_record() for row in rows]) for name, rows in splits.items() if rows
    }
    with no_progress_bars(datasets):
        datasets.DatasetDict(made).save_to_disk(str(partial / "examples"))
        if data.pairs:
            _table_of(datasets, [p.to_record() for p in data.pairs]).save_to_disk(
                str(partial / "preferences")
            )
    named = SubTasks(domain=domain, subtasks=tuple(data.tasks.values()))
    (partial / "subtasks.yaml").write_text(subtasks_yaml(named), encoding="utf-8")
    told = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in dropped)
    (partial / "dropped.jsonl").write_text(told, encoding="utf-8")
    (partial / "README.md").write_text(card_text(data.card), encoding="utf-8")
    (partial / "card.json").write_text(json.dumps(data.card, indent=2, ensure_ascii=False), encoding="utf-8")


def _table_of(datasets: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    return datasets.Dataset.from_list([dict(record) for record in records])


def _restored(record: Mapping[str, Any]) -> TaskRow:
    fields = json.loads(record["fields"])
    return TaskRow(
        task=record["task"],
        messages=tuple(dict(message) for message in record["messages"]),
        completion=record["completion"],
        inputs={},
        fields=fields,
        group=record["group"],
        source=record["source"],
        weight=record["weight"],
        flags=tuple(record["flags"]),
    )
