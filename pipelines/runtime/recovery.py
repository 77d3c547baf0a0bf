"""What client processes had drawn for a search that was killed: from their spool into the bank."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from pipelines.costs import generated_tokens_bound, prompt_tokens_bound
from pipelines.runtime.sampler import SampleBank, Sampler, enter, sample_of
from pipelines.runtime.spool import ASKED, DRAWN, LOCK, Asked, Drawn, identity, read_asked, read_drawn
from pipelines.spec import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec


def _await_end(folder: Path, longest_s: float) -> None:
    """Wait until no client process writes to a spool any more, whose search was killed."""
    import fcntl

    until = time.monotonic() + longest_s
    for path in folder.glob(f"*{LOCK}"):
        with path.open("w") as file:
            while time.monotonic() < until:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    time.sleep(0.05)
        path.unlink(missing_ok=True)


async def recovered(
    folder: Path, spec: PipelineSpec, bank: SampleBank, run_id: str | None, *, longest_s: float = 8.0
) -> int:
    """Bring what a killed search had left in its spool into the bank, and remove its files.

    What was asked of a model that the pipeline has no longer, or has otherwise, stays where it is.

    Args:
        folder: The spool; there may be none.
        spec: The pipeline of that search.
        bank: The bank.
        run_id: The run that asked, which pays; None where another one goes on with the database.
        longest_s: Seconds for which client processes that still end are awaited.

    Returns:
        The number of samples that were new.
    """
    if not folder.is_dir():
        return 0
    _await_end(folder, longest_s)
    sampler = Sampler(spec, bank, None, run_id=run_id, replay=True, gate=None)
    asked = {
        (path.name.split(".")[0], one.number): one
        for path in folder.glob(f"*{ASKED}")
        for one in read_asked(path)
    }
    identities = {name: identity(spec, name) for name in spec.models}
    n_new, kept = 0, set[str]()
    for path in sorted(folder.glob(f"*{DRAWN}")):
        token = path.name.split(".")[0]
        read = [(asked.get((token, drawn.number)), drawn) for drawn in read_drawn(path)]
        pairs = [(one, drawn) for one, drawn in read if one is not None]  # others are in the bank
        if any(identities.get(one.model) != one.identity for one, _ in pairs):
            kept.add(token)
            continue
        for one, drawn in pairs:
            n_new += await _entered(sampler, bank, spec, run_id, one, drawn)
        path.unlink()
    for path in folder.iterdir():
        if path.name.split(".")[0] not in kept:
            path.unlink(missing_ok=True)
    if not kept:
        folder.rmdir()
    return n_new


async def _entered(
    sampler: Sampler, bank: SampleBank, spec: PipelineSpec, run_id: str | None, asked: Asked, drawn: Drawn
) -> int:
    """Enter a draw with its bill, unless the bank has it; how many samples were new."""
    sampling = SamplingSpec.model_validate_json(asked.sampling)
    prompt = sampler.prompt(asked.model, json.loads(asked.content), sampling)
    banked = {sample.index for sample in (await bank.get_samples([prompt.key])).get(prompt.key, ())}
    samples = []
    if drawn.draw is not None:
        prompt = replace(prompt, prompt_tokens=drawn.draw.prompt_tokens)
        samples = [
            sample_of(prompt.key, index, sample, drawn.draw, run_id)
            for index, sample in enumerate(drawn.draw.samples, asked.first)
        ]
    if samples and all(sample.index in banked for sample in samples):
        return 0
    window = spec.models[asked.model].context_length
    bounds = prompt_tokens_bound(prompt.content, window), generated_tokens_bound(sampling, window)
    await enter(bank, run_id, prompt, samples, drawn.bill, bounds)
    return sum(sample.index not in banked for sample in samples)
