"""What training rows cost: the samples they were made of, whoever paid for them, and an LLM's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from agenttts.space.measure import MeasureName, amount_text
from agenttts.space.units import flops_to_units
from datastore.records import StageResult
from datastore.store import Store
from pipelines.costs import known_sum, model_flops, n_requests, stage_cost_usd
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec


class SampleCost(BaseModel):
    """What the samples cost that rows were made of, the wrong ones included.

    They are samples of one stage; what came before it to make its inputs is not counted. Each prompt is
    counted once, but in the price once for each request that drew samples of it.

    Attributes:
        examples: The number of search examples that lent their samples.
        examples_left: The number of search examples that did not, and are left to search on.
        samples: The number of samples.
        prompt_tokens: The tokens of their prompts.
        generated_tokens: The tokens of the samples.
        flops: Their FLOPs; None where active parameters are not known.
        units: The FLOPs in units of the pipeline's reference model; None where they are not known.
        usd: Their price in US dollars; None where a model has no price.
    """

    model_config = ConfigDict(frozen=True)

    examples: int
    examples_left: int
    samples: int
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    units: float | None
    usd: float | None

    @property
    def text(self) -> str:
        """The samples, where they come from and what they cost, in words."""
        amounts: tuple[tuple[float | None, MeasureName], ...] = ((self.units, "units"), (self.usd, "usd"))
        prices = [amount_text(amount, name) for amount, name in amounts if amount is not None]
        tokens = f"{self.prompt_tokens:,} prompt and {self.generated_tokens:,} generated tokens"
        return (
            f"{self.samples:,} samples of {self.examples} of {self.examples + self.examples_left} search "
            f"examples ({', '.join([tokens, *prices])})"
        )


class LlmCost(BaseModel):
    """What an LLM was asked to make a dataset. What the sample bank answered counts too.

    Attributes:
        questions: The number of questions that were answered.
        tokens: The tokens of questions and answers.
    """

    model_config = ConfigDict(frozen=True)

    questions: int
    tokens: int

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"{self.questions:,} answers of an LLM ({self.tokens:,} tokens, what the bank answered included)"
        )


async def samples_cost(
    store: Store, run_id: str, spec: PipelineSpec, stage: StageSpec, *, lent: Collection[str], n_left: int
) -> SampleCost:
    """Add up what the samples cost that a run has of a stage on some of its search examples.

    Args:
        store: The store of the run, with the spec's bank attached where it has one.
        run_id: The run.
        spec: The pipeline that the run searched.
        stage: The stage.
        lent: The ids of the examples.
        n_left: The number of the other search examples.
    """
    results: dict[str, StageResult] = {}
    for trial in store.trials(run_id):
        if trial.split == "test":
            continue
        for result in store.stage_results(trial.trial_id):
            if result.stage == stage.name and result.example_id in lent and result.prompt_key is not None:
                results.setdefault(result.prompt_key, result)
    models = {spec.model_key(name): spec.models[name] for name in spec.models}
    banked = await store.get_samples(sorted(results))
    flops: list[float | None] = []
    usd: list[float | None] = []
    of_example: dict[str, list[float | None]] = defaultdict(list)
    n_prompt_tokens = n_generated = 0
    for key, samples in banked.items():
        prompt = await store.get_prompt(key)
        read = prompt.prompt_tokens if prompt is not None and prompt.prompt_tokens is not None else 0
        generated = sum(sample.generated_tokens for sample in samples)
        n_prompt_tokens, n_generated = n_prompt_tokens + read, n_generated + generated
        model = models.get(results[key].model_key)  # the spec may have lost a model since
        flops.append(None if model is None else model_flops(model, read, generated))
        billed = 0 if model is None else read * n_requests(model, len(samples))
        usd.append(None if model is None else stage_cost_usd(model, billed, generated))
        of_example[results[key].example_id].append(flops[-1])
    by_example = [known_sum(amounts) for amounts in of_example.values()]
    units = known_sum(
        None if amount is None else flops_to_units(amount, spec.budget.reference) for amount in by_example
    )
    return SampleCost(
        examples=len(lent),
        examples_left=n_left,
        samples=sum(len(samples) for samples in banked.values()),
        prompt_tokens=n_prompt_tokens,
        generated_tokens=n_generated,
        flops=known_sum(flops),
        units=units,
        usd=known_sum(usd),
    )
