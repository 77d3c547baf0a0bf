"""`agenttts tune eval`: models side by side on the same rows, greedy, with paired intervals.

Every model is asked over HTTP as a pipeline would ask it: those that lie in a directory are served by vLLM
for as long as it takes. Answers are kept in the sample bank.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.proposers import AgentSettings
from agenttts.stats import Difference, Interval, mean_interval, paired_difference
from agenttts.streams import Stream, stream_rng
from agenttts.tasktune.chat import JsonChat
from agenttts.tasktune.data.dataset import TaskData
from agenttts.tasktune.data.judge import prefer
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.data.scoring import score_answer
from agenttts.training.weights import TunedModel, context_length, read_tuned, require_base, require_servable
from datastore.store import Store
from pipelines.clients import ModelClients
from pipelines.errors import CustomCodeFailed, DrawFailed
from pipelines.parts import BudgetSpec, DatasetSpec, ModelSpec, SamplingSpec, StageSpec
from pipelines.sampler import Sampler
from pipelines.servecommand import commands, require_vllm
from pipelines.serving import ServerGroup
from pipelines.spec import PipelineSpec
from pipelines.variants import BuiltinMetric
from pipelines.wire import Content, ContextOverflow

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one sub-task. `against`: minus the reference's score, on the rows that both answered."""

    model: str
    task: str
    score: Interval
    n_missing: int
    tuned_for: bool
    against: Difference | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The table. reference: the model that others are compared with."""

    split: str
    reference: str
    params: Mapping[str, float]
    cards: Mapping[str, Mapping[str, Any]]
    scores: Sequence[Score]
    preferred: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        """JSON-able; intervals are [low, high], 95 %."""
        return {
            "split": self.split,
            "reference": self.reference,
            "table": [
                {
                    "model": one.model,
                    "task": one.task,
                    "active_params": self.params[one.model],
                    "tuned": one.model in self.cards,
                    "tuned_for": one.tuned_for,
                    "score": one.score.mean,
                    "score_ci": [one.score.low, one.score.high],
                    "n": one.score.n,
                    "n_missing": one.n_missing,
                    "difference": None if one.against is None else one.against.mean,
                    "difference_ci": None if one.against is None else [one.against.low, one.against.high],
                    "tuning_seconds": self.cards.get(one.model, {}).get("seconds"),
                    "tuning_peak_bytes": self.cards.get(one.model, {}).get("peak_bytes"),
                }
                for one in self.scores
            ],
            "preferred": {name: dict(counts) for name, counts in self.preferred.items()},
        }


def rivals_spec(places: Mapping[str, str], *, port: int | None = None) -> PipelineSpec:
    """A spec that serves and asks the models: name → directory, or the base URL of a server that runs.

    An adapter brings its base along. port: of the first base, the next ones follow; free ones where not
    given. UserError when a directory holds no model, or an adapter that does not
    fit.
    """
    models: dict[str, dict[str, Any]] = {}
    bases: dict[str, str] = {}
    tuned: dict[str, TunedModel] = {}
    ports = itertools.repeat(None) if port is None else itertools.count(port)
    for name, place in places.items():
        if "://" in place:
            models[name] = {"base_url": place, "active_params": 1.0}
            continue
        tuned[name] = read_tuned(place)
        require_servable(tuned[name].path)
        if not tuned[name].is_adapter:
            bases[str(tuned[name].path.resolve())] = name
            models[name] = _served(name, tuned[name], next(ports))
    for name, one in tuned.items():
        if one.base is None:
            continue
        base = str(Path(one.base).resolve()) if Path(one.base).is_dir() else one.base
        if base not in bases:
            bases[base] = f"base-of-{name}"
            if Path(base).is_dir():
                models[bases[base]] = _served(bases[base], read_tuned(base), next(ports))
            elif base.startswith((".", "/", "~")):
                raise UserError(
                    f"{one.path}: its base {base!r} is not there; put it back, or merge elsewhere"
                )
            else:
                models[bases[base]] = _from_hub(bases[base], base, one, next(ports))
        if Path(base).is_dir():
            require_base(one, Path(base))
        parent = models[bases[base]]
        models[name] = {
            **_served(name, one, None),
            "parent": bases[base],
            "base_url": parent["base_url"],
            "active_params": parent["active_params"] + one.n_params,
            "context_length": parent["context_length"],
        }
    return PipelineSpec(
        name="evaluation",
        models={name: ModelSpec(**model) for name, model in models.items()},
        stages=(
            StageSpec(
                name="answer",
                prompt="{{ prompt }}",
                models=tuple(models),
                max_samples=1,
                prompt_tokens=1,
                generated_tokens=1,
            ),
        ),
        metric=BuiltinMetric(kind="exact_match", label="output"),
        dataset=DatasetSpec(search="rows.jsonl", test="rows.jsonl"),
        budget=BudgetSpec(units=1),
    )


async def evaluate(
    data: TaskData,
    places: Mapping[str, str],
    *,
    store: Store,
    reference: str | None = None,
    split: str | None = None,
    seed: int = 0,
    judge: AgentSettings | None = None,
    log_dir: Path,
    progress: Progress = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> Evaluation:
    """Ask every model every row of the split (test where there is one, else eval), and compare.

    reference: the largest model that was not tuned, where not given. judge: also have an LLM prefer between
    each model's answers and the reference's, in both orders.
    """
    split = split or ("test" if data.test else "eval")
    rows = {"test": data.test, "eval": data.eval, "train": data.train}.get(split, ())
    if not rows:
        raise UserError(f"{data.path} has no rows in its split {split!r}; see its README.md")
    spec = rivals_spec(places)
    params = {name: float(spec.models[name].active_params) for name in places}
    cards = {name: read_tuned(place).card for name, place in places.items() if "://" not in place}
    cards = {name: card for name, card in cards.items() if card}
    untuned = [name for name in places if name not in cards]
    reference = reference or max(untuned or list(places), key=lambda name: params[name])
    if reference not in places:
        raise UserError(f"--against must be one of the models, got {reference!r}")
    local = [name for name, place in places.items() if "://" not in place]
    with ExitStack() as servers:
        if local:
            require_vllm()
            progress(f"starting vLLM for {', '.join(local)}")
            servers.enter_context(ServerGroup(commands(spec, local), log_dir=log_dir))
        clients = ModelClients(spec, rng=random.Random(seed), environ=environ)
        try:
            sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)
            answers: dict[str, list[str | None]] = {}
            for name in places:
                progress(f"asking {name} {len(rows)} rows")
                answers[name] = await _answers(sampler, name, data, rows)
        finally:
            await clients.aclose()
    silent = [name for name, said in answers.items() if all(text is None for text in said)]
    if silent:
        raise UserError(f"{silent[0]} answered none of {len(rows)} rows; see its server, or leave it out")
    scored = {name: _scored(data, rows, answers[name]) for name in places}
    scores = []
    for task in dict.fromkeys(row.task for row in rows):
        ids = {row.id for row in rows if row.task == task}
        held = {name: {i: s for i, s in found.items() if i in ids} for name, found in scored.items()}
        for number, name in enumerate(places):
            mean = mean_interval(held[name].values(), stream_rng(seed, Stream.MODEL_SCORE, number))
            if mean is None:
                continue
            rng = stream_rng(seed, Stream.MODEL_DIFFERENCE, number)
            against = None if name == reference else paired_difference(held[name], held[reference], rng)
            scores.append(
                Score(
                    model=name,
                    task=task,
                    score=mean,
                    n_missing=sum(score is None for score in held[name].values()),
                    tuned_for=task in cards.get(name, {}).get("tasks", ()),
                    against=against,
                )
            )
    preferred = {}
    if judge is not None:
        async with JsonChat(judge, store) as chat:
            for name in places:
                if name != reference:
                    progress(f"judging {name} against {reference}")
                    preferred[name] = await _preferred(data, rows, answers[name], answers[reference], chat)
    return Evaluation(
        split=split, reference=reference, params=params, cards=cards, scores=scores, preferred=preferred
    )


def figure(found: Evaluation) -> Any:
    """Scores with intervals by model, a colour for each sub-task (plotly)."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for task in dict.fromkeys(one.task for one in found.scores):
        own = [one for one in found.scores if one.task == task]
        drawn.add_trace(
            go.Bar(
                name=task,
                x=[one.model for one in own],
                y=[one.score.mean for one in own],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [one.score.high - one.score.mean for one in own],
                    "arrayminus": [one.score.mean - one.score.low for one in own],
                },
            )
        )
    return drawn.update_layout(yaxis={"title": "score", "range": [0, 1]}, barmode="group")


async def _answers(sampler: Sampler, model: str, data: TaskData, rows: Sequence[TaskRow]) -> list[str | None]:
    """Greedy answers; None where a server gave none."""

    async def one(row: TaskRow) -> str | None:
        sampling = SamplingSpec(temperature=0.0, max_tokens=data.tasks[row.task].max_tokens)
        content: Content = {"messages": [dict(message) for message in row.messages]}
        try:
            drawn = await sampler.samples(row.task, model, content, sampling, 1)
        except (DrawFailed, ContextOverflow):
            return None
        return None if drawn.failure is not None else drawn.samples[0].text

    return list(await asyncio.gather(*(one(row) for row in rows)))


def _scored(
    data: TaskData, rows: Sequence[TaskRow], answers: Sequence[str | None]
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for row, text in zip(rows, answers, strict=True):
        try:
            found[row.id] = None if text is None else score_answer(data.tasks[row.task], row, text)
        except CustomCodeFailed:
            found[row.id] = None
    return found


async def _preferred(
    data: TaskData,
    rows: Sequence[TaskRow],
    own: Sequence[str | None],
    theirs: Sequence[str | None],
    chat: JsonChat,
) -> dict[str, int]:
    """How often the judge preferred the model, the reference, or neither."""
    both = [
        (row, a, b) for row, a, b in zip(rows, own, theirs, strict=True) if a is not None and b is not None
    ]
    said = await asyncio.gather(
        *(prefer(data.tasks[row.task], row.messages, a, b, chat) for row, a, b in both)
    )
    names = {"first": "model", "second": "reference", "tie": "tie"}
    return {name: sum(names[one] == name for one in said) for name in names.values()}


def _from_hub(name: str, base: str, adapter: TunedModel, port: int | None) -> dict[str, Any]:
    return {
        "served_name": name,
        "base_url": f"http://127.0.0.1:{port or free_port()}/v1",
        "path": base,
        "active_params": float(adapter.card.get("base_params") or 1.0),
        "context_length": None,
    }


def _served(name: str, tuned: TunedModel, port: int | None) -> dict[str, Any]:
    return {
        "served_name": name,
        "base_url": f"http://127.0.0.1:{port or free_port()}/v1",
        "path": str(tuned.path.resolve()),
        "active_params": float(max(1, tuned.n_params)),
        "context_length": context_length(tuned.path),
        "revision": tuned.digest[:16],
    }


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
