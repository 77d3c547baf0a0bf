"""`agenttts tune data`: sources → rows → checks → a dataset on disk with its card.

What an LLM wrote is in the sample bank, so that the same command asks nothing again. What then lies on disk
is in `taskdata`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agenttts.errors import UserError
from agenttts.proposers import AgentSettings
from agenttts.tasktune.chat import JsonChat, require_llm
from agenttts.tasktune.data.cleaning import Cleaned, clean, schema_problem
from agenttts.tasktune.data.dataset import TaskData, write_dataset
from agenttts.tasktune.data.judge import judge_rows
from agenttts.tasktune.data.rows import Dropped, Gathered, TaskRow
from agenttts.tasktune.data.sources import documents, table_rows, written_rows
from agenttts.tasktune.data.subtask import SubTask, SubTasks, load_subtasks
from agenttts.tasktune.data.traces import example_inputs, stage_task, trace_rows
from datastore.store import Store
from pipelines.dataset import load_examples
from pipelines.extras import library
from pipelines.specfile import restore_spec
from pipelines.strict import Strict
from pipelines.tables import Row, read_file, read_hub

Progress = Callable[[str], None]


class FileSource(Strict):
    """Rows that exist: a local file (JSONL, JSON, CSV, Parquet), or a split of a hub dataset."""

    kind: Literal["file"]
    task: str
    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    map: dict[str, str] = Field(default_factory=dict, description="field of the sub-task → column")
    limit: int | None = Field(default=None, gt=0, description="first so many rows")


class DocumentSource(Strict):
    """Text files from which an LLM writes pairs."""

    kind: Literal["documents"]
    task: str
    files: tuple[str, ...] = Field(min_length=1, description="paths or patterns such as docs/*.txt")
    per_passage: int = Field(default=3, gt=0)


class RunSource(Strict):
    """A search's own samples at one stage."""

    kind: Literal["run"]
    db: str
    run: str | None = Field(default=None, description="run id; the newest where not given")
    stage: str
    per_input: int = Field(default=4, gt=0)


Source = Annotated[FileSource | DocumentSource | RunSource, Field(discriminator="kind")]


class TestFile(Strict):
    """Rows to compare models on: they become the test split, and nothing like them may be learnt from."""

    task: str
    path: str
    map: dict[str, str] = Field(default_factory=dict)


class DataConfig(Strict):
    """What `agenttts tune data` reads. Paths start from the file's directory."""

    out: str = Field(description="directory of the dataset")
    subtasks: str | None = Field(default=None, description="file of sub-tasks; not needed for runs alone")
    sources: tuple[Source, ...] = Field(min_length=1)
    test: tuple[TestFile, ...] = Field(default=(), description="rows that no other split may resemble")
    eval_share: float = Field(default=0.2, ge=0, lt=1, description="of the inputs, for scoring while tuning")
    seed: int = 0
    near_duplicates: float | None = Field(default=0.85, gt=0, lt=1)
    tokenizer: str | None = Field(default=None, description="directory or hub name of the base model")
    max_tokens: int | None = Field(default=None, gt=0, description="of prompt and answer, by that tokenizer")
    judge: bool = Field(default=False, description="have the LLM judge every row")
    drop_personal: bool = False
    db: str = Field(default="agenttts.duckdb", description="store that keeps what the LLM wrote")


async def build(
    config: DataConfig, root: Path, *, llm: AgentSettings | None, progress: Progress = lambda _: None
) -> TaskData:
    """Make the dataset of a configuration. UserError for what a person must put right, an empty one too."""
    subtasks = load_subtasks(root / config.subtasks) if config.subtasks else None
    tasks = {task.name: task for task in (subtasks.subtasks if subtasks else ())}
    needs_llm = config.judge or any(isinstance(source, DocumentSource) for source in config.sources)
    settings = require_llm(llm, "documents and judge need") if needs_llm else None
    gathered: list[Gathered] = []
    sealed: list[Mapping[str, Any]] = []
    async with AsyncExitStack() as opened:
        chat = None
        if settings is not None:
            store = opened.enter_context(Store.open(root / config.db))
            chat = await opened.enter_async_context(JsonChat(settings, store))
        for source in config.sources:
            progress(_told(source))
            if isinstance(source, RunSource):
                found, task, secret = await _from_run(source, root)
                if task.name in tasks and tasks[task.name] != task:
                    raise UserError(f"sources: two sub-tasks are named {task.name}; rename one")
                tasks[task.name] = task
                sealed += secret
            elif isinstance(source, FileSource):
                task = _task(subtasks, source.task)
                found = table_rows(task, _table(source, root), source.map)
            else:
                assert chat is not None
                docs = documents(_files(source.files, root))
                task = _task(subtasks, source.task)
                found = await written_rows(task, docs, chat, per_passage=source.per_passage)
            gathered.append(found)
        test: list[TaskRow] = []
        for file in config.test:
            task = _task(subtasks, file.task)
            tasks[task.name] = task
            found = table_rows(task, read_file(root / file.path), file.map)
            kept, gone = _test_rows(task, found.rows, {row.id for row in test})
            test += kept
            gathered.append(Gathered(dropped=[*found.dropped, *gone]))
        sealed += [row.inputs for row in test]
        progress("checking rows")
        all_rows = [row for found in gathered for row in found.rows]
        used = {task: tasks[task] for task in dict.fromkeys(row.task for row in [*all_rows, *test])}
        cleaned = clean(
            all_rows,
            used,
            sealed=sealed,
            near=config.near_duplicates,
            count_tokens=_counter(config, root),
            max_tokens=config.max_tokens,
            drop_personal=config.drop_personal,
        )
        if config.judge:
            assert chat is not None
            progress(f"judging {len(cleaned.rows)} rows")
            await _judge(cleaned, used, chat)
    return write_dataset(
        root / config.out,
        gathered,
        cleaned,
        test,
        used,
        domain=subtasks.domain if subtasks else "traces",
        eval_share=config.eval_share,
        seed=config.seed,
        about={
            "functions_from": str((root / config.subtasks).resolve().parent) if config.subtasks else None,
            "config": config.model_dump(mode="json"),
            "llm": None if settings is None else settings.model,
        },
    )


def _test_rows(task: SubTask, rows: Sequence[TaskRow], have: set[str]) -> tuple[list[TaskRow], list[Dropped]]:
    """Test rows that are sound and new, and why the others are not."""
    kept: dict[str, TaskRow] = {}
    gone = []
    for row in rows:
        problem = schema_problem(task, row)
        if problem is None and (row.id in kept or row.id in have):
            problem = "repeats a test row"
        if problem is None:
            kept[row.id] = row
        else:
            gone.append(Dropped(step="test", reason=problem, source=row.source))
    return list(kept.values()), gone


async def _from_run(source: RunSource, root: Path) -> tuple[Gathered, SubTask, list[Mapping[str, Any]]]:
    """Rows of a run's stage, its sub-task, and the inputs of the sealed test split."""
    with Store.read(root / source.db) as store:
        run = store.run(source.run)
        spec = restore_spec(run.spec)
        stage = spec.stage(source.stage)
        found = await trace_rows(store, run.run_id, spec, stage, per_input=source.per_input)
    sealed: list[Mapping[str, Any]] = [
        example_inputs(spec, example) for example in load_examples(spec, "test")
    ]
    return found, stage_task(spec, stage), sealed


def _task(subtasks: SubTasks | None, name: str) -> SubTask:
    if subtasks is None:
        raise UserError(f"the sub-task {name!r} needs a file of sub-tasks; name it under subtasks")
    return subtasks.task(name)


def _table(source: FileSource, root: Path) -> Sequence[Row]:
    if (source.path is None) == (source.hub is None):
        raise UserError(f"sources: a file source of {source.task} has either path or hub; give exactly one")
    if source.path is not None:
        found: Sequence[Row] = read_file(root / source.path)
    else:
        assert source.hub is not None
        found = read_hub(source.hub, source.config, source.split)
    return found[: source.limit] if source.limit else found


def _files(patterns: Sequence[str], root: Path) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        absolute = Path(pattern)
        start, tail = (
            (Path(absolute.anchor), str(absolute.relative_to(absolute.anchor)))
            if absolute.is_absolute()
            else (root, pattern)
        )
        matches = sorted(path for path in start.glob(tail) if path.is_file())
        if not matches:
            raise UserError(f"sources: no file is {pattern!r}; paths start from {root}")
        found += matches
    return found


def _counter(config: DataConfig, root: Path) -> Callable[[str], int] | None:
    """Counts tokens as the base model does; None when no limit is asked for."""
    if config.max_tokens is None:
        return None
    if config.tokenizer is None:
        raise UserError("max_tokens needs the base model's tokenizer; name it under tokenizer")
    return token_counter(config.tokenizer, root)


def token_counter(name: str, root: Path) -> Callable[[str], int]:
    """Tokens of a text by a base model's tokenizer. MissingDependency without transformers."""
    transformers = library("transformers", "counting tokens")
    local = root / name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(local) if local.is_dir() else name)
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {name!r} can't be loaded: {' '.join(str(error).split())[:200]}") from None
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


async def _judge(cleaned: Cleaned, tasks: Mapping[str, SubTask], chat: JsonChat) -> None:
    verdicts: dict[str, str | None] = {}
    for name, task in tasks.items():
        verdicts |= await judge_rows(task, [row for row in cleaned.rows if row.task == name], chat)
    cleaned.step("judge", lambda row: verdicts[row.id])
    cleaned.rows = [replace(row, flags=(*row.flags, "judged")) for row in cleaned.rows]


def _told(source: FileSource | DocumentSource | RunSource) -> str:
    if isinstance(source, RunSource):
        return f"reading samples of stage {source.stage} in {source.db}"
    if isinstance(source, FileSource):
        return f"reading {source.path or source.hub} for {source.task}"
    return f"having pairs of {source.task} written from {', '.join(source.files)}"


def run_build(
    config: DataConfig, root: Path, *, llm: AgentSettings | None, progress: Progress = lambda _: None
) -> TaskData:
    """`build` for scripts and notebooks."""
    from agenttts.blocking import run_blocking

    return run_blocking(build(config, root, llm=llm, progress=progress))
