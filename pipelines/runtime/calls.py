"""Calls of the functions that stages run, from the bank first: what a function returned is its one sample.

A call is known by its arguments, the content of the files that it reads, the function's name and the digest
of the file that defines it: a function that was changed is called again, as is one that reads a changed file.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from pydantic import ValidationError

from datastore.keys import canonical_json, make_prompt
from datastore.records import Payment, Prompt, Sample
from pipelines.allocation import StageOption
from pipelines.content import Content
from pipelines.errors import CustomCodeFailed, PipelineError, ReplayMiss, SpecError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON, plain
from pipelines.runtime.payments import SampleBank, SpendGate
from pipelines.servers.grace import Grace, end_if_cancelled
from pipelines.spec.functions import UserFunction, code_digest, content_digest, parameters, reference
from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_parts import CallCost

_LONGEST_ARGUMENT = 20_000  # characters of JSON; the bank knows a longer argument by its digest


@dataclass(frozen=True, kw_only=True)
class Costed:
    """What the function of a stage may return, to say with its value what the call cost.

    Attributes:
        value: The output of the stage.
        flops: FLOPs, which count in the budget's units; None: as the spec states them.
        usd: US dollars; None: as the spec states them.
    """

    value: object
    flops: float | None = None
    usd: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a call returned and what it cost.

    Attributes:
        prompt_key: Of the call in the bank.
        value: What the function returned.
        cost: FLOPs, US dollars and seconds of the call.
        is_new: Whether the function was called now.
    """

    prompt_key: str
    value: JSON
    cost: CallCost
    is_new: bool


class FunctionCaller:
    """Calls functions for one run. Where nothing is drawn, a missing result raises ReplayMiss instead.

    Args:
        bank: Where results are looked up and put.
        run_id: The run that pays; None where none does.
        gate: Asked before every call.
        grace: Awaits calls under way when the run is stopped. None: no function is called.
    """

    def __init__(
        self, bank: SampleBank, *, run_id: str | None, gate: SpendGate | None, grace: Grace | None
    ) -> None:
        self._bank, self._run_id, self._gate, self._grace = bank, run_id, gate, grace
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._keys: dict[str, str] = {}
        self._digests: dict[str, dict[str, JSON]] = {}

    def _prompt(self, stage: StageSpec, function: UserFunction, arguments: Mapping[str, JSON]) -> Prompt:
        """What identifies a call in the bank."""
        if stage.name not in self._keys:
            self._keys[stage.name] = function_key(function)
            self._digests[stage.name] = _file_digests(stage)
        identified = {name: _identified(value) for name, value in arguments.items()}
        content: Content = {"call": {**identified, **self._digests[stage.name]}}
        return make_prompt(self._keys[stage.name], content, {}, prompt_tokens=0)

    async def call(
        self, stage: StageSpec, option: StageOption, example: Example, outputs: Mapping[str, JSON]
    ) -> Call:
        """Return what the function of a stage gives, from the bank or by a call.

        Args:
            stage: A stage that runs a function.
            option: One of its options.
            example: The example.
            outputs: Outputs of earlier stages by name, at least those of the stage's inputs.

        Raises:
            CustomCodeFailed: The function raised an error, or returned what JSON can't hold.
            ReplayMiss: It was never called with these arguments, and nothing is drawn.
            SpecError: A file that it reads does not exist.
            SpendRefused: A limit leaves no room for what the call may cost.
        """
        assert stage.python is not None
        arguments = arguments_of(stage, option, example, outputs)
        prompt = self._prompt(stage, stage.python, arguments)
        lock = self._locks.setdefault(prompt.key, asyncio.Lock())
        async with lock:
            banked = (await self._bank.get_samples([prompt.key])).get(prompt.key, ())
            for sample in banked:
                if sample.index == 0:
                    return _read(sample, is_new=False)
            if self._grace is None:
                raise ReplayMiss(
                    f"stage {stage.name!r}: the bank has no result of {reference(stage.python)} with option "
                    f"{option.model!r} for call {prompt.key}; run without --replay, or attach a bank that "
                    "has it"
                )
            self._grace.check()
            stated = stage.cost_of(option)
            entry = None
            if self._gate is not None:
                entry = await self._gate.reserve_cost(stage.name, stated.flops, stated.usd)
            cost = CallCost()
            try:
                value, cost = await self._grace.awaited(called(stage.python, arguments, stated))
            finally:
                if entry is not None:
                    entry.settle_cost(cost.flops, cost.usd)
            sample = Sample(
                prompt_key=prompt.key,
                index=0,
                text=json.dumps({"value": value, **cost.model_dump()}, ensure_ascii=False),
                generated_tokens=0,
                mean_logprob=None,
                finish_reason="stop",
                run_id=self._run_id,
                request_id=None,
            )
            payment = None
            if self._run_id is not None:
                payment = Payment(
                    run_id=self._run_id,
                    model_key=prompt.model_key,
                    prompt_key=prompt.key,
                    calls=0,
                    samples_drawn=1,
                    prompt_tokens=0,
                    generated_tokens=0,
                )
            await self._bank.put_samples(prompt, [sample], payment)
            end_if_cancelled()
            return _read(sample, is_new=True)


def function_key(function: UserFunction) -> str:
    """Return what the bank knows a function by, in place of a model's key.

    Args:
        function: The function.
    """
    return f"python:{reference(function)}@{code_digest(function)}"


def arguments_of(
    stage: StageSpec, option: StageOption, example: Example, outputs: Mapping[str, JSON]
) -> dict[str, JSON]:
    """Return the arguments of a call by name: the option's, inputs, files, and fields that are parameters.

    Args:
        stage: A stage that runs a function.
        option: One of its options.
        example: The example.
        outputs: Outputs of earlier stages by name, at least those of the stage's inputs.
    """
    assert stage.python is not None
    takes = parameters(stage.python)
    fields = {
        name: example.fields[name] for name in (*takes.required, *takes.optional) if name in example.fields
    }
    inputs = {name: outputs[name] for name in stage.input_names}
    paths = {name: str(path) for name, path in stage.paths.items()}
    return {**fields, **inputs, **stage.arguments[option.model], **paths}


def _file_digests(stage: StageSpec) -> dict[str, JSON]:
    """What identifies the files that a function reads: the name and the content of each, not its place."""
    digests = dict[str, JSON]()
    for name, path in stage.paths.items():
        try:
            digests[name] = f"{path.name}@{content_digest(path)}"
        except OSError as error:
            raise SpecError(
                f"must be a file or directory that can be read, got {stage.files[name]!r} ({error.strerror})",
                field=f"stages[{stage.name}].files.{name}",
                remedy="paths start from the spec's directory",
            ) from None
    return digests


def _identified(value: JSON) -> JSON:
    """What the bank knows an argument by: itself, or its digest where it is as long as a corpus."""
    text = canonical_json(value)
    return value if len(text) <= _LONGEST_ARGUMENT else {"sha256": hashlib.sha256(text.encode()).hexdigest()}


async def called(
    function: UserFunction, arguments: Mapping[str, JSON], stated: CallCost
) -> tuple[JSON, CallCost]:
    """Call the function of a stage: in a thread, or on the loop where it is asynchronous.

    Args:
        function: The function.
        arguments: Its arguments by name; it gets copies.
        stated: What the spec says that a call costs.

    Returns:
        What it returned, as JSON, and what the call cost, with its seconds as measured.

    Raises:
        CustomCodeFailed: The function raised an error, or returned what JSON can't hold.
    """
    own = json.loads(canonical_json(arguments))
    started = time.perf_counter()
    try:
        if inspect.iscoroutinefunction(function):
            returned = await function(**own)
        else:
            returned = await asyncio.to_thread(_in_thread, partial(function, **own))
            if inspect.isawaitable(returned):  # an object whose `__call__` is asynchronous
                returned = await returned
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # one that exits would end the whole search without a word
        raise CustomCodeFailed(f"{reference(function)} raised {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - started
    costed = returned if isinstance(returned, Costed) else Costed(value=returned)
    try:
        cost = CallCost(
            flops=stated.flops if costed.flops is None else costed.flops,
            usd=stated.usd if costed.usd is None else costed.usd,
            seconds=seconds,
        )
        return plain(costed.value), cost
    except ValidationError:
        law = f"costs must be numbers >= 0, got flops {costed.flops!r} and usd {costed.usd!r}"
        raise CustomCodeFailed(f"{reference(function)} returned Costed whose {law}") from None
    except ValueError as error:
        raise CustomCodeFailed(f"{reference(function)} returned what JSON can't hold: {error}") from None


def _in_thread(function: UserFunction) -> object:
    """Call a function; a StopIteration, which no future can hold, becomes another error."""
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError("StopIteration") from error


def cost_in(text: str) -> CallCost:
    """Return what a call cost, from its text in the bank.

    Args:
        text: The text of its sample.
    """
    return _result_in(text)[1]


def _result_in(text: str) -> tuple[JSON, CallCost]:
    stored = json.loads(text)
    return stored["value"], CallCost(flops=stored["flops"], usd=stored["usd"], seconds=stored["seconds"])


def _read(sample: Sample, *, is_new: bool) -> Call:
    value, cost = _result_in(sample.text)
    return Call(prompt_key=sample.prompt_key, value=value, cost=cost, is_new=is_new)
