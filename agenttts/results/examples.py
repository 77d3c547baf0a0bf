"""The examples of a trial as a person reads them: prompts, samples with their values, votes, gold, scores.

The report, `SearchResult.examples` and the pages of `agenttts ui` show these values, which
`agenttts.results.trial_reader` reads from a store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agenttts.results.trials import QueryCost
from datastore.records import ResultStatus
from pipelines.jsonvalues import JSON

Show = Literal["all", "wrong", "missing", "cut", "changed"]
"""Which examples of a trial are shown: all, those that score below 1 (the lowest first), those without a
score, those with a sample that ended at the token limit, those that score otherwise in another trial."""


@dataclass(frozen=True, kw_only=True)
class ReadSample:
    """One sample of a stage.

    Attributes:
        index: The number of the draw, from 0.
        text: What the model wrote.
        value: What the stage's parser reads in it; None where that is nothing.
        problem: Why there is no value; None otherwise.
        generated_tokens: Its length in tokens.
        finish_reason: Why it ended, as the server said.
    """

    index: int
    text: str
    value: JSON
    problem: str | None
    generated_tokens: int
    finish_reason: str

    @property
    def is_cut(self) -> bool:
        """Whether it ended at the token limit."""
        return self.finish_reason == "length"


@dataclass(frozen=True, kw_only=True)
class VoteCount:
    """What one value, or one item of the lists that are voted on, has got.

    Attributes:
        value: The value or the item.
        votes: The number of samples that name it.
        share: Its share of the weight of all ballots, by the stage's rule.
    """

    value: JSON
    votes: int
    share: float


@dataclass(frozen=True, kw_only=True)
class ReadStage:
    """What a stage made of an example.

    Attributes:
        stage: The name of the stage.
        source: The option that answered: a model with its prompt or verifier, or a function's option.
        n_samples: The number of samples used.
        prompt: What the model read, by role; empty where it is not stored here.
        samples: The samples used; empty where they are not stored here.
        votes: The counts of a vote, the most weight first; empty for another aggregator.
        output: The output; None where no sample has a value, or on an error.
        gold: The gold value of the stage's own metric; None without one.
        score: The score by that metric; None without one.
        status: `error` where there is no output for a fault.
        reason: The fault, or what the prompt lacks; None otherwise.
        prompt_tokens: Of the samples used.
        generated_tokens: Of the samples used.
        cost: FLOPs and US dollars of the samples used.
        samples_drawn: Samples that this trial paid for.
        samples_reused: Samples taken from the bank.
    """

    stage: str
    source: str
    n_samples: int
    prompt: tuple[tuple[str, str], ...]
    samples: tuple[ReadSample, ...]
    votes: tuple[VoteCount, ...]
    output: JSON
    gold: JSON
    score: float | None
    status: ResultStatus
    reason: str | None
    prompt_tokens: int
    generated_tokens: int
    cost: QueryCost
    samples_drawn: int
    samples_reused: int

    @property
    def distinct(self) -> tuple[tuple[ReadSample, int], ...]:
        """The first sample of each text, and how often the text was drawn; the most frequent first."""
        times = Counter(sample.text for sample in self.samples)
        first = {sample.text: sample for sample in reversed(self.samples)}
        return tuple((first[text], n) for text, n in times.most_common())


@dataclass(frozen=True, kw_only=True)
class TrialExample:
    """One example of a trial.

    Attributes:
        trial: The number of the trial.
        example_id: The example.
        fields: The example's fields; empty where the dataset can't be read any more.
        gold: The gold value of the pipeline's metric; None where a function of the user's scores.
        score: The score; None where it is missing.
        reason: Why the score is missing; None otherwise.
        stages: What the stages made of it, in their order.
        cost: What all stages took.
    """

    trial: int
    example_id: str
    fields: Mapping[str, JSON]
    gold: JSON
    score: float | None
    reason: str | None
    stages: tuple[ReadStage, ...]
    cost: QueryCost

    @property
    def output(self) -> JSON:
        """The output of the last stage that was run."""
        return self.stages[-1].output if self.stages else None


def value_text(value: JSON) -> str:
    """Format a value for reading: a text as it is, None as –, anything else as JSON.

    Args:
        value: The value.
    """
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
