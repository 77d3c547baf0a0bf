"""Several processes that tune one model, started by Hugging Face accelerate from the user's own file.

The file (`accelerate config` writes it) says how many processes and machines there are, and whether they
divide the model by FSDP or DeepSpeed. On several machines the command runs on each, with its own file.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from agenttts.errors import AgentTTSError, UserError
from agenttts.training.checkpoints import one_line
from datastore.errors import StoreError
from pipelines.errors import PipelineError
from pipelines.extras import library
from pipelines.spec.yaml_file import read_yaml

_KINDS = ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP", "DEEPSPEED")
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_USER_ERROR = 2


class ProcessFailed(AgentTTSError):
    """One of several processes ended early, by a fault that is not the user's."""


def launch(file: Path, command: Sequence[str]) -> None:
    """Run a command of this program in several processes, and wait for them.

    Args:
        file: A configuration of accelerate.
        command: The command's arguments, such as `("tune", "fit", "fit.yaml")`.

    Raises:
        UserError: The file is none of accelerate's, or a process ended with an error that a person must
            correct.
        ProcessFailed: A process ended early in another way.
        MissingDependency: accelerate, or the DeepSpeed that the file asks for, is not installed.
    """
    kind = _kind(file)
    launcher = library("accelerate.commands.launch")
    errors = library("torch.distributed.elastic.multiprocessing.errors")
    api = library("torch.distributed.elastic.multiprocessing.api")
    options = ["--config_file", str(file), *(["--multi_gpu"] if kind in ("NO", "MULTI_CPU") else [])]
    try:
        with _quiet_launcher():
            arguments = launcher.launch_command_parser().parse_args([*options, "-m", "agenttts", *command])
            launcher.launch_command(arguments)
    except errors.ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == _USER_ERROR:
            raise UserError(failure.message) from None
        raise ProcessFailed(f"{file}: process {rank} ended with exit code {failure.exitcode}") from None
    except api.SignalException as stop:
        raise SystemExit(128 + int(stop.sigval)) from None
    except subprocess.CalledProcessError as error:
        raise ProcessFailed(f"{file}: the launcher ended with exit code {error.returncode}") from None
    except (ValueError, AssertionError, OSError) as error:
        raise UserError(f"{file}: accelerate refuses it: {one_line(error)}") from None


@contextmanager
def errors_to_launcher() -> Iterator[None]:
    """Leave an error of the block to the launcher that started this process, if one did.

    All processes meet most errors, and the launcher stops the others at the first: it alone can say it once.
    A process whose launcher was killed ends too, before the same command is given again.
    """
    file = os.environ.get(_ERROR_FILE)
    if file:
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        yield
    except (AgentTTSError, PipelineError, StoreError) as error:
        if not file:
            raise
        content = {"message": str(error), "timestamp": int(time.time())}
        Path(file).write_text(json.dumps(content), encoding="utf-8")
        raise SystemExit(_USER_ERROR) from None


def _end_with(launcher: int) -> None:
    """End this process when its launcher has ended."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)


def _kind(file: Path) -> str:
    """The kind of distribution that a configuration of accelerate asks for."""
    config_args = library("accelerate.commands.config.config_args")
    if not isinstance(read_yaml(file).data, dict):
        raise UserError(f"{file}: must be a configuration of accelerate; `accelerate config` writes one")
    try:
        config = config_args.load_config_from_file(str(file))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file}: is no configuration of accelerate: {one_line(error)}; `accelerate config` writes one"
        ) from None
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    if kind not in _KINDS:
        raise UserError(f"{file}: distributed_type must be one of {', '.join(_KINDS)}, got {kind}")
    if not isinstance(config.num_processes, int) or config.num_processes < 1:
        raise UserError(f"{file}: num_processes must be 1 or more, got {config.num_processes!r}")
    gpus = library("torch").cuda.device_count()
    machines = config.num_machines or 1
    if not config.use_cpu and config.num_processes > gpus * machines:
        raise UserError(
            f"{file}: num_processes must be at most the GPUs of its {machines} machine(s), of which this one "
            f"has {gpus}, got {config.num_processes}; on CPUs set use_cpu: true"
        )
    if kind == "FSDP" and int((config.fsdp_config or {}).get("fsdp_version", 1)) != 2:
        raise UserError(
            f"{file}: fsdp_config.fsdp_version must be 2, with 1 a model can't be scored in training"
        )
    if kind == "FSDP" and config.use_cpu:
        raise UserError(f"{file}: accelerate divides a model by FSDP on GPUs only; on CPUs take MULTI_CPU")
    if kind == "DEEPSPEED":
        library("deepspeed", f"{file}: distributed_type: DEEPSPEED", extra=None)
    return kind


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Keep the launcher's own account of a failure off the terminal: it is said in one line."""
    loggers = [logging.getLogger(name) for name in ("torch.distributed", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
