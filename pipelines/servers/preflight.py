"""What a pipeline's servers would refuse, found before a token is spent.

Servers that are not up, models they do not serve, context lengths beyond theirs, prompts that do not fit. The
spec by itself, the dataset and the budget are checked elsewhere.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from datastore.keys import canonical_json
from pipelines.content import Content
from pipelines.costs import estimated_tokens, prompt_tokens_bound
from pipelines.dataset.splits import load_examples
from pipelines.errors import ServerError
from pipelines.examples import Example
from pipelines.servers.clients import ModelClients
from pipelines.servers.server import StatusError
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages.prompts import render

_LONGEST_PROMPTS = 8  # counted by the server, for each stage and model
_MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a server would refuse.

    Attributes:
        place: A field of the spec.
        estimated: Whether tokens were guessed.
    """

    place: str
    message: str
    remedy: str
    estimated: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class _ServerAnswer:
    """What asking a model's server showed. window: tokens of prompt and generation, None when unknown."""

    problem: Problem | None
    window: int | None


async def preflight(
    spec: PipelineSpec, clients: ModelClients, examples: Sequence[Example] | None = None
) -> list[Problem]:
    """Every problem with the servers, in the order of the spec; [] when the pipeline can run.

    examples: whose prompts must fit; None for both splits of the dataset. Raises what `load_examples` does,
    and SpecError when a prompt does not render. Costs nothing: no sample is drawn.
    """
    if examples is None:
        examples = [*load_examples(spec, "search"), *load_examples(spec, "test")]
    used = spec.used_models
    answers = dict(
        zip(used, await asyncio.gather(*(_ask(spec, clients, name) for name in used)), strict=True)
    )
    problems = [answer.problem for answer in answers.values() if answer.problem is not None]
    up = [name for name, answer in answers.items() if answer.problem is None]
    windows = {name: window for name in up if (window := answers[name].window) is not None}
    lengths = await asyncio.gather(
        *(
            _overflow(spec, stage, name, windows[name], clients, examples)
            for stage in spec.stages
            for name in stage.models
            if name in windows
        )
    )
    return [*problems, *(problem for problem in lengths if problem is not None)]


async def _ask(spec: PipelineSpec, clients: ModelClients, name: str) -> _ServerAnswer:
    model, server, served_name = spec.models[name], clients.server(name), clients.served_name(name)
    try:
        served = await clients.served(name)
    except StatusError as error:
        return _ServerAnswer(_unlisted(name, model, error), model.context_length)
    except ServerError as error:
        remedy = f"start it (agenttts serve SPEC --only {name}) or correct the address"
        return _ServerAnswer(
            Problem(place=f"models.{name}.base_url", message=f"no server: {error}", remedy=remedy), None
        )
    if not any(fnmatchcase(served_name, pattern) for pattern in served.names):
        near = difflib.get_close_matches(served_name, served.names, n=_MOST_NAMES, cutoff=0.0)
        shown = served.names if len(served.names) <= _MOST_NAMES else near
        more = ", …" if len(shown) < len(served.names) else ""
        message = f"{server.address} serves {', '.join(shown) or 'nothing'}{more}, got {served_name!r}"
        return _ServerAnswer(
            Problem(place=f"models.{name}.served_name", message=message, remedy="name one of these"), None
        )
    longest, stated = served.max_model_len, model.context_length
    if longest is not None and stated is not None and stated > longest:
        message = f"must be at most the server's max_model_len, {longest}, got {stated}"
        remedy = "lower it or serve the model with a longer one"
        return _ServerAnswer(
            Problem(place=f"models.{name}.context_length", message=message, remedy=remedy), longest
        )
    return _ServerAnswer(None, stated or longest)


def _unlisted(name: str, model: ModelSpec, error: StatusError) -> Problem | None:
    """A problem when a server won't list its models for want of a key; some have no list at all."""
    if error.status in (404, 405, 501):
        return None
    if error.status in (401, 403):
        remedy = (
            f"correct the key in {model.api_key_env}"
            if model.api_key_env
            else "name the variable that holds the key in api_key_env"
        )
        return Problem(place=f"models.{name}.api_key_env", message=str(error), remedy=remedy)
    remedy = "try later or correct the address"
    return Problem(place=f"models.{name}.base_url", message=f"no server: {error}", remedy=remedy)


async def _overflow(
    spec: PipelineSpec,
    stage: StageSpec,
    name: str,
    window: int,
    clients: ModelClients,
    examples: Sequence[Example],
) -> Problem | None:
    """A problem when a prompt of the stage and its generation are longer than the model's window.

    Prompts of a stage with inputs are not known yet: their expected length counts.
    """
    generated = spec.models[name].sampled(stage.sampling).max_tokens or 1
    place = f"stages[{stage.name}]"
    remedy = f"shorten it, lower sampling.max_tokens or leave {name} out of this stage"
    if stage.input_names:
        prompt_tokens = max(stage.lengths_of(o)[0] for o in stage.options if o.model == name)
        if prompt_tokens + generated <= window:
            return None
        message = f"prompt_tokens + max_tokens must be at most the {window} of {name}"
        return Problem(place=place, message=f"{message}, got {prompt_tokens:g} + {generated}", remedy=remedy)
    prompts = [stage.prompted(prompt) for prompt in stage.prompt_names]
    contents = [(render(prompted, example, {}), example) for prompted in prompts for example in examples]
    sized = [(canonical_json(content), content, example) for content, example in contents]
    risky = [item for item in sized if prompt_tokens_bound(item[0], None) + generated > window]
    risky.sort(key=lambda item: len(item[0]), reverse=True)
    worst: tuple[int, Example, bool] | None = None
    for text, content, example in risky[:_LONGEST_PROMPTS]:
        count, estimated = await _tokens(clients, name, content, text)
        if count + generated > window and (worst is None or count > worst[0]):
            worst = (count, example, estimated)
    if worst is None:
        return None
    about = "about " if worst[2] else ""
    message = f"prompt and generation must fit the {window} tokens of {name}, example {worst[1].id!r} needs"
    message += f" {about}{worst[0]} + {generated}"
    return Problem(place=place, message=message, remedy=remedy, estimated=worst[2])


async def _tokens(clients: ModelClients, name: str, content: Content, text: str) -> tuple[int, bool]:
    """Tokens of a prompt, and whether that is an estimate, for want of a server that counts."""
    count = await clients.server(name).count_tokens(clients.served_name(name), content)
    return (estimated_tokens(text), True) if count is None else (count, False)
