"""How samples of the three stages become one output; samples that did not parse have no vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages.aggregators import Candidate, plurality
from pipelines.tool_use.rows import text
from pipelines.tool_use.scoring import Argument, Call, Selection, rouge_l


def most_alike(candidates: Sequence[Candidate], example: Example) -> list[JSON] | None:
    """The steps that are most like those of the other samples, by ROUGE-L; of equals, the first drawn."""
    values = [cast(list[JSON], c.value) for c in candidates if c.value is not None]
    said = [" ".join(map(str, value)) for value in values]
    likeness = [sum(rouge_l(one, other) for other in said) for one in said]
    return values[likeness.index(max(likeness))] if values else None


def by_element(candidates: Sequence[Candidate], example: Example) -> JSON:
    """The tools and links that half of the samples or more name, in the order first drawn.

    Where no tool has so many votes, the selection with the most votes as a whole.
    """
    ballots = [cast(Selection, c.value) for c in candidates if c.value is not None]
    if not ballots:
        return None
    tools = Counter(name for ballot in ballots for name in dict.fromkeys(ballot["tools"]))
    links = Counter(
        pair for b in ballots for pair in dict.fromkeys((k["source"], k["target"]) for k in b["links"])
    )
    kept = [name for name, votes in tools.items() if 2 * votes >= len(ballots)]
    if not kept:
        return plurality(candidates)
    joined = [pair for pair, votes in links.items() if 2 * votes >= len(ballots) and set(pair) <= set(kept)]
    return {"tools": kept, "links": [{"source": source, "target": target} for source, target in joined]}


def by_parameter(candidates: Sequence[Candidate], example: Example) -> list[Call] | None:
    """For each tool that half of the samples call, the parameters that half of those give, usual values."""
    parsed = [cast(list[Call], c.value) for c in candidates if c.value is not None]
    ballots = [{call["tool"]: call for call in calls} for calls in parsed]
    if not ballots:
        return None
    called = Counter(tool for ballot in ballots for tool in ballot)
    filled = list[Call]()
    for tool in (tool for tool, votes in called.items() if 2 * votes >= len(ballots)):
        given = [ballot[tool]["arguments"] for ballot in ballots if tool in ballot]
        names = Counter(name for some in given for name in dict.fromkeys(a["name"] for a in some))
        kept = [name for name, votes in names.items() if 2 * votes >= len(given)]
        filled.append({"tool": tool, "arguments": [_usual(name, given) for name in kept]})
    return filled


def _usual(name: str, given: Sequence[Sequence[Argument]]) -> Argument:
    values = [text(a["value"]) for some in given for a in some if a["name"] == name]
    return {"name": name, "value": Counter(values).most_common(1)[0][0]}
