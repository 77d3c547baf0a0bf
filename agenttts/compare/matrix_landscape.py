"""A recorded table as a landscape, whose cells cost what the table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from agenttts.compare.landscapes import Landscape, best_score
from agenttts.compare.matrix import Matrix
from agenttts.errors import UserError
from agenttts.replay.arrays import FAILED, Outcomes, StageOutcomes
from agenttts.space.space import SearchSpace
from pipelines.spec.pipeline import PipelineSpec

_Ints = npt.NDArray[np.int64]
_TOKENS = 100  # of every sample, so that prices say what options cost


def matrix_landscape(matrix: Matrix, seed: int, holdout: float = 0.0) -> Landscape:
    """Return a table as a landscape. Options and examples are in a random order.

    Args:
        matrix: The table.
        seed: The seed of the order.
        holdout: The share of the examples that the search does not see, and that give the true scores; at 0
            the search sees all, and they give the true scores.

    Raises:
        UserError: Neither part may be empty.
    """
    rng = np.random.default_rng([seed, 2611])
    count = len(matrix.examples)
    order, n_truth = rng.permutation(count), round(holdout * count)
    if not 0 <= n_truth < count or (holdout and not n_truth):
        raise UserError(f"--holdout leaves examples on both sides, got {holdout:g} of {count} examples")
    every = list(dict.fromkeys(option for options in matrix.options.values() for option in options))
    ranks = dict(zip(every, rng.permutation(len(every)).tolist(), strict=True))
    options = {stage: sorted(of, key=ranks.__getitem__) for stage, of in matrix.options.items()}
    spec = _spec(matrix, options)
    space = SearchSpace(spec, spec.budget.amount)
    shuffled = [
        np.array([matrix.options[stage].index(option) for option in of_stage])
        for stage, of_stage in options.items()
    ]
    seen, fresh = order[n_truth:], order[:n_truth] if n_truth else order
    outcomes, truth = (_outcomes(matrix, spec, shuffled, part) for part in (seen, fresh))
    best, exact = best_score(truth, space)
    return Landscape(name=matrix.name, space=space, outcomes=outcomes, truth=truth, best=best, exact=exact)


def _outcomes(matrix: Matrix, spec: PipelineSpec, shuffled: Sequence[_Ints], examples: _Ints) -> Outcomes:
    """A node of a stage is an example with the options of the stages before; only the last stage costs."""
    where = np.ix_(*shuffled, examples)
    scores = np.moveaxis(matrix.scores[where], -1, 0)
    costs = np.ones(scores.shape) if matrix.costs is None else np.moveaxis(matrix.costs[where], -1, 0)
    stages, nodes = [], len(examples)
    for stage, of_stage in zip(spec.stages, shuffled, strict=True):
        leads_to = np.arange(nodes * len(of_stage), dtype=np.int32).reshape(nodes, len(of_stage), 1)
        flops = np.zeros(leads_to.shape, dtype=np.float32)
        stages.append(StageOutcomes(name=stage.name, options=stage.options, leads_to=leads_to, flops=flops))
        nodes *= len(of_stage)
    by_node = scores.reshape(stages[-1].leads_to.shape)
    missing = np.isnan(by_node)
    stages[-1] = replace(
        stages[-1],
        leads_to=np.where(missing, FAILED, 0).astype(np.int32),
        flops=np.where(missing, 0.0, np.nan_to_num(costs.reshape(by_node.shape))).astype(np.float32),
    )
    ids = tuple(matrix.examples[i] for i in examples)
    return Outcomes(example_ids=ids, stages=tuple(stages), scores=by_node.astype(np.float32))


def _spec(matrix: Matrix, options: Mapping[str, Sequence[str]]) -> PipelineSpec:
    """A pipeline whose options are priced by the mean cost of the cells that they take part in."""
    amounts: dict[str, list[float]] = {}
    for k, of_stage in enumerate(matrix.options.values()):
        for i, option in enumerate(of_stage):
            cells = np.ones(1) if matrix.costs is None else np.take(matrix.costs, i, axis=k)
            known = cells[~np.isnan(cells)]
            amounts.setdefault(option, []).append(float(known.mean()) if len(known) else 0.0)
    usd = {option: max(float(np.mean(of_option)), 1e-9) for option, of_option in amounts.items()}
    data = {
        "name": "matrix",
        "stages": [
            {
                "name": stage,
                "prompt": "{{ question }}",
                "models": list(of_stage),
                "max_samples": 1,
                "prompt_tokens": 1,
                "generated_tokens": _TOKENS,
            }
            for stage, of_stage in options.items()
        ],
        "models": {
            option: {
                "base_url": "http://127.0.0.1:9/v1",
                "price": {
                    "prompt_usd_per_million": 0.0,
                    "generated_usd_per_million": amount / len(options) * 1e6 / _TOKENS,
                },
            }
            for option, amount in usd.items()
        },
        "dataset": {"search": "search.jsonl", "test": "test.jsonl"},
        "metric": {"kind": "exact_match", "label": "answer"},
        "budget": {"usd": 1.001 * max(usd.values())},
    }
    try:
        return PipelineSpec.model_validate(data)
    except ValueError as error:
        raise UserError(f"{matrix.name}: the table's stages and options make no pipeline: {error}") from None
