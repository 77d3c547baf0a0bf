"""`agenttts tune data`: sources → rows → checks → a dataset on disk with its card.

The answers of an LLM are in the sample bank, so that the same command asks nothing again. What then is on
disk is described in `dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.llm import AgentSettings, JsonChat, require_llm
from agenttts.tasktune.data.chats import ChatFormat, ChatNames, chat_rows
from agenttts.tasktune.data.cleaning import Cleaned, CountTokens, clean, schema_problem
from agenttts.tasktune.data.cost import LlmCost
from agenttts.tasktune.data.dataset import TaskData, write_dataset
from agenttts.tasktune.data.judge import judge_rows
from agenttts.tasktune.data.rows import Dropped, Gathered, TaskRow
from agenttts.tasktune.data.sources import table_rows
from agenttts.tasktune.data.subtask import OUTPUT, SubTask, SubTasks, load_subtasks
from agenttts.tasktune.data.traces import example_inputs, stage_task, trace_rows
from agenttts.tasktune.data.writing import documents, written_rows
from agenttts.training.checkpoints import one_line
from datastore.store import Store
from pipelines.dataset.rows import Row, read_file, read_hub
from pipelines.dataset.splits import load_examples
from pipelines.extras import library
from pipelines.spec.files import restore_spec
from pipelines.spec.strict import Strict

_REJECTED = "rejected"  # the field of a wrong answer to a chat

OnStatus: TypeAlias = Callable[[str], None]
"""Is called with what is being done."""


class _Table(Strict):
    """How the rows of a table become those of a sub-task.

    Attributes:
        task: The sub-task of the rows.
        format: `table` has a column for each input and one for the output. The others are for a sub-task
            whose only input is a chat: `messages`, `sharegpt` (`conversations`), `alpaca` (`instruction`,
            `input`, `output`) and `preferences` (`chosen`, `rejected`, and `prompt` where they are no chats).
        map: The column of a field of the sub-task or format, where its name differs.
        strip: Remove white space around outputs.
    """

    task: str
    format: Literal["table"] | ChatFormat = "table"
    map: dict[str, str] = Field(default_factory=dict, description="field of the sub-task or format → column")
    strip: bool = Field(default=True, description="remove white space around outputs")


class FileSource(_Table):
    """Rows that exist: a local file (JSONL, JSON, CSV, Parquet), or a split of a hub dataset.

    Attributes:
        kind: Always `file`.
        path: The file; None where the rows come from the hub.
        hub: The name of the hub dataset; None where the rows come from a file.
        config: The configuration of the hub dataset.
        split: The split of the hub dataset.
        rejected: The column of a wrong answer, for preference optimisation; of the format `table`.
        weight: The column that says how often an epoch shows a row, a whole number from 1.
        limit: The first so many rows are read; None: all.
    """

    kind: Literal["file"]
    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    rejected: str | None = Field(default=None, description="column of a wrong answer, for dpo")
    weight: str | None = Field(default=None, description="column: how often an epoch shows the row")
    limit: int | None = Field(default=None, gt=0, description="first so many rows")

    @property
    def status(self) -> str:
        """What is being done when the source is read."""
        return f"reading {self.path or self.hub} for {self.task}"


class DocumentSource(Strict):
    """Text files from which an LLM writes pairs.

    Attributes:
        kind: Always `documents`.
        task: The sub-task of the pairs.
        files: Paths, or patterns such as `docs/*.txt`.
        per_passage: How many pairs are asked for from each passage.
        revise: Have the LLM criticise each pair, and rewrite those that are not right: one question more for
            each pair, and one for each that is rewritten.
    """

    kind: Literal["documents"]
    task: str
    files: tuple[str, ...] = Field(min_length=1, description="paths or patterns such as docs/*.txt")
    per_passage: int = Field(default=3, gt=0)
    revise: bool = Field(default=False, description="have the LLM criticise each pair and rewrite the wrong")

    @property
    def status(self) -> str:
        """What is being done when the source is read."""
        return f"having pairs of {self.task} written from {', '.join(self.files)}"


class RunSource(Strict):
    """The samples that a search recorded at one stage.

    Attributes:
        kind: Always `run`.
        db: The store of the run.
        run: The id of the run; None: the newest.
        stage: The name of the stage.
        per_input: The most distinct right answers for each example.
    """

    kind: Literal["run"]
    db: str
    run: str | None = Field(default=None, description="run id; the newest where not given")
    stage: str
    per_input: int = Field(default=4, gt=0)

    @property
    def status(self) -> str:
        """What is being done when the source is read."""
        return f"reading samples of stage {self.stage} in {self.db}"


Source = Annotated[FileSource | DocumentSource | RunSource, Field(discriminator="kind")]


class TestFile(_Table):
    """Rows to compare models on: they become the test split, and no row to learn from may be like them.

    Attributes:
        path: The file.
    """

    path: str


class DataConfig(Strict):
    """What `agenttts tune data` reads. Paths start from the file's directory.

    Attributes:
        out: The directory of the dataset.
        subtasks: The file of sub-tasks. None where all sources are runs.
        sources: Where rows come from.
        test: Files of test rows.
        eval_share: The share of the inputs on which is scored while tuning.
        seed: Decides the split.
        near_duplicates: The similarity from which inputs count as the same; None: only equal ones do.
        tokenizer: The directory or hub name of the base model, for `max_tokens`.
        max_tokens: The most tokens of prompt and answer; None: there is no limit.
        judge: Have the LLM judge every row. Experimental: it has not been measured what that is worth.
        drop_personal: Drop rows that seem to hold personal data, instead of flagging them.
        drop_contradicted: Drop rows whose chat occurs with another answer, instead of flagging them.
        db: The store that keeps the answers of the LLM.
    """

    out: str = Field(description="directory of the dataset")
    subtasks: str | None = Field(default=None, description="file of sub-tasks; not needed for runs alone")
    sources: tuple[Source, ...] = Field(min_length=1)
    test: tuple[TestFile, ...] = Field(default=(), description="rows that no other split may resemble")
    eval_share: float = Field(default=0.2, ge=0, lt=1, description="of the inputs, for scoring while tuning")
    seed: int = 0
    near_duplicates: float | None = Field(default=0.85, gt=0, lt=1)
    tokenizer: str | None = Field(default=None, description="directory or hub name of the base model")
    max_tokens: int | None = Field(default=None, gt=0, description="of prompt and answer, by that tokenizer")
    judge: bool = Field(default=False, description="experimental: have the LLM judge every row")
    drop_personal: bool = False
    drop_contradicted: bool = False
    db: str = Field(default="agenttts.duckdb", description="store that keeps what the LLM wrote")


async def build(
    config: DataConfig, root: Path, *, llm: AgentSettings | None, on_status: OnStatus = lambda _: None
) -> TaskData:
    """Make the dataset of a configuration.

    Args:
        config: The configuration.
        root: The directory from which its paths start.
        llm: The LLM that writes pairs and judges rows; None where none is configured.
        on_status: Is called with what is being done.

    Raises:
        UserError: There is something that a person must put right, such as a dataset without rows.
        MissingDependency: A library of the extra `tune` is not installed.
    """
    subtasks = load_subtasks(root / config.subtasks) if config.subtasks else None
    needs_llm = config.judge or any(isinstance(source, DocumentSource) for source in config.sources)
    settings = require_llm(llm, "documents and judge need") if needs_llm else None
    material = _Material(root, subtasks)
    async with AsyncExitStack() as stack:
        chat = None
        if settings is not None:
            store = stack.enter_context(Store.open(root / config.db))
            chat = await stack.enter_async_context(JsonChat(settings, store))
        for source in config.sources:
            on_status(source.status)
            await material.add(source, chat)
        for file in config.test:
            material.add_test(file)
        on_status("checking rows")
        rows, used = material.rows, material.used_tasks()
        cleaned = clean(
            rows,
            used,
            sealed=[*material.sealed, *(row.inputs for row in material.test)],
            near=config.near_duplicates,
            count_tokens=_counter(config, root),
            max_tokens=config.max_tokens,
            drop_personal=config.drop_personal,
            drop_contradicted=config.drop_contradicted,
        )
        if config.judge:
            assert chat is not None
            on_status(f"judging {len(cleaned.rows)} rows")
            await _judge(cleaned, used, chat)
    return write_dataset(
        root / config.out,
        material.gathered,
        cleaned,
        material.test,
        used,
        domain=subtasks.domain if subtasks else "traces",
        eval_share=config.eval_share,
        seed=config.seed,
        about={
            "functions_from": str((root / config.subtasks).resolve().parent) if config.subtasks else None,
            "config": config.model_dump(mode="json"),
            "llm": None if settings is None else settings.model,
        },
        llm_cost=None if chat is None else LlmCost(questions=chat.n_questions, tokens=chat.n_tokens),
    )


def run_build(
    config: DataConfig, root: Path, *, llm: AgentSettings | None, on_status: OnStatus = lambda _: None
) -> TaskData:
    """`build` from code that is no coroutine; the arguments are the same."""
    return run_blocking(build(config, root, llm=llm, on_status=on_status))


def token_counter(name: str, root: Path) -> CountTokens:
    """A function that counts the tokens of a text.

    Args:
        name: The directory or hub name of the model whose tokenizer counts.
        root: The directory from which `name` starts where it is a directory.

    Raises:
        UserError: There is no such tokenizer.
        MissingDependency: transformers is not installed.
    """
    transformers = library("transformers", "counting tokens")
    local = root / name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(local) if local.is_dir() else name)
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {name!r} can't be loaded: {one_line(error)}") from None
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


@dataclass
class _Material:
    """What the sources gave.

    Attributes:
        root: The directory from which paths start.
        subtasks: The file of sub-tasks.
        gathered: What each source and test file gave.
        sealed: Inputs of the test splits of runs.
        test: The test rows.
        of_runs: The sub-tasks of the runs' stages.
    """

    root: Path
    subtasks: SubTasks | None
    gathered: list[Gathered] = field(default_factory=list)
    sealed: list[Mapping[str, object]] = field(default_factory=list)
    test: list[TaskRow] = field(default_factory=list)
    of_runs: dict[str, SubTask] = field(default_factory=dict)

    @property
    def rows(self) -> list[TaskRow]:
        return [row for source in self.gathered for row in source.rows]

    def used_tasks(self) -> dict[str, SubTask]:
        """The sub-tasks that have rows."""
        tasks = {task.name: task for task in (self.subtasks.subtasks if self.subtasks else ())} | self.of_runs
        return {name: tasks[name] for name in dict.fromkeys(row.task for row in [*self.rows, *self.test])}

    async def add(self, source: FileSource | DocumentSource | RunSource, chat: JsonChat | None) -> None:
        if isinstance(source, RunSource):
            await self._add_run(source)
        elif isinstance(source, FileSource):
            task = self._task(source.task)
            table = _table(source, self.root)
            self.gathered.append(
                _gathered(task, source, table, rejected=source.rejected, weight=source.weight)
            )
        else:
            assert chat is not None
            docs = documents(_files(source.files, self.root))
            task = self._task(source.task)
            self.gathered.append(
                await written_rows(task, docs, chat, per_passage=source.per_passage, revise=source.revise)
            )

    def add_test(self, file: TestFile) -> None:
        """Test rows that are sound and new; the others are dropped."""
        task = self._task(file.task)
        read = _gathered(task, file, read_file(self.root / file.path))
        dropped = list(read.dropped)
        ids = {row.id for row in self.test}
        for row in read.rows:
            problem = schema_problem(task, row) or ("repeats a test row" if row.id in ids else None)
            if problem is None:
                ids.add(row.id)
                self.test.append(row)
            else:
                dropped.append(Dropped(step="test", reason=problem, source=row.source))
        self.gathered.append(Gathered(dropped=dropped))

    async def _add_run(self, source: RunSource) -> None:
        with Store.read(self.root / source.db) as store:
            run = store.run(source.run)
            spec = restore_spec(run.spec)
            stage = spec.stage(source.stage)
            rows = await trace_rows(store, run.run_id, spec, stage, per_input=source.per_input)
        task = stage_task(spec, stage)
        others = [*(self.subtasks.subtasks if self.subtasks else ()), *self.of_runs.values()]
        if any(other.name == task.name and other != task for other in others):
            raise UserError(f"sources: two sub-tasks are named {task.name}; rename one")
        self.of_runs[task.name] = task
        self.gathered.append(rows)
        self.sealed += [example_inputs(spec, example) for example in load_examples(spec, "test")]

    def _task(self, name: str) -> SubTask:
        if self.subtasks is None:
            raise UserError(f"the sub-task {name!r} needs a file of sub-tasks; name it under subtasks")
        return self.subtasks.task(name)


def _gathered(
    task: SubTask,
    form: _Table,
    table: Sequence[Row],
    *,
    rejected: str | None = None,
    weight: str | None = None,
) -> Gathered:
    """The rows of a table, read by its format."""
    if form.format == "table":
        return table_rows(task, table, form.map, rejected=rejected, weight=weight, strip=form.strip)
    if task.chat_input is None:
        kinds = ", ".join(f"{name}: {kind}" for name, kind in task.inputs.items())
        raise UserError(
            f"sources: the format {form.format} needs a sub-task with one input of the type chat, "
            f"{task.name} has {kinds}; choose the format table"
        )
    if rejected is not None:
        raise UserError("sources: rejected is of the format table; choose the format preferences")
    names = ChatNames(
        chat=task.chat_input, output=OUTPUT, rejected=_REJECTED, kept=[weight] if weight else []
    )
    rows, dropped = chat_rows(table, form.format, form.map, names)
    rejected = _REJECTED if form.format == "preferences" else None
    gathered = table_rows(task, rows, {}, rejected=rejected, weight=weight, strip=form.strip)
    return replace(gathered, dropped=[*dropped, *gathered.dropped])


def _table(source: FileSource, root: Path) -> Sequence[Row]:
    if (source.path is None) == (source.hub is None):
        raise UserError(f"sources: a file source of {source.task} has either path or hub; give exactly one")
    if source.path is not None:
        rows: Sequence[Row] = read_file(root / source.path)
    else:
        assert source.hub is not None
        rows = read_hub(source.hub, source.config, source.split)
    return rows[: source.limit] if source.limit else rows


def _files(patterns: Sequence[str], root: Path) -> list[Path]:
    """The files that match paths or patterns, which start from `root`."""
    files: list[Path] = []
    for pattern in patterns:
        path = root / pattern
        start = Path(path.anchor) if Path(pattern).is_absolute() else root
        matches = sorted(file for file in start.glob(str(path.relative_to(start))) if file.is_file())
        if not matches:
            raise UserError(f"sources: no file is {pattern!r}; paths start from {root}")
        files += matches
    return files


def _counter(config: DataConfig, root: Path) -> CountTokens | None:
    """Counts tokens as the base model does; None when there is no limit."""
    if config.max_tokens is None:
        return None
    if config.tokenizer is None:
        raise UserError("max_tokens needs the base model's tokenizer; name it under tokenizer")
    return token_counter(config.tokenizer, root)


async def _judge(cleaned: Cleaned, tasks: Mapping[str, SubTask], chat: JsonChat) -> None:
    verdicts: dict[str, str | None] = {}
    for name, task in tasks.items():
        verdicts |= await judge_rows(task, [row for row in cleaned.rows if row.task == name], chat)
    cleaned.step("judge", lambda row: verdicts[row.id])
    cleaned.rows = [replace(row, flags=(*row.flags, "judged")) for row in cleaned.rows]
