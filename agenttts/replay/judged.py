"""Right and wrong samples among those that a search recorded at one stage.

A sample is right when the stage's metric says so or, at a stage without a metric, when the pipeline scored
well with that very output. Trials on the test split are never read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from agenttts.errors import UserError
from agenttts.results.spec_bank import attach_spec_bank
from datastore.records import Sample, StageResult
from datastore.store import Store
from pipelines.dataset.splits import load_examples, seeded_order
from pipelines.examples import Example
from pipelines.reading.comparing import vote_key
from pipelines.runtime.runtime import MISSING
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages import metrics
from pipelines.stages.parsers import Parsed, parse

RIGHT = 1.0
"""The score from which a sample counts as right."""

Texts: TypeAlias = Mapping[str, Sequence[tuple[Sample, str]]]
"""Samples by their text, each with the key of the model that drew it."""


@dataclass(frozen=True, kw_only=True)
class JudgedPrompt:
    """The judged samples of one prompt, of all models together.

    Attributes:
        example: The example that the prompt was rendered for.
        messages: The chat that was sent.
        right: The samples that are right.
        wrong: The samples that are wrong. Samples that can't be judged are in neither.
    """

    example: Example
    messages: tuple[Mapping[str, str], ...]
    right: Texts
    wrong: Texts


@dataclass
class _Drawn:
    """All samples of one prompt of one example."""

    example: Example
    messages: tuple[Mapping[str, str], ...]
    texts: dict[str, list[tuple[Sample, str]]] = field(default_factory=lambda: defaultdict(list))


def drawn_ids(examples: Sequence[Example], share: float, seed: int) -> set[str]:
    """Draw a share of the examples whose recorded samples become training data.

    Args:
        examples: The examples to draw from.
        share: The share to draw, from 0 to 1. At least one example is drawn.
        seed: The seed; the draw depends on it and the examples' ids alone.

    Returns:
        The ids of the examples that were drawn.
    """
    order = seeded_order(examples, lambda example: example.id, seed, "tune")
    return {example.id for example in order[: max(1, round(share * len(examples)))]}


async def judged_prompts(
    store: Store,
    run_id: str | None,
    spec: PipelineSpec,
    stage: StageSpec,
    *,
    right: float = RIGHT,
    only: Collection[str] | None = None,
) -> list[JudgedPrompt]:
    """Find every prompt of a stage in a run, with its right and its wrong samples.

    Args:
        store: The store of the run.
        run_id: The run; None: the newest.
        spec: The pipeline that the run searched.
        stage: The stage whose samples are judged.
        right: The score from which a sample counts as right.
        only: The ids of the search examples to read; None: all.

    Returns:
        The prompts, one for each example and chat.

    Raises:
        UserError: The run has no samples of the stage on these examples.
    """
    attach_spec_bank(spec, store)
    run = store.run(run_id)
    examples = {e.id: e for e in load_examples(spec, "search") if only is None or e.id in only}
    results: dict[str, StageResult] = {}
    outputs: dict[str, dict[str, bool]] = defaultdict(dict)
    for trial in store.trials(run.run_id):
        if trial.split == "test":
            continue
        scores = store.scores(trial.trial_id)
        for result in store.stage_results(trial.trial_id):
            if result.stage != stage.name or result.example_id not in examples or result.status != "ok":
                continue
            if result.prompt_key is not None:
                results.setdefault(result.prompt_key, result)
            score = scores.get(result.example_id)
            if result.output is None or score is None or score.score is None:
                continue
            if key := vote_key(json.loads(result.output)):
                before = outputs[result.example_id].get(key, False)
                outputs[result.example_id][key] = before or score.score >= right
    if not results:
        raise UserError(f"run {run.run_id} has no samples of stage {stage.name} on its search split")
    return [
        _judged(stage, prompt, outputs[prompt.example.id], right)
        for prompt in await _drawn_prompts(store, results, examples)
    ]


async def _drawn_prompts(
    store: Store, results: Mapping[str, StageResult], examples: Mapping[str, Example]
) -> list[_Drawn]:
    """Return the prompts by example and messages, with the samples of all models together."""
    prompts: dict[tuple[str, str], _Drawn] = {}
    samples = await store.get_samples(sorted(results))
    for key in sorted(results):
        result = results[key]
        prompt = await store.get_prompt(key)
        content = json.loads(prompt.content) if prompt is not None else {}
        if "messages" not in content:
            continue
        messages = content["messages"]
        place = (result.example_id, json.dumps(messages, ensure_ascii=False))
        drawn = prompts.setdefault(place, _Drawn(examples[result.example_id], tuple(messages)))
        for sample in samples[key]:
            drawn.texts[sample.text].append((sample, result.model_key))
    return list(prompts.values())


def _judged(stage: StageSpec, prompt: _Drawn, outputs: Mapping[str, bool], right: float) -> JudgedPrompt:
    by_verdict: dict[bool | None, dict[str, list[tuple[Sample, str]]]] = {True: {}, False: {}, None: {}}
    for text, samples in prompt.texts.items():
        by_verdict[_is_right(stage, text, prompt.example, outputs, right)][text] = samples
    return JudgedPrompt(
        example=prompt.example, messages=prompt.messages, right=by_verdict[True], wrong=by_verdict[False]
    )


def _is_right(
    stage: StageSpec, text: str, example: Example, outputs: Mapping[str, bool], right: float
) -> bool | None:
    """Return whether a sample's text is right; None when it can't be judged."""
    try:
        parsed = parse(stage.parser, text, example)
        if not isinstance(parsed, Parsed):
            return False
        if stage.metric is not None:
            score = metrics.score(stage.metric, parsed.value, example)
            return None if score is None else score >= right
        return outputs.get(vote_key(parsed.value) or "")
    except MISSING:
        return None
