"""What a stage and a whole pipeline made of an example, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from datastore.records import ResultStatus
from pipelines.costs import chunk_requests, known_sum, model_flops, stage_cost_usd
from pipelines.jsonvalues import JSON
from pipelines.runtime.sampler import Samples
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage_parts import CallCost


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """What a stage made of an example.

    value: JSON-able; None when no sample parsed, or on an error. reason: of the error, or what was truncated.
    score: by the stage's metric; None without one.
    Tokens, flops (None: active parameters unknown) and cost_usd (None: no price; the prompt is billed to each
    request, of which max_n says how many there are) are those of the samples used, banked or not;
    samples_drawn and calls are what was paid for now. A fuser's are in all of them. seconds: it took now.
    """

    stage: str
    model: str
    n_samples: int
    prompt_key: str | None
    value: JSON
    score: float | None
    status: ResultStatus
    reason: str | None
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    cost_usd: float | None
    samples_drawn: int
    samples_reused: int
    calls: int
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleOutcome:
    """A whole pipeline on an example. On an error the stages end with the one that failed."""

    example_id: str
    stages: tuple[StageOutcome, ...]
    output: JSON
    score: float | None
    status: ResultStatus
    reason: str | None


def missing_example(example_id: str, stages: Sequence[StageOutcome], reason: str) -> ExampleOutcome:
    """Return the outcome of an example that a fault made missing.

    Args:
        example_id: The example.
        stages: The stages that were run, to the one that failed.
        reason: What went wrong.
    """
    return ExampleOutcome(
        example_id=example_id, stages=tuple(stages), output=None, score=None, status="error", reason=reason
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """The longest prefix of a prompt's samples that was used.

    chunks: how many samples there were after each draw; the last is all of them.
    """

    model: ModelSpec
    prompt_tokens: int
    generated_tokens: int
    chunks: tuple[int, ...]

    @property
    def n_samples(self) -> int:
        return self.chunks[-1]

    def after(self, before: _Read) -> _Read:
        """The same samples, of which some were there before: these are not drawn again."""
        further = (n for n in self.chunks if n > before.n_samples)
        return replace(self, chunks=(*before.chunks, *further))


class Ledger:
    """Adds up what draws cost, each sample and each prompt once: a stage's own, and a fuser's or verifier's.

    Attributes:
        prompt_key: The prompt that was added first; None while there is none.
        n_drawn: Samples that were drawn now.
        calls: Requests that were answered now.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self._models = spec.models
        self._reads: dict[str, _Read] = {}
        self._calls: dict[str, CallCost] = {}
        self.prompt_key: str | None = None
        self.n_drawn = self.calls = 0

    def add(self, model: str, drawn: Samples) -> None:
        """Add the samples 0 to n - 1 of a prompt, of which some may have been added before."""
        self.prompt_key = self.prompt_key or drawn.prompt.key
        self._use(
            drawn.prompt.key,
            _Read(
                model=self._models[model],
                prompt_tokens=drawn.prompt_tokens,
                generated_tokens=drawn.generated_tokens,
                chunks=(len(drawn.samples),),
            ),
        )
        self.n_drawn += drawn.n_drawn
        self.calls += drawn.calls

    def add_call(self, prompt_key: str, cost: CallCost, *, is_new: bool) -> None:
        """Add a call of a stage's function.

        Args:
            prompt_key: What the bank knows the call by.
            cost: What it cost.
            is_new: Whether the function was called now.
        """
        self.prompt_key = self.prompt_key or prompt_key
        self._calls[prompt_key] = cost
        self.n_drawn += is_new

    def include(self, other: Ledger) -> None:
        """Add all that another ledger has, without counting twice what both have."""
        self._calls |= other._calls
        for key, read in other._reads.items():
            self._use(key, read)
        self.n_drawn += other.n_drawn
        self.calls += other.calls

    def _use(self, key: str, read: _Read) -> None:
        before = self._reads.get(key)
        if before is None:
            self._reads[key] = read
        elif before.n_samples < read.n_samples:
            self._reads[key] = read.after(before)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(read.prompt_tokens for read in self._reads.values())

    @property
    def generated_tokens(self) -> int:
        """Of all samples used, banked or not."""
        return sum(read.generated_tokens for read in self._reads.values())

    @property
    def n_samples(self) -> int:
        """Samples used, banked or not; the result of a call is one."""
        return sum(read.n_samples for read in self._reads.values()) + len(self._calls)

    @property
    def n_reused(self) -> int:
        """Samples used that were banked before."""
        return self.n_samples - self.n_drawn

    @property
    def flops(self) -> float | None:
        """FLOPs of the samples used and their prompts; None where the active parameters are not known."""
        read = (model_flops(r.model, r.prompt_tokens, r.generated_tokens) for r in self._reads.values())
        return known_sum((*read, *(cost.flops for cost in self._calls.values())))

    @property
    def cost_usd(self) -> float | None:
        """US dollars of the samples used and their prompts; None for none, and where a price is missing.

        The prompt is billed to each request: at least one for each chunk, of which the model's `max_n` says
        how many there are.
        """
        if not self._reads and not self._calls:
            return None
        read = (
            stage_cost_usd(r.model, r.prompt_tokens * chunk_requests(r.model, r.chunks), r.generated_tokens)
            for r in self._reads.values()
        )
        return known_sum((*read, *(cost.usd for cost in self._calls.values())))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedOutcome:
    """What a stage of a policy's rung made of an example.

    Attributes:
        outcome: The outcome; `n_samples` are those that were used before it stopped.
        ledger: What it used.
        features: What a calibrated confidence reads; none of a stage that takes no vote.
        steps_back: Whether a weighted vote was counted as a plain one.
    """

    outcome: StageOutcome
    ledger: Ledger
    features: tuple[float, ...] = ()
    steps_back: bool = False
