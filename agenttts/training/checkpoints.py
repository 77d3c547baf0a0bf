"""What the trainers share: quiet libraries, precision, checkpoints that can be gone on from, a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.training.extras import no_progress_bars
from pipelines.extras import library

STATE = "state.json"


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries' own bars and advice stay off the terminal."""
    transformers = library("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with no_progress_bars(library("datasets")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def saving(work: Path) -> Iterator[None]:
    """UserError when weights can't be written: every library reports a full disk in a way of its own.

    work: where checkpoints lie, OUT.work.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, RuntimeError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(
            f"{work.with_suffix('')}: can't be saved: {' '.join(str(error).split())[:200]}; whole "
            f"checkpoints stay in {work}, the same command goes on from them"
        ) from None


def newest_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint; the trainer's state is written last. Others are removed."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())
            whole.append(folder)
        except (OSError, ValueError):
            if is_first():
                shutil.rmtree(folder, ignore_errors=True)
    return max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def work_state(work: Path, fingerprint: str) -> dict[str, Any]:
    """What is kept beside the checkpoints. UserError when they are another configuration's."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{work}: can't be made: {error.strerror}; choose another out") from None
    try:
        state: dict[str, Any] = json.loads((work / STATE).read_text())
    except (OSError, ValueError):
        state = {}
    if state.get("fingerprint") == fingerprint:
        return state
    if newest_checkpoint(work) is None:
        return {"fingerprint": fingerprint}
    raise UserError(f"{work}: holds checkpoints of another configuration; remove it, or choose another out")


def save_json(file: Path, value: Any) -> None:
    """Written beside, moved into place."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False), encoding="utf-8")
    partial.replace(file)


def precision(torch: Any) -> dict[str, bool]:
    """bfloat16 where the hardware has it."""
    gpu = torch.cuda.is_available()
    return {"bf16": bool(gpu and torch.cuda.is_bf16_supported()), "use_cpu": not gpu}


def peak_bytes(torch: Any) -> int:
    """Of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def is_first() -> bool:
    """Whether this is the only process, or the first of several (torchrun, accelerate)."""
    return os.environ.get("RANK", "0") == "0"
