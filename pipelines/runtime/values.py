"""The value of one stage: its samples are drawn, parsed and aggregated, or its function is called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pipelines.allocation import StageChoice
from pipelines.content import Content
from pipelines.errors import AggregationFailed, CustomCodeFailed, PipelineError, ReplayMiss
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.runtime.calls import FunctionCaller
from pipelines.runtime.outcomes import Ledger
from pipelines.runtime.sampler import Sampler, Samples
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import ContextOverflow
from pipelines.spec.functions import reference
from pipelines.spec.models import SamplingSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import Fusion, Refine, Verifier
from pipelines.stages import aggregators, parsers, prompts
from pipelines.stages.candidates import Candidate

VERIFYING = SamplingSpec(temperature=0.0, max_tokens=1)
"""A verifier draws nothing: this only completes what identifies its answer."""
Outputs: TypeAlias = Mapping[str, JSON]
"""The values of the stages before, by name."""


class StageValues:
    """Gets the values of a pipeline's stages.

    Args:
        sampler: Draws the samples.
        caller: Calls the stages' functions.
    """

    def __init__(self, sampler: Sampler, caller: FunctionCaller) -> None:
        self._sampler = sampler
        self._caller = caller

    async def value(
        self,
        stage: StageSpec,
        choice: StageChoice,
        example: Example,
        outputs: Outputs,
        ledger: Ledger,
        stream: TextStream | None = None,
    ) -> JSON:
        """Return what the stage's aggregator makes of the samples, which it draws, or its function returns.

        Args:
            stage: The stage, with the choice's prompt as its own.
            choice: The choice.
            example: The example.
            outputs: The values of the stages before.
            ledger: Gets what it takes.
            stream: Gets the text of the sample as it is drawn, where it is one; None: nobody reads it.

        Raises:
            DrawFailed, AggregationFailed, CustomCodeFailed: There is no value, for the reason that is given.
        """
        if stage.python is not None:
            call = await self._caller.call(stage, choice.option, example, outputs)
            ledger.add_call(call.prompt_key, call.cost, is_new=call.is_new)
            return call.value
        aggregator = stage.aggregator_for(choice.option)
        if isinstance(aggregator, Refine):
            return await self._refined(stage, aggregator, choice, example, outputs, ledger)
        content = prompts.render(stage, example, outputs)
        drawn = await self.samples(stage, choice.model, content, choice.n_samples, ledger, stream=stream)
        if isinstance(aggregator, Fusion):
            texts = [sample.text for sample in drawn.samples]
            request = prompts.render_fusion(stage, texts, example, outputs)
            fused = await self.samples(stage, aggregator.model, request, 1, ledger)
            return _parsed(stage, fused.samples[0].text, example)
        candidates = candidates_of(stage, drawn, example)
        if isinstance(aggregator, Verifier):
            return await self._verified(stage, aggregator, content, candidates, example, outputs, ledger)
        return await aggregated(stage, candidates, example, outputs)

    async def _verified(
        self,
        stage: StageSpec,
        verifier: Verifier,
        content: Content,
        candidates: Sequence[Candidate],
        example: Example,
        outputs: Outputs,
        ledger: Ledger,
    ) -> JSON:
        """The value of the sample that the verifier thinks most likely right; equal texts are read once."""
        texts = list(dict.fromkeys(c.text for c in candidates if c.value is not None))
        requests: list[Content] = [{"classify": prompts.verified_text(content, text)} for text in texts]
        try:
            answers = await asyncio.gather(
                *(self.samples(stage, verifier.model, one, 1, ledger, VERIFYING) for one in requests)
            )
        except ContextOverflow as error:
            raise AggregationFailed(f"a sample is too long for its verifier: {error}") from error
        scores = {
            text: float(json.loads(answer.samples[0].text)[-1])
            for text, answer in zip(texts, answers, strict=True)
        }
        return aggregators.best_of_n(candidates, lambda c, *_: scores.get(c.text), example, outputs)

    async def _refined(
        self,
        stage: StageSpec,
        refine: Refine,
        choice: StageChoice,
        example: Example,
        outputs: Outputs,
        ledger: Ledger,
    ) -> JSON:
        """The draft after as many rounds; a round that does not parse leaves it, no feedback ends them."""
        draft = outputs[refine.start]
        for number in range(choice.n_samples):
            feedback = await _feedback(refine, draft, example)
            if feedback is None:
                break
            content = prompts.render(stage, example, outputs, prompts.Revision(draft, feedback))
            try:
                drawn = await self.samples(stage, choice.model, content, 1, ledger)
            except ReplayMiss as miss:
                miss.available = number
                raise
            value = _parsed(stage, drawn.samples[0].text, example)
            if value is None or value == draft:
                break  # the next round would ask the same
            draft = value
        return draft

    async def samples(
        self,
        stage: StageSpec,
        model: str,
        content: Content,
        n: int,
        ledger: Ledger,
        sampling: SamplingSpec | None = None,
        stream: TextStream | None = None,
    ) -> Samples:
        """Return the samples 0 to n-1 of a request.

        Args:
            stage: The stage.
            model: The model that is asked.
            content: The request.
            n: How many samples.
            ledger: Gets what they take.
            sampling: How they are drawn; None: as the stage says.
            stream: As in `value`.

        Raises:
            DrawFailed: One could not be drawn.
        """
        sampling = sampling or stage.sampling
        drawn = await self._sampler.samples(stage.name, model, content, sampling, n, stream)
        ledger.add(model, drawn)
        if drawn.failure is not None:
            raise drawn.failure
        return drawn


async def aggregated(
    stage: StageSpec, candidates: Sequence[Candidate], example: Example, outputs: Outputs
) -> JSON:
    """Return what a stage's aggregator makes of candidates.

    A function of the user's own may take its time: it runs beside the event loop.

    Args:
        stage: The stage.
        candidates: The candidates.
        example: The example.
        outputs: The values of the stages before.
    """
    if stage.aggregator.is_free:
        return aggregators.aggregate(stage, candidates, example, outputs)
    return await asyncio.to_thread(aggregators.aggregate, stage, candidates, example, outputs)


def candidates_of(stage: StageSpec, drawn: Samples, example: Example) -> list[Candidate]:
    """Return samples with the values that the stage's parser reads in them."""
    return [
        Candidate(s.index, s.text, _parsed(stage, s.text, example), s.mean_logprob, s.generated_tokens)
        for s in drawn.samples
    ]


def _parsed(stage: StageSpec, text: str, example: Example) -> JSON:
    parsed = parsers.parse(stage.parser, text, example)
    return parsed.value if isinstance(parsed, parsers.Parsed) else None


async def _feedback(refine: Refine, draft: JSON, example: Example) -> str | None:
    if refine.feedback is None or draft is None:
        return ""
    function = refine.feedback.python
    try:
        feedback = await asyncio.to_thread(function, draft, example)
    except PipelineError:
        raise
    except Exception as error:
        raise CustomCodeFailed(
            f"feedback {reference(function)} raised {type(error).__name__}: {error}"
        ) from error
    return None if feedback is None else str(feedback)
