"""What the trainers share: quiet libraries, precision, checkpoints to resume from, and a full disk."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from agenttts.errors import UserError
from agenttts.training.extras import no_progress_bars
from pipelines.extras import library
from pipelines.files import whole

if TYPE_CHECKING:
    import torch as torch_module

ArgumentsT = TypeVar("ArgumentsT")

STATE = "state.json"
"""The file beside the checkpoints that says which configuration they belong to."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and warnings of the training libraries off the terminal within the block."""
    transformers = library("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with no_progress_bars(library("datasets")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def saving(work: Path) -> Iterator[None]:
    """Turn a failure to write weights within the block into a UserError.

    Every library reports a full disk in a way of its own: as an OSError, a RuntimeError, or a
    SafetensorError.

    Args:
        work: The directory of the checkpoints, named OUT.work.

    Raises:
        UserError: The block could not write. The message names where the whole checkpoints are.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, RuntimeError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(
            f"{work.with_suffix('')}: can't be saved: {one_line(error)}; whole "
            f"checkpoints stay in {work}, the same command goes on from them"
        ) from None


def newest_checkpoint(work: Path) -> Path | None:
    """Find the newest checkpoint that is whole, and remove those that are not.

    The trainer writes its state last, so that a checkpoint with a readable state is whole.

    Args:
        work: The directory of the checkpoints.

    Returns:
        The checkpoint's directory, or None when there is none.
    """
    checkpoints = []
    for folder in work.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())
            checkpoints.append(folder)
        except (OSError, ValueError):
            if is_first():
                shutil.rmtree(folder, ignore_errors=True)
    return max(checkpoints, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def work_state(work: Path, fingerprint: str) -> dict[str, Any]:
    """Read the state that is stored beside the checkpoints, and create their directory.

    Args:
        work: The directory of the checkpoints.
        fingerprint: The digest of everything that decides the training.

    Returns:
        The state; of a new training the fingerprint alone.

    Raises:
        UserError: The checkpoints belong to another configuration, or the directory can't be created.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{work}: can't be created: {error.strerror}; choose another out") from None
    try:
        state: dict[str, Any] = json.loads((work / STATE).read_text())
    except (OSError, ValueError):
        state = {}
    if state.get("fingerprint") == fingerprint:
        return state
    if newest_checkpoint(work) is None:
        return {"fingerprint": fingerprint}
    raise UserError(f"{work}: holds checkpoints of another configuration; remove it, or choose another out")


def save_json(file: Path, value: object) -> None:
    """Write a JSON file so that a reader sees the old content or the new one.

    Args:
        file: Where it goes.
        value: Anything that `json.dumps` takes.

    Raises:
        ValueError: The value holds a number that is not finite.
    """
    with whole(file) as beside:
        beside.write_text(json.dumps(value, indent=2, allow_nan=False), encoding="utf-8")


def precision(torch: ModuleType) -> dict[str, bool]:
    """The arguments of a Trainer for this machine: bfloat16 where the GPU has it, else the CPU.

    Args:
        torch: The imported module `torch`.
    """
    gpu = torch.cuda.is_available()
    return {"bf16": bool(gpu and torch.cuda.is_bf16_supported()), "use_cpu": not gpu}


@contextmanager
def predicting(torch: ModuleType, device: torch_module.device) -> Iterator[None]:
    """Predict without gradients within the block, and in the precision that `precision` trains with.

    Args:
        torch: The imported module `torch`.
        device: Where the model is. Off a GPU everything is computed in the types of the weights.
    """
    half = device.type == "cuda" and precision(torch)["bf16"]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield


def on_one_gpu(arguments: ArgumentsT) -> ArgumentsT:
    """Keep a training of one process on one GPU; several are for torchrun, never for DataParallel.

    Args:
        arguments: The TrainingArguments, which are changed.
    """
    settled: Any = arguments
    settled._n_gpu = min(1, settled.n_gpu)
    return arguments


def release_memory(torch: ModuleType) -> None:
    """Give back what a training that is over held, so that a server on the same card finds room.

    Args:
        torch: The imported module `torch`.
    """
    gc.collect()  # trainer, model and callbacks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_bytes(torch: ModuleType) -> int:
    """The most memory that was in use so far: of the GPU where there is one, else of this process.

    It is 0 where the system does not say, as on Windows.

    Args:
        torch: The imported module `torch`.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def is_first() -> bool:
    """Whether this is the only process, or the first of several (torchrun, accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def one_line(error: Exception) -> str:
    """The first 200 characters of an error's message, without line breaks."""
    return " ".join(str(error).split())[:200]
