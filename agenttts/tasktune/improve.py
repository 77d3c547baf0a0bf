"""`agenttts improve`: from a search to tuned models for the stage that limits it, and to a new search.

Half of the search examples (a share that the seed draws) lend their samples as training data; the new search
runs on the other half, so that no tuned model is chosen for what it learnt by heart. The test split is used
by the final comparison alone. The results of every step are stored in one directory, and no step is repeated:
the same call resumes where it was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from agenttts.blocking import run_blocking
from agenttts.errors import UserError
from agenttts.replay.judged import drawn_ids
from agenttts.report.data import read_report
from agenttts.result import SearchResult
from agenttts.results.spec_bank import attach_spec_bank
from agenttts.search.entry import search
from agenttts.search.events import RunStarted, SearchEvent
from agenttts.settings import SearchLimits
from agenttts.space.measure import Measure, MeasureName, amount_text
from agenttts.tasktune.data.cleaning import clean
from agenttts.tasktune.data.cost import SampleCost, samples_cost
from agenttts.tasktune.data.dataset import TaskData, load_dataset, write_dataset
from agenttts.tasktune.data.rows import Gathered
from agenttts.tasktune.data.traces import example_inputs, stage_task, trace_rows
from agenttts.tasktune.fit import FitConfig, fit
from agenttts.tasktune.improvement import (
    Bought,
    Improvement,
    ImprovePhase,
    TunedChoice,
    clearly_reached,
    compared,
)
from agenttts.tasktune.serving import served
from agenttts.training.checkpoints import save_json
from agenttts.training.events import TuneEvent
from agenttts.training.weights import TunedModel, register
from datastore.store import Store
from pipelines.allocation import StageChoice
from pipelines.costs import known_sum
from pipelines.dataset.splits import load_examples
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.spec.fields import DatasetSpec
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.yaml_file import yaml_text

ImproveEvent = ImprovePhase | TuneEvent | SearchEvent
OnEvent = Callable[[ImproveEvent], None]
"""Is called with phases, with the events of the trainings, and with those of the searches."""
TUNED = "-tuned"
_EVAL_SHARE = 0.2
_STATE = "state.json"


class _State(TypedDict):
    """The stored state of an improvement: what it is of, and the run of each of its searches."""

    about: Mapping[str, JSON]
    searches: dict[str, str]


def improve(
    spec: PipelineSpec,
    *,
    db: Path,
    run_id: str | None = None,
    stage: str | None = None,
    models: Sequence[str] = (),
    budgets: Sequence[float] = (),
    out: Path | None = None,
    tune_share: float = 0.5,
    trials: int = 20,
    seed: int = 0,
    fit_settings: Mapping[str, JSON] | None = None,
    on_event: OnEvent = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Improvement:
    """Tune the smaller models of a stage on a run's own samples, and search again with them as choices.

    Models that do not answer at their address are served for as long as it takes.

    Args:
        spec: The pipeline that the run searched.
        db: The store of the run, which keeps the new searches too.
        run_id: The run to start from. None: the newest that is not part of an improvement.
        stage: The stage to tune. None: the one whose next step gains most, as the report says.
        models: The models to tune; empty: all of the stage's but the largest.
        budgets: The budgets to compare at, in units per query; empty: the run's own.
        out: The directory of dataset, adapters and figures. None: `improve-STAGE` beside the store.
        tune_share: The share of the search examples that lend their samples.
        trials: The allocations of each new search.
        seed: Decides which examples lend their samples, and everything that the tuning and the searches draw.
        fit_settings: Fields of FitConfig.
        on_event: Is called with what is going on.
        clock: Gives the time in Unix seconds.

    Raises:
        UserError: There is nothing to tune, or a step can't be done.
        MissingDependency: The extra `tune` is not installed.
    """
    started = time.monotonic()
    if not 0 < tune_share < 1:
        raise UserError(f"the share of examples to tune on must be above 0 and below 1, got {tune_share:g}")
    with Store.read(db) as store:
        if run_id in (None, "latest"):
            run_id = _newest_run(store, [out] if out else list(db.parent.glob("improve-*")))
        run = store.run(run_id)
    stage, why = (stage, "as asked for") if stage else bottleneck(db, run.run_id)
    spec.stage(stage)
    wanted = list(models) or smaller_models(spec, stage)
    path = (out or db.parent / f"improve-{stage}").resolve()
    path.mkdir(parents=True, exist_ok=True)
    state = _state(path, {"run": run.run_id, "stage": stage, "seed": seed, "tune_share": tune_share})
    examples, test = load_examples(spec, "search"), load_examples(spec, "test")
    lent = drawn_ids(examples, tune_share, seed)
    left = [example for example in examples if example.id not in lent]
    on_event(ImprovePhase(text=f"dataset of {stage} from {len(lent)} search examples"))
    data = _dataset(path / "data", db, run.run_id, spec, stage, lent, left, test, seed)
    tuned = {
        f"{name}{TUNED}-{stage}": _tuned(path, spec, name, fit_settings or {}, seed, on_event)
        for name in wanted
    }
    new = improved_spec(spec, stage, tuned, {"search": left, "test": test}, path)
    (path / "pipeline.yaml").write_text(pipeline_text(new), encoding="utf-8")
    with Store.open(db) as store:
        for name, one in tuned.items():
            register(store, name, one, at=clock(), served_length=new.models[name].context_length)
    settings = json.loads(run.settings)
    measure: MeasureName = settings.get("measure", "units")
    levels = list(budgets) or [float(settings.get("budget_units") or spec.budget.amount)]
    searches = _Searches(path, state, db, trials, seed, on_event, measure)
    comparisons = []
    on_event(ImprovePhase(text="starting the servers that do not answer yet"))
    with served(new, list(new.models), log_dir=path / "logs"):
        for units in levels:
            before = searches.run("before", spec, units)
            after = searches.run("after", new, units)
            least = clearly_reached(before, {example.id for example in left})
            cheapest = None if least is None else searches.cheapest(new, units, least)
            comparisons.append(compared(units, before, after, cheapest, seed))
    improvement = Improvement(
        path=path,
        stage=stage,
        why=why,
        models={name: _choice(new.models[name], one, stage) for name, one in tuned.items()},
        comparisons=comparisons,
        data_cost=data.card.cost,
        bought=replace(searches.bought, rows=data.card.rows),
        seconds=round(time.monotonic() - started, 1),
    )
    save_json(path / "improve.json", improvement.to_json_dict())
    return improvement


def bottleneck(db: Path, run_id: str) -> tuple[str, str]:
    """The stage that a search says is worth most, and why.

    That is the stage whose next step gains most per unit, else the one with the most headroom: what any of
    the samples drawn has right beyond what the stage makes of them.

    Args:
        db: The store of the run.
        run_id: The run.

    Raises:
        UserError: The run says neither.
    """
    with Store.read(db) as store:
        report = read_report(store, run_id)
    room = {
        one.stage: one.pass_at_n.mean - (one.pass_at_1 if one.maj_at_n is None else one.maj_at_n).mean
        for one in report.headroom
    }
    steps = [m for m in report.marginals if m.gain.mean > 0]
    if steps:
        best = max(steps, key=lambda m: m.gain_per_unit)
        extra = amount_text(best.extra_units, report.outcome.measure, 3)
        return (
            best.stage,
            f"a step there gains {best.gain.mean:+.3f} for {extra}",
        )
    if room:
        stage = max(room, key=lambda name: room[name])
        return stage, f"any of its samples is right {room[stage]:.3f} more often than its output"
    raise UserError(f"run {run_id} does not say which stage to tune; name one with --stage")


def smaller_models(spec: PipelineSpec, stage: str) -> list[str]:
    """The models of a stage that can be tuned, all but the largest.

    Args:
        spec: The pipeline.
        stage: The name of the stage.

    Raises:
        UserError: There is none.
    """
    measure, parts = Measure.of(spec), spec.stage(stage)
    if parts.python is not None:
        raise UserError(
            f"stage {stage} runs a function, which has no model to tune; name another with --stage"
        )
    untuned = [name for name in parts.models if spec.models[name].parent is None]
    largest = max(untuned, key=lambda name: measure.planned_stage(parts, StageChoice(name, 1)))
    smaller = [name for name in untuned if (name != largest or len(untuned) == 1) and spec.models[name].path]
    if not smaller:
        raise UserError(
            f"stage {stage} has no model to tune: a smaller one must have a path to its weights; "
            "name it with --model"
        )
    return smaller


def improved_spec(
    spec: PipelineSpec,
    stage: str,
    tuned: Mapping[str, TunedModel],
    splits: Mapping[str, Sequence[Example]],
    path: Path,
) -> PipelineSpec:
    """The pipeline with tuned models as choices of a stage, on examples that none of them saw.

    Args:
        spec: The pipeline.
        stage: The name of the stage.
        tuned: The tuned models by name: the parent's, `-tuned-` and the stage's.
        splits: The examples of `search` and `test`; each is written to a file.
        path: The directory of the new pipeline.
    """
    models = {name: _absolute(spec, model) for name, model in spec.models.items()}
    for name, one in tuned.items():
        parent = name.removesuffix(f"{TUNED}-{stage}")
        base = models[parent]
        models[name] = base.model_copy(
            update={
                "served_name": f"{base.served_name or parent}{TUNED}-{stage}-{one.digest[:8]}",
                "path": str(one.path),
                "parent": parent,
                "revision": one.digest[:16],
                "active_params": None if base.active_params is None else base.active_params + one.n_params,
            }
        )
    stages = tuple(
        old.model_copy(update={"models": (*old.models, *tuned)}) if old.name == stage else old
        for old in spec.stages
    )
    id_field = spec.dataset.id_field or "id"
    for split, rows in splits.items():
        lines = [json.dumps({**row.fields, id_field: row.id}, ensure_ascii=False) + "\n" for row in rows]
        (path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    data = DatasetSpec(search=str(path / "search.jsonl"), test=str(path / "test.jsonl"), id_field=id_field)
    bank = None if spec.bank_path is None else str(spec.bank_path.resolve())
    return spec.model_copy(
        update={
            "name": f"{spec.name}-{stage}-tuned",
            "models": models,
            "stages": stages,
            "dataset": data,
            "bank": bank,
            "root": path,
        }
    )


def pipeline_text(spec: PipelineSpec) -> str:
    """The spec as YAML."""
    return yaml_text(spec.model_dump(mode="json", exclude_defaults=True))


class _Searches:
    """The searches of an improvement; each is resumed where it was begun before."""

    def __init__(
        self,
        path: Path,
        state: _State,
        db: Path,
        trials: int,
        seed: int,
        on_event: OnEvent,
        measure: MeasureName,
    ) -> None:
        self._path, self._state, self._db = path, state, db
        self._trials, self._seed, self._on_event = trials, seed, on_event
        self._measure = measure
        self.bought = Bought(rows={})

    def cheapest(self, spec: PipelineSpec, units: float, least: float) -> SearchResult | None:
        """The search for the cheapest allocation of at least a score; None where none reaches it."""
        result = self.run("same quality", spec, units, objective="cost", min_quality=least)
        best = result.best
        return result if best is not None and best.search_score >= least else None

    def run(self, name: str, spec: PipelineSpec, units: float, **goal: Any) -> SearchResult:
        """A search within a budget. The goal is the best quality, or what `goal` says."""
        key, known = f"{name}@{units:g}", self._state["searches"]
        self._on_event(ImprovePhase(text=f"search {name} at {amount_text(units, self._measure, 6)}"))

        def on_event(event: SearchEvent) -> None:
            if isinstance(event, RunStarted):
                known[key] = event.run_id
                save_json(self._path / _STATE, self._state)
            self._on_event(event)

        result = search(
            spec,
            budget=units if self._measure == "units" else None,
            budget_usd=units if self._measure == "usd" else None,
            db=self._db,
            seed=self._seed,
            proposer="solve",
            resume=key in known,
            limits=SearchLimits(trials=self._trials),
            on_event=on_event,
            **goal,
        )
        names = ("samples_drawn", "calls", "generated_tokens")
        sums = {field: getattr(self.bought, field) + getattr(result.cost, field) for field in names}
        flops = known_sum((self.bought.flops, result.cost.flops))
        self.bought = replace(self.bought, **sums, flops=flops)
        return result


def _absolute(spec: PipelineSpec, model: ModelSpec) -> ModelSpec:
    """A model whose path does not depend on the place of the pipeline file."""
    local = None if model.path is None else (spec.root / Path(model.path).expanduser())
    return model.model_copy(update={"path": str(local.resolve())}) if local and local.is_dir() else model


def _dataset(
    path: Path,
    db: Path,
    run_id: str,
    spec: PipelineSpec,
    stage: str,
    lent: set[str],
    left: Sequence[Example],
    test: Sequence[Example],
    seed: int,
) -> TaskData:
    """Rows of the examples that lend their samples, none of them like another example's."""
    if (path / "card.json").is_file():
        return load_dataset(path)
    stage_spec = spec.stage(stage)

    async def gather() -> tuple[Gathered, SampleCost]:
        with Store.read(db) as store:
            attach_spec_bank(spec, store)
            rows = await trace_rows(store, run_id, spec, stage_spec, only=lent)
            return rows, await samples_cost(store, run_id, spec, stage_spec, lent=lent, n_left=len(left))

    gathered, cost = run_blocking(gather())
    task = stage_task(spec, stage_spec)
    sealed = [example_inputs(spec, example) for example in (*test, *left)]
    return write_dataset(
        path,
        [gathered],
        clean(gathered.rows, {task.name: task}, sealed=sealed),
        (),
        {task.name: task},
        domain=f"{spec.name}: {stage}",
        eval_share=_EVAL_SHARE,
        seed=seed,
        about={"run": run_id, "stage": stage},
        cost=cost,
    )


def _tuned(
    path: Path,
    spec: PipelineSpec,
    name: str,
    settings: Mapping[str, JSON],
    seed: int,
    on_event: OnEvent,
) -> TunedModel:
    model = _absolute(spec, spec.model(name))
    if model.path is None:
        raise UserError(f"models.{name}: has no path to its weights; add it, tuning starts from them")
    on_event(ImprovePhase(text=f"tuning {name}"))
    config = FitConfig.model_validate(
        {
            "base": model.path,
            "data": "data",
            "out": f"adapters/{name}",
            "seed": seed,
            "max_tokens": model.context_length,
            **settings,
        }
    )
    (tuned,) = fit(config, path, on_event=on_event)
    return tuned


def _choice(model: ModelSpec, tuned: TunedModel, stage: str) -> TunedChoice:
    card = tuned.card
    return TunedChoice(
        parent=model.parent,
        active_params=model.active_params,
        rows=card.rows,
        score_before=card.metrics.before.get(stage),
        score_after=card.metrics.after.get(stage),
        seconds=card.seconds or 0.0,
        peak_bytes=card.peak_bytes or 0,
    )


def _newest_run(store: Store, improvements: Sequence[Path]) -> str | None:
    """The newest run that is not part of an improvement, so that the same command finds the same run."""
    of_improvements: set[str] = set()
    for path in improvements:
        try:
            of_improvements |= set(json.loads((path / _STATE).read_text())["searches"].values())
        except (OSError, ValueError, KeyError):
            continue
    return next((run.run_id for run in reversed(store.runs()) if run.run_id not in of_improvements), None)


def _state(path: Path, about: Mapping[str, JSON]) -> _State:
    """The stored state of an improvement. UserError when it is of something else."""
    try:
        state: _State = json.loads((path / _STATE).read_text())
    except (OSError, ValueError):
        state = {"about": about, "searches": {}}
        save_json(path / _STATE, state)
    if state["about"] != about:
        raise UserError(
            f"{path}: holds an improvement of {state['about']}; choose another --out, or remove it"
        )
    return state
