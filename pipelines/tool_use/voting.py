"""Aggregators of the three stages. Samples that did not parse have no vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.stages.aggregators import plurality
from pipelines.stages.candidates import Candidate
from pipelines.tool_use.rows import text
from pipelines.tool_use.scoring import Argument, Call, Selection, rouge_l


def most_alike(candidates: Sequence[Candidate], example: Example) -> list[JSON] | None:
    """Return the steps that are most similar to those of the other samples, by ROUGE-L.

    Ties go to the sample that was drawn first. None when no sample parsed.
    """
    values = [cast(list[JSON], c.value) for c in candidates if c.value is not None]
    texts = [" ".join(map(str, value)) for value in values]
    similarity = [sum(rouge_l(steps, other) for other in texts) for steps in texts]
    return values[similarity.index(max(similarity))] if values else None


def by_element(candidates: Sequence[Candidate], example: Example) -> JSON:
    """Return the tools and links that at least half of the samples name, in the order first drawn.

    If no tool has that many votes, the selection with the most votes as a whole is returned. None when no
    sample parsed.
    """
    ballots = [cast(Selection, c.value) for c in candidates if c.value is not None]
    if not ballots:
        return None
    tools = Counter(name for ballot in ballots for name in dict.fromkeys(ballot["tools"]))
    links = Counter(
        pair for b in ballots for pair in dict.fromkeys((k["source"], k["target"]) for k in b["links"])
    )
    chosen = [name for name, votes in tools.items() if 2 * votes >= len(ballots)]
    if not chosen:
        return plurality(candidates)
    joined = [pair for pair, votes in links.items() if 2 * votes >= len(ballots) and set(pair) <= set(chosen)]
    return {"tools": chosen, "links": [{"source": source, "target": target} for source, target in joined]}


def by_parameter(candidates: Sequence[Candidate], example: Example) -> list[Call] | None:
    """Return calls of the tools that at least half of the samples call.

    A call has the parameters that at least half of its samples give, each with its most frequent value. None
    when no sample parsed.
    """
    parsed = [cast(list[Call], c.value) for c in candidates if c.value is not None]
    ballots = [{call["tool"]: call for call in calls} for calls in parsed]
    if not ballots:
        return None
    called = Counter(tool for ballot in ballots for tool in ballot)
    filled = list[Call]()
    for tool in (tool for tool, votes in called.items() if 2 * votes >= len(ballots)):
        calls = [ballot[tool]["arguments"] for ballot in ballots if tool in ballot]
        names = Counter(name for call in calls for name in dict.fromkeys(a["name"] for a in call))
        chosen = [name for name, votes in names.items() if 2 * votes >= len(calls)]
        filled.append({"tool": tool, "arguments": [_usual(name, calls) for name in chosen]})
    return filled


def _usual(name: str, calls: Sequence[Sequence[Argument]]) -> Argument:
    values = [text(a["value"]) for call in calls for a in call if a["name"] == name]
    return {"name": name, "value": Counter(values).most_common(1)[0][0]}
