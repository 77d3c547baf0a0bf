"""The health of samples: for each stage and model, how many are empty, cut, unparsed or all one text.

A stage whose samples are mostly cut or have no value still gets a score, and that score says little of the
model. So the shares are reported, with what to do about a share that is notable. `meter` counts the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipelines.jsonvalues import JSON

# An empty sample is never an answer, and a model that works writes hardly any. A cut one may have given its
# answer before the limit. Votes bear some samples without a value; a fifth is also the share of missing
# examples above which a trial has no score. One text for all samples is common where the answer is short and
# the model sure: a text that nine samples in ten have is the only one in three of four prompts of three
# samples. At nine prompts in ten, samples after the first buy nothing, whatever the reason.
MOST_EMPTY = 0.05
MOST_CUT = 0.1
MOST_UNPARSED = 0.2
MOST_IDENTICAL = 0.9
# With fewer a share is off by more than 0.3 (two standard errors), and one bad sample would be notable.
FEWEST = 10
_LONGEST_REASON = 120


@dataclass(frozen=True, kw_only=True)
class SampleHealth:
    """Shares of the answers that a model gave at a stage, samples from the bank included.

    Attributes:
        stage: The stage.
        model: The model.
        n_samples: Answers that the shares are of: samples, each once however many trials used it, and answers
            without a text, which are no samples.
        empty: Share without any text, or without text after the thinking.
        empty_because: The commonest reason for answers without a text; None without any.
        cut: Share that ended at the token limit (`finish_reason` length).
        unparsed: Share with a text in which the stage's parser finds no value.
        unparsed_because: The commonest reason of these; None without any.
        n_prompts: Prompts with two samples or more; 0 at a temperature of 0, where they must be equal.
        identical: Share of these prompts whose samples are all one text; None without such prompts.
        max_tokens: The token limit; None when none is sent.
        temperature: The temperature; None when none is sent.
    """

    stage: str
    model: str
    n_samples: int
    empty: float
    empty_because: str | None
    cut: float
    unparsed: float
    unparsed_because: str | None
    n_prompts: int
    identical: float | None
    max_tokens: int | None
    temperature: float | None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a clause for each notable share; none where fewer than FEWEST are known."""
        return tuple(clause for clause, _ in self._problems(FEWEST))

    @property
    def warning(self) -> str | None:
        """What is wrong and what to do about it, in one line; None when no share is notable."""
        return self.warning_of()

    def warning_of(self, fewest: int = FEWEST) -> str | None:
        """Return the warning where at least so many samples are known; None when no share is notable."""
        sentences = [f"{clause}; {remedy}" for clause, remedy in self._problems(fewest)]
        return f"{self.stage} × {self.model}: {'. '.join(sentences)}" if sentences else None

    def to_json_dict(self, fewest: int = FEWEST) -> dict[str, JSON]:
        """Return the shares with the warning of `warning_of` as JSON-able data."""
        return {**asdict(self), "warning": self.warning_of(fewest)}

    def _problems(self, fewest: int) -> Iterator[tuple[str, str]]:
        """For each notable share what is wrong, and what to do about it."""
        enough = self.n_samples >= fewest
        is_cut = enough and self.cut > MOST_CUT
        if is_cut:
            limit = "the server's own limit" if self.max_tokens is None else f"max_tokens {self.max_tokens}"
            lost_share = self.empty + self.unparsed
            lost = f", {percent(lost_share)} have no value" if lost_share else ""
            remedy = "set sampling.max_tokens" if self.max_tokens is None else "raise sampling.max_tokens"
            yield f"{percent(self.cut)} of the samples were cut at {limit}{lost}", remedy
        if enough and self.empty > MOST_EMPTY and not is_cut:
            reason = (self.empty_because or "no text, or none after the thinking")[:_LONGEST_REASON]
            remedy = "correct the prompt, sampling.stop or the model's request, such as its thinking"
            yield f"{percent(self.empty)} of the samples hold no answer ({reason})", remedy
        if enough and self.unparsed > MOST_UNPARSED and not is_cut:
            reason = (self.unparsed_because or "")[:_LONGEST_REASON]
            remedy = "state the answer's form in the prompt, or correct the parser"
            yield f"the parser finds no value in {percent(self.unparsed)} of the samples ({reason})", remedy
        if self.identical is not None and self.n_prompts >= FEWEST and self.identical > MOST_IDENTICAL:
            prompts = f"{percent(self.identical)} of {self.n_prompts} prompts"
            drawn_at = "the server's own temperature"
            if self.temperature is not None:
                drawn_at = f"temperature {self.temperature:g}"
            remedy = (
                "the server may ignore it, fix a seed or keep answers; else the model is that sure, and one "
            )
            remedy += "sample does"
            yield f"all samples are one text for {prompts} at {drawn_at}", remedy


def percent(share: float) -> str:
    """Format a share as a percentage; a share that is not quite none or all is not rounded to it.

    Args:
        share: The share, 0 to 1.
    """
    if 0 < share < 0.01:
        return "under 1 %"
    return f"{min(99.0, 100 * share) if share < 1 else 100:.0f} %"


def health_text(healths: Sequence[SampleHealth]) -> str:
    """Format the largest share of each kind in a few words, such as `answer × small 82 % cut`.

    Args:
        healths: The shares of several stages and models.

    Returns:
        The words; an empty string where all shares are below one in a hundred, or prompts that are all one
        text below the notable share.
    """
    parts: list[str] = []
    for kind in ("empty", "cut", "unparsed", "identical"):
        shares: Mapping[SampleHealth, float] = {h: getattr(h, kind) or 0.0 for h in healths}
        worst = max(shares, key=lambda health: shares[health], default=None)
        if worst is not None and shares[worst] >= (MOST_IDENTICAL if kind == "identical" else 0.01):
            parts.append(f"{worst.stage} × {worst.model} {percent(shares[worst])} {kind}")
    return ", ".join(parts)
