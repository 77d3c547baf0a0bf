"""What client processes had drawn for a search that was killed: from their spool into the bank."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from datastore.records import Sample
from pipelines.costs import generated_tokens_bound, prompt_tokens_bound
from pipelines.files import is_own_directory
from pipelines.runtime.payments import SampleBank, enter, sample_of
from pipelines.runtime.sampler import Sampler
from pipelines.runtime.spool import (
    ANSWERS,
    LOCK,
    REQUESTS,
    DrawAnswer,
    DrawRequest,
    identity,
    opened_lock,
    read_answers,
    read_requests,
)
from pipelines.spec import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec


def _await_end(folder: Path, longest_s: float) -> None:
    """Wait until no client process writes to a spool any more, whose search was killed."""
    import fcntl

    deadline = time.monotonic() + longest_s
    for path in folder.glob(f"*{LOCK}"):
        with suppress(OSError), opened_lock(path) as file:
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    time.sleep(0.05)
            path.unlink(missing_ok=True)


@contextmanager
def _left_if_unreadable(path: Path, left: set[str]) -> Iterator[None]:
    """Leave a file that can't be read where it is, and what else there is of its search."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        left.add(_token(path))


def _token(path: Path) -> str:
    """The search that a file is of."""
    return path.name.removeprefix(".").split(".")[0]


async def recovered(
    folder: Path, spec: PipelineSpec, bank: SampleBank, run_id: str | None, *, longest_s: float = 8.0
) -> int:
    """Bring what a killed search had left in its spool into the bank, and remove its files.

    What was asked of a model that the pipeline has no longer, or has otherwise, stays where it is, as does
    what can't be read or is no file of a spool.

    Args:
        folder: The spool; there may be none. A link, or another user's folder, is none.
        spec: The pipeline of that search.
        bank: The bank.
        run_id: The run that asked, which pays; None where another one goes on with the database.
        longest_s: Seconds for which client processes that still end are awaited.

    Returns:
        The number of samples that were new.
    """
    if not is_own_directory(folder):
        return 0
    _await_end(folder, longest_s)
    sampler = Sampler(spec, bank, None, run_id=run_id, replay=True, gate=None)
    n_new, left, requests = 0, set[str](), dict[tuple[str, int], DrawRequest]()
    for path in folder.glob(f"*{REQUESTS}"):
        with _left_if_unreadable(path, left):
            requests |= {(_token(path), request.number): request for request in read_requests(path)}
    unread = frozenset(left)
    identities = {name: identity(spec, name) for name in spec.models}
    for path in sorted(folder.glob(f"*{ANSWERS}")):
        with _left_if_unreadable(path, left):
            answers = [(requests.get((_token(path), answer.number)), answer) for answer in read_answers(path)]
            pairs = [(request, answer) for request, answer in answers if request is not None]  # else: banked
            if any(identities.get(request.model) != request.identity for request, _ in pairs):
                left.add(_token(path))
                continue
            for request, answer in pairs:
                n_new += await _entered(sampler, bank, spec, run_id, request, answer)
            if len(pairs) == len(answers) or _token(path) not in unread:
                path.unlink()
    for path in folder.iterdir():
        if path.name.removesuffix(".new").endswith((REQUESTS, ANSWERS, LOCK)) and _token(path) not in left:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):  # something is left
        folder.rmdir()
    return n_new


async def _entered(
    sampler: Sampler,
    bank: SampleBank,
    spec: PipelineSpec,
    run_id: str | None,
    request: DrawRequest,
    answer: DrawAnswer,
) -> int:
    """Enter a draw with its bill, unless the bank has it; how many samples were new.

    The samples are of the indices from the first on that the bank lacked, as the search had asked for them.
    """
    sampling = SamplingSpec.model_validate_json(request.sampling)
    prompt = sampler.prompt(request.model, json.loads(request.content), sampling)
    banked = {sample.index for sample in (await bank.get_samples([prompt.key])).get(prompt.key, ())}
    samples: list[Sample] = []
    if answer.draw is not None:
        prompt = replace(prompt, prompt_tokens=answer.draw.prompt_tokens)
        lacking = (index for index in itertools.count(request.first) if index not in banked)
        samples = [
            sample_of(prompt.key, index, sample, answer.draw, run_id)
            for sample, index in zip(answer.draw.samples, lacking, strict=False)
        ]
    if samples and request.first in banked:
        return 0
    window = spec.models[request.model].context_length
    bounds = prompt_tokens_bound(prompt.content, window), generated_tokens_bound(sampling, window)
    await enter(bank, run_id, prompt, samples, answer.bill, bounds)
    return len(samples)
