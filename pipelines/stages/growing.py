"""The output of a stage while its one sample is being generated: as much as nothing can change any more."""

from __future__ import annotations

from pipelines.allocation import StageChoice
from pipelines.jsonvalues import JSON
from pipelines.reading.noanswer import NoAnswer
from pipelines.reading.thinking import may_go, strip_thinking
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import TextParser
from pipelines.stages.counts import Count

_LONGEST_TAG = 40
"""Characters that the mark of a thinking block may have: so many are held back where one may have begun."""
_TAG_STARTS = "<[◁＜"
_GROWTH = 1 / 8
"""By which share a text grows before it is read again, whole: all readings together take linear time."""


def is_streamable(stage: StageSpec, choice: StageChoice) -> bool:
    """Whether the output of a stage grows with its sample: one sample, taken as the text that it is.

    Args:
        stage: The stage.
        choice: What it runs.
    """
    is_text = stage.python is None and isinstance(stage.parser, TextParser)
    return is_text and choice.n_samples == 1 and Count.of(stage.aggregator_for(choice.option)) is not None


class GrowingOutput:
    """The output of such a stage, as far as it is known.

    Thinking whose opening tag stood in the prompt is seen at its end only: it can't be told from an answer.

    Attributes:
        given: What was given out so far.
    """

    def __init__(self) -> None:
        self.given = ""
        self._pieces = list[str]()
        self._n_characters = 0
        self._read_from = _LONGEST_TAG

    def add(self, text: str) -> str:
        """Take the next piece of the sample, and return what the output is known to have more; often nothing.

        Args:
            text: The piece, as the model wrote it.
        """
        self._pieces.append(text)
        self._n_characters += len(text)
        if self._n_characters < self._read_from:
            return ""
        self._read_from = int(self._n_characters * (1 + _GROWTH))
        whole = "".join(self._pieces)
        answer = strip_thinking(whole)
        if isinstance(answer, NoAnswer) or may_go(whole) or may_go(answer):
            return ""
        tail = max(0, len(answer) - _LONGEST_TAG)
        starts = [at for sign in _TAG_STARTS if (at := answer.find(sign, tail)) >= 0]
        return self._known(answer[: min(starts)] if starts else answer)

    def rest(self, output: JSON) -> str | None:
        """Return what the output has beyond what was given out; None where it is another text.

        Args:
            output: Of the stage, in the end.
        """
        whole = output if isinstance(output, str) else ""
        return whole[len(self.given) :] if whole.startswith(self.given) else None

    def _known(self, answer: str) -> str:
        known = answer.strip()
        if not known.startswith(self.given):
            return ""
        more = known[len(self.given) :]
        self.given = known
        return more
