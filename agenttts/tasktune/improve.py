"""`agenttts improve`: from a search to tuned models for the stage that holds it back, and to a new search.

Half of the search examples (a share that the seed draws) lend their samples as training data; the new search
runs on the other half, so that no tuned model is chosen for what it learnt by heart. The test split is used
by the final comparison alone. Every step is kept in one directory and not repeated: the same call goes on
where it was stopped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from agenttts.errors import UserError
from agenttts.events import Event, RunStarted, SearchEvent
from agenttts.report import read_report
from agenttts.result import SearchResult
from agenttts.search import search
from agenttts.settings import SearchLimits
from agenttts.stats import Difference, paired_difference
from agenttts.streams import Stream, stream_rng
from agenttts.tasktune.data.cleaning import clean
from agenttts.tasktune.data.dataset import TaskData, load_dataset, write_dataset
from agenttts.tasktune.data.traces import example_inputs, stage_task, trace_rows
from agenttts.tasktune.fit import FitConfig, fit
from agenttts.tasktune.serving import served
from agenttts.training.checkpoints import save_json
from agenttts.training.weights import TunedModel, register
from agenttts.trial import TrialResult
from datastore.store import Store
from pipelines.allocation import Allocation
from pipelines.dataset import load_splits, seeded_order
from pipelines.examples import Example
from pipelines.parts import DatasetSpec, ModelSpec
from pipelines.spec import PipelineSpec
from pipelines.yamlfile import yaml_text

TUNED = "-tuned"
_STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class ImprovePhase(Event):
    """A phase of an improvement has begun. `text`: which, in words."""

    kind: ClassVar[str] = "improve_phase"
    text: str


ImproveEvent: TypeAlias = ImprovePhase | SearchEvent
OnEvent: TypeAlias = Callable[[ImproveEvent], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Before and after at one budget, on the test split. `same`: the cheapest allocation that, in the new
    search, is above the old one's winner by a standard error on the same search examples (else the cheapest
    of many would be a lucky one); None where none is.

    difference, same_difference: after minus before, paired by example, 95 %.
    """

    budget_units: float
    before: Allocation
    before_units: float
    before_score: float
    after: Allocation
    after_units: float
    after_score: float
    difference: Difference
    same: Allocation | None
    same_units: float | None
    same_score: float | None
    same_difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """What tuning one stage brought. `path` holds dataset, adapters, the new pipeline and its figures."""

    path: Path
    stage: str
    why: str
    models: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Comparison]
    bought: Mapping[str, Any]
    seconds: float

    def to_json_dict(self) -> dict[str, Any]:
        """JSON-able."""

        def plain(one: Comparison) -> dict[str, Any]:
            found = {name: getattr(one, name) for name in one.__dataclass_fields__}
            for name in ("before", "after", "same"):
                found[name] = None if found[name] is None else found[name].to_dict()
            for name in ("difference", "same_difference"):
                found[name] = None if found[name] is None else asdict(found[name])
            return found

        return {
            "path": str(self.path),
            "stage": self.stage,
            "why": self.why,
            "models": {name: dict(told) for name, told in self.models.items()},
            "comparisons": [plain(one) for one in self.comparisons],
            "bought": dict(self.bought),
            "seconds": self.seconds,
        }


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
    fit_settings: Mapping[str, Any] | None = None,
    on_event: OnEvent = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Improvement:
    """Tune the stage's smaller models on the run's own samples, and search again with them as choices.

    stage: the one whose next step the report says gains most, where not given. models: those to tune; all
    of the stage's but the largest, where not given. budgets: units per query; the run's own, where not given.
    Models that do not answer at their address are served for as long as it takes. UserError when there is
    nothing to tune, or a step can't be done.
    """
    started = time.monotonic()
    if not 0 < tune_share < 1:
        raise UserError(f"the share of examples to tune on must be above 0 and below 1, got {tune_share:g}")
    with Store.read(db) as store:
        if run_id in (None, "latest"):
            run_id = _newest_run(store, [out] if out else list(db.parent.glob("improve-*")))
        run = store.run(run_id)
    stage, why = (stage, "as asked for") if stage else bottleneck(db, run.run_id)
    chosen = spec.stage(stage)
    wanted = list(models) or smaller_models(spec, stage)
    path = (out or db.parent / f"improve-{stage}").resolve()
    path.mkdir(parents=True, exist_ok=True)
    state = _state(path, {"run": run.run_id, "stage": stage, "seed": seed, "tune_share": tune_share})
    splits = load_splits(spec)
    lent = drawn_ids(splits.search, tune_share, seed)
    kept = [example for example in splits.search if example.id not in lent]
    on_event(ImprovePhase(text=f"dataset of {stage} from {len(lent)} search examples"))
    data = _dataset(path / "data", db, run.run_id, spec, stage, lent, [*splits.test, *kept], seed)
    tuned = {
        f"{name}{TUNED}-{stage}": _tuned(path, spec, name, fit_settings or {}, seed, on_event)
        for name in wanted
    }
    new = improved_spec(spec, stage, tuned, {"search": kept, "test": splits.test}, path)
    (path / "pipeline.yaml").write_text(pipeline_text(new), encoding="utf-8")
    with Store.open(db) as store:
        for name, one in tuned.items():
            register(store, name, one, at=clock(), served_length=new.models[name].context_length)
    levels = list(budgets) or [float(json.loads(run.settings).get("budget_units") or spec.budget.units)]
    comparisons: list[Comparison] = []
    bought: dict[str, float] = {"samples_drawn": 0, "calls": 0, "flops": 0.0, "generated_tokens": 0}

    def searched(name: str, which: PipelineSpec, units: float, **more: Any) -> SearchResult:
        key = f"{name}@{units:g}"
        on_event(ImprovePhase(text=f"search {name} at {units:g} units"))

        def noted(event: SearchEvent) -> None:
            if isinstance(event, RunStarted):
                state["searches"][key] = event.run_id
                save_json(path / _STATE, state)
            on_event(event)

        result = search(
            which,
            budget=units,
            db=db,
            seed=seed,
            proposer="solve",
            resume=key in state["searches"],
            limits=SearchLimits(trials=trials),
            on_event=noted,
            **more,
        )
        for name in bought:
            bought[name] += getattr(result.cost, name) or 0
        return result

    on_event(ImprovePhase(text="starting the servers that do not answer yet"))
    with served(new, list(new.models), log_dir=path / "logs"):
        for units in levels:
            before = searched("before", spec, units)
            after = searched("after", new, units)
            least = _clearly_reached(before, {example.id for example in kept})
            cheapest = (
                None
                if least is None
                else searched("same quality", new, units, objective="cost", min_quality=least)
            )
            comparisons.append(_compared(units, before, after, cheapest, least, seed))
    made = Improvement(
        path=path,
        stage=chosen.name,
        why=why,
        models={
            name: {
                "parent": new.models[name].parent,
                "active_params": new.models[name].active_params,
                "rows": one.card["rows"],
                "score_before": one.card["metrics"]["before"].get(stage),
                "score_after": one.card["metrics"]["after"].get(stage),
                "seconds": one.card["seconds"],
                "peak_bytes": one.card["peak_bytes"],
            }
            for name, one in tuned.items()
        },
        comparisons=comparisons,
        bought={**bought, "rows": data.card["rows"]},
        seconds=round(time.monotonic() - started, 1),
    )
    (path / "improve.json").write_text(json.dumps(made.to_json_dict(), indent=2), encoding="utf-8")
    return made


def bottleneck(db: Path, run_id: str) -> tuple[str, str]:
    """The stage that the search says is worth most, and why: the largest gain of a step, else of headroom.

    Headroom is what any of the samples drawn has right beyond what the stage makes of them.
    UserError when the run tells of neither.
    """
    with Store.read(db) as store:
        report = read_report(store, run_id)
    room = {one.stage: one.pass_at_n.mean - (one.maj_at_n or one.pass_at_1).mean for one in report.headroom}
    steps = [m for m in report.marginals if m.gain.mean > 0]
    if steps:
        best = max(steps, key=lambda m: m.gain_per_unit)
        return best.stage, f"a step there gains {best.gain.mean:+.3f} for {best.extra_units:.1f} units"
    if room:
        stage = max(room, key=lambda name: room[name])
        return stage, f"any of its samples is right {room[stage]:.3f} more often than its output"
    raise UserError(f"run {run_id} does not tell which stage to tune; name one with --stage")


def smaller_models(spec: PipelineSpec, stage: str) -> list[str]:
    """The stage's models that can be tuned, all but the largest. UserError when there is none."""
    own = [name for name in spec.stage(stage).models if spec.models[name].parent is None]
    largest = max(own, key=lambda name: spec.models[name].active_params)
    found = [name for name in own if (name != largest or len(own) == 1) and spec.models[name].path]
    if not found:
        raise UserError(
            f"stage {stage} has no model to tune: a smaller one must have a path to its weights; "
            "name it with --model"
        )
    return found


def drawn_ids(examples: Sequence[Example], share: float, seed: int) -> set[str]:
    """The ids of a share of the examples, the same for the same seed."""
    order = seeded_order(examples, lambda example: example.id, seed, "tune")
    return {example.id for example in order[: max(1, round(share * len(examples)))]}


def improved_spec(
    spec: PipelineSpec,
    stage: str,
    tuned: Mapping[str, TunedModel],
    splits: Mapping[str, Sequence[Example]],
    path: Path,
) -> PipelineSpec:
    """The pipeline with the tuned models as choices of the stage, on examples that none of them saw."""
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
                "active_params": base.active_params + one.n_params,
            }
        )
    stages = tuple(
        own.model_copy(update={"models": (*own.models, *tuned)}) if own.name == stage else own
        for own in spec.stages
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
    return yaml_text(spec.model_dump(mode="json", exclude_defaults=True), width=110)


def _absolute(spec: PipelineSpec, model: ModelSpec) -> ModelSpec:
    local = None if model.path is None else (spec.root / Path(model.path).expanduser())
    return model.model_copy(update={"path": str(local.resolve())}) if local and local.is_dir() else model


def _dataset(
    path: Path,
    db: Path,
    run_id: str,
    spec: PipelineSpec,
    stage: str,
    lent: set[str],
    others: Sequence[Example],
    seed: int,
) -> TaskData:
    """Rows of the examples lent, none of them like another example's."""
    if (path / "card.json").is_file():
        return load_dataset(path)
    own = spec.stage(stage)

    async def gather() -> Any:
        with Store.read(db) as store:
            return await trace_rows(store, run_id, spec, own, only=lent)

    found = asyncio.run(gather())
    task = stage_task(spec, own)
    sealed = [example_inputs(spec, example) for example in others]
    cleaned = clean(found.rows, {task.name: task}, sealed=sealed)
    about = {"run": run_id, "stage": stage, "examples": len(lent)}
    return write_dataset(
        path,
        [found],
        cleaned,
        (),
        {task.name: task},
        domain=f"{spec.name}: {stage}",
        eval_share=0.2,
        seed=seed,
        about=about,
    )


def _tuned(
    path: Path, spec: PipelineSpec, name: str, settings: Mapping[str, Any], seed: int, on_event: OnEvent
) -> TunedModel:
    model = _absolute(spec, spec.model(name))
    if model.path is None:
        raise UserError(f"models.{name}: has no path to its weights; add it, tuning starts from them")
    on_event(ImprovePhase(text=f"tuning {name}"))
    config = FitConfig(
        base=model.path,
        data="data",
        out=f"adapters/{name}",
        seed=seed,
        max_tokens=model.context_length,
        **settings,
    )
    (made,) = fit(config, path)
    return made


def _compared(
    units: float,
    before: SearchResult,
    after: SearchResult,
    cheapest: SearchResult | None,
    least: float | None,
    seed: int,
) -> Comparison:
    first, second = _tested(before), _tested(after)
    reached = (
        cheapest is not None and cheapest.best is not None and cheapest.best.search_score >= (least or 0.0)
    )
    same = _tested(cheapest) if cheapest is not None and reached else None
    rng = stream_rng(seed, Stream.IMPROVEMENT)
    return Comparison(
        budget_units=units,
        before=first.allocation,
        before_units=first.budget_units,
        before_score=_mean(first),
        after=second.allocation,
        after_units=second.budget_units,
        after_score=_mean(second),
        difference=paired_difference(second.scores, first.scores, rng),
        same=None if same is None else same.allocation,
        same_units=None if same is None else same.budget_units,
        same_score=None if same is None else _mean(same),
        same_difference=None if same is None else paired_difference(same.scores, first.scores, rng),
    )


def _tested(result: SearchResult) -> TrialResult:
    """The winner's trial on the test split."""
    best = result.best
    for trial in result.confirmation:
        if best is not None and trial.purpose == "test" and trial.allocation == best.allocation:
            return trial
    raise UserError(f"run {result.run_id} ended without a winner scored on the test split; see its report")


def _mean(trial: TrialResult) -> float:
    return float(trial.score or 0.0)


def _clearly_reached(result: SearchResult, ids: set[str]) -> float | None:
    """The winner's mean over some of the search examples, and a standard error more; None without scores."""
    trial = result.best_trial()
    held = [] if trial is None else [s for i, s in trial.scores.items() if i in ids and s is not None]
    return None if not held else min(1.0, float(np.mean(held) + np.std(held) / np.sqrt(len(held))))


def _newest_run(store: Store, improvements: Sequence[Path]) -> str | None:
    """The newest run that no improvement made itself, so that the same command finds the same run again."""
    own: set[str] = set()
    for path in improvements:
        try:
            own |= set(json.loads((path / _STATE).read_text())["searches"].values())
        except (OSError, ValueError, KeyError):
            continue
    return next((run.run_id for run in reversed(store.runs()) if run.run_id not in own), None)


def _state(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What is known of the steps done here. UserError when they are another improvement's."""
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text())
    except (OSError, ValueError):
        state = {"about": about, "searches": {}}
        save_json(path / _STATE, state)
    if state["about"] != about:
        raise UserError(
            f"{path}: holds an improvement of {state['about']}; choose another --out, or remove it"
        )
    return state
