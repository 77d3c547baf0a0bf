"""`agenttts tune eval`: models side by side on the same rows, greedy, with paired intervals.

Every model answers over HTTP, with the requests that a pipeline would send: those that are in a directory are
served by vLLM for as long as it takes. Answers are stored in the sample bank. How the models are served is in
`rivals`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.errors import UserError
from agenttts.llm import AgentSettings, JsonChat
from agenttts.serving.servers import planned_servers
from agenttts.stats import Difference, Interval, Stream, mean_interval, paired_difference, stream_rng
from agenttts.tasktune.data.dataset import TaskData
from agenttts.tasktune.data.judge import prefer
from agenttts.tasktune.data.rows import TaskRow, score_answer
from agenttts.tasktune.rivals import rivals_spec
from agenttts.training.weights import TuningCard, read_tuned
from datastore.store import Store
from pipelines.content import Content
from pipelines.errors import CustomCodeFailed, DrawFailed
from pipelines.jsonvalues import JSON
from pipelines.runtime.sampler import Sampler
from pipelines.servers.clients import ModelClients
from pipelines.servers.commands import require_vllm
from pipelines.servers.group import ServerGroup
from pipelines.spec.models import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec

if TYPE_CHECKING:
    import plotly.graph_objects as go

OnStatus = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one sub-task.

    Attributes:
        model: The name of the model.
        task: The name of the sub-task.
        score: The mean score over rows, from 0 to 1, with its 95 % interval.
        n_missing: The number of rows without a score.
        tuned_for: Whether the model was tuned on the sub-task.
        against: The score minus the reference's, on the rows that both answered; None for the reference.
    """

    model: str
    task: str
    score: Interval
    n_missing: int
    tuned_for: bool
    against: Difference | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A comparison of models.

    Attributes:
        split: The split of the dataset.
        reference: The model that the others are compared with.
        params: The number of active parameters by model; 1 where it is not known.
        cards: How a model was tuned, by model; untuned ones are not in it.
        scores: A score for each sub-task and model.
        preferred: How often the judge preferred `model`, `reference` or neither (`tie`), by model; empty
            without a judge.
    """

    split: str
    reference: str
    params: Mapping[str, float]
    cards: Mapping[str, TuningCard]
    scores: Sequence[Score]
    preferred: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, JSON]:
        """JSON-able; intervals are [low, high], 95 %."""
        return {
            "split": self.split,
            "reference": self.reference,
            "table": [self._row(one) for one in self.scores],
            "preferred": {name: dict(counts) for name, counts in self.preferred.items()},
        }

    def _row(self, one: Score) -> dict[str, JSON]:
        card = self.cards.get(one.model)
        return {
            "model": one.model,
            "task": one.task,
            "active_params": self.params[one.model],
            "tuned": card is not None,
            "tuned_for": one.tuned_for,
            "score": one.score.mean,
            "score_ci": [one.score.low, one.score.high],
            "n": one.score.n,
            "n_missing": one.n_missing,
            "difference": None if one.against is None else one.against.mean,
            "difference_ci": None if one.against is None else [one.against.low, one.against.high],
            "tuning_seconds": card.seconds if card else None,
            "tuning_peak_bytes": card.peak_bytes if card else None,
        }


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
    on_status: OnStatus = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> Evaluation:
    """Ask every model every row of a split, and compare.

    Args:
        data: The dataset.
        places: The directory of each model, or the base URL of a server that runs, by the model's name.
        store: The sample bank.
        reference: The model that the others are compared with. None: the largest that was not tuned.
        split: `test`, `eval` or `train`. None: test where there is one, else eval.
        seed: Decides the bootstrap of the intervals.
        judge: An LLM that also prefers between each model's answers and the reference's, in both orders.
            Experimental. None: none does.
        log_dir: The directory of the servers' logs.
        on_status: Is called with what is being done.
        environ: The environment variables, for keys of servers.

    Raises:
        UserError: There is something that a person must put right: rows, models, servers.
    """
    split = split or ("test" if data.test else "eval")
    rows = {"test": data.test, "eval": data.eval, "train": data.train}.get(split, ())
    if not rows:
        raise UserError(f"{data.path} has no rows in its split {split!r}; see its README.md")
    spec = rivals_spec(places)
    params = {name: spec.models[name].active_params or 0.0 for name in places}
    local = {name: read_tuned(place) for name, place in places.items() if "://" not in place}
    cards = {name: one.card for name, one in local.items() if one.is_tuned}
    untuned = [name for name in places if name not in cards]
    reference = reference or max(untuned or list(places), key=lambda name: params[name])
    if reference not in places:
        raise UserError(f"--against must be one of the models, got {reference!r}")
    with ExitStack() as servers:
        if local:
            require_vllm()
            on_status(f"starting vLLM for {', '.join(local)}")
            servers.enter_context(ServerGroup(planned_servers(spec, list(local)).commands, log_dir=log_dir))
        answers = await _all_answers(spec, store, data, rows, list(places), seed, environ, on_status)
    preferred = {}
    if judge is not None:
        async with JsonChat(judge, store) as chat:
            for name in places:
                if name != reference:
                    on_status(f"judging {name} against {reference}")
                    preferred[name] = await _preferred(data, rows, answers[name], answers[reference], chat)
    return Evaluation(
        split=split,
        reference=reference,
        params=params,
        cards=cards,
        scores=_scores(data, rows, answers, reference, cards, seed),
        preferred=preferred,
    )


def figure(evaluation: Evaluation) -> go.Figure:
    """A bar for each model and sub-task, with its interval; a colour for each sub-task (plotly)."""
    import plotly.graph_objects as go

    plot = go.Figure()
    for task in dict.fromkeys(one.task for one in evaluation.scores):
        scores = [one for one in evaluation.scores if one.task == task]
        plot.add_trace(
            go.Bar(
                name=task,
                x=[one.model for one in scores],
                y=[one.score.mean for one in scores],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [one.score.high - one.score.mean for one in scores],
                    "arrayminus": [one.score.mean - one.score.low for one in scores],
                },
            )
        )
    return plot.update_layout(yaxis={"title": "score", "range": [0, 1]}, barmode="group")


async def _all_answers(
    spec: PipelineSpec,
    store: Store,
    data: TaskData,
    rows: Sequence[TaskRow],
    models: Sequence[str],
    seed: int,
    environ: Mapping[str, str],
    on_status: OnStatus,
) -> dict[str, list[str | None]]:
    """The answers of each model. UserError when one gives none."""
    clients = ModelClients(spec, rng=random.Random(seed), environ=environ)
    try:
        sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)
        answers: dict[str, list[str | None]] = {}
        for name in models:
            on_status(f"asking {name} {len(rows)} rows")
            answers[name] = await _answers(sampler, name, data, rows)
    finally:
        await clients.aclose()
    silent = [name for name, texts in answers.items() if all(text is None for text in texts)]
    if silent:
        raise UserError(f"{silent[0]} answered none of {len(rows)} rows; see its server, or leave it out")
    return answers


async def _answers(sampler: Sampler, model: str, data: TaskData, rows: Sequence[TaskRow]) -> list[str | None]:
    """Greedy answers; None where a server gave none."""

    async def answer(row: TaskRow) -> str | None:
        sampling = SamplingSpec(temperature=0.0, max_tokens=data.tasks[row.task].max_tokens)
        content: Content = {"messages": [dict(message) for message in row.messages]}
        try:
            draw = await sampler.samples(row.task, model, content, sampling, 1)
        except DrawFailed:
            return None
        return None if draw.failure is not None else draw.samples[0].text

    return list(await asyncio.gather(*(answer(row) for row in rows)))


def _scores(
    data: TaskData,
    rows: Sequence[TaskRow],
    answers: Mapping[str, Sequence[str | None]],
    reference: str,
    cards: Mapping[str, TuningCard],
    seed: int,
) -> list[Score]:
    """A score for each sub-task and model that has one."""
    by_row = {name: _row_scores(data, rows, texts) for name, texts in answers.items()}
    scores = []
    for task in dict.fromkeys(row.task for row in rows):
        ids = {row.id for row in rows if row.task == task}
        of_task = {name: {i: s for i, s in of_model.items() if i in ids} for name, of_model in by_row.items()}
        for number, (name, row_scores) in enumerate(of_task.items()):
            mean = mean_interval(row_scores.values(), stream_rng(seed, Stream.MODEL_SCORE, number))
            if mean is None:
                continue
            rng = stream_rng(seed, Stream.MODEL_DIFFERENCE, number)
            scores.append(
                Score(
                    model=name,
                    task=task,
                    score=mean,
                    n_missing=sum(score is None for score in row_scores.values()),
                    tuned_for=name in cards and task in cards[name].tasks,
                    against=None
                    if name == reference
                    else paired_difference(row_scores, of_task[reference], rng),
                )
            )
    return scores


def _row_scores(
    data: TaskData, rows: Sequence[TaskRow], answers: Sequence[str | None]
) -> dict[str, float | None]:
    """The score of each answer by the row's id; None where there is none."""
    scores: dict[str, float | None] = {}
    for row, text in zip(rows, answers, strict=True):
        try:
            scores[row.id] = None if text is None else score_answer(data.tasks[row.task], row, text)
        except CustomCodeFailed:
            scores[row.id] = None
    return scores


async def _preferred(
    data: TaskData,
    rows: Sequence[TaskRow],
    of_model: Sequence[str | None],
    of_reference: Sequence[str | None],
    chat: JsonChat,
) -> dict[str, int]:
    """How often the judge preferred the model, the reference, or neither."""
    verdicts = await asyncio.gather(
        *(
            prefer(data.tasks[row.task], row.messages, a, b, chat)
            for row, a, b in zip(rows, of_model, of_reference, strict=True)
            if a is not None and b is not None
        )
    )
    counts = Counter(verdicts)
    return {"model": counts["first"], "reference": counts["second"], "tie": counts["tie"]}
