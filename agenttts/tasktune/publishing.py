"""`agenttts tune push` and `tune gguf`: a tuned model for others, on Hugging Face's hub or for llama.cpp.

Of a directory only what loads the model is pushed: weights, configurations, tokenizer, chat template. What is
pushed holds no path of the machine that it was tuned on: `tuning.json` stays there, and an adapter names its
base as the hub does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from agenttts.errors import UserError
from agenttts.training.checkpoints import one_line
from agenttts.training.weights import ADAPTER_CONFIG, TunedModel, read_tuned, require_servable
from pipelines.extras import library

if TYPE_CHECKING:
    from collections.abc import Mapping

CONVERTER = "convert_hf_to_gguf.py"
_README = "README.md"
_PUSHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    ADAPTER_CONFIG,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""The names of the files that are pushed; all others, such as training rows and tokens, stay."""


def push(
    path: Path,
    name: str,
    *,
    base: str | None = None,
    public: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Push an adapter or a checkpoint to the hub, in one commit, with a model card.

    Only weights, configurations, tokenizer and chat template are sent, whatever else the directory holds.
    The token is the one that `hf auth login` has stored, or HF_TOKEN; HF_ENDPOINT names another hub.

    Args:
        path: The directory of the adapter or checkpoint.
        name: OWNER/NAME of the repository, which is made where it does not exist.
        base: The hub name of an adapter's base; needed where that lies in a directory.
        public: Whether a new repository is public.
        environ: The environment variables.

    Returns:
        The address of the repository.

    Raises:
        UserError: There is something that a person must put right: weights, base, name, token.
        MissingDependency: The extra `tune` is not installed.
    """
    tuned = read_tuned(path)
    require_servable(path)
    hub, errors = library("huggingface_hub"), library("huggingface_hub.errors")
    if tuned.base is not None:
        was_directory = base is None and tuned.card.base_digest is not None
        base = base or tuned.base
        if was_directory or not _is_hub_name(base):
            raise UserError(
                f"{path}: its base must be NAME or OWNER/NAME on the hub, got {base}; name it as the hub "
                "does by --base"
            )
    contents: dict[str, Path | bytes] = {
        file.name: file
        for file in sorted(path.iterdir())
        if file.is_file() and any(fnmatchcase(file.name, pattern) for pattern in _PUSHED)
    }
    contents[_README] = model_card(tuned, base).encode()
    if tuned.base is not None:
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        contents[ADAPTER_CONFIG] = json.dumps({**config, "base_model_name_or_path": base}, indent=2).encode()
    api = hub.HfApi(endpoint=environ.get("HF_ENDPOINT"), token=environ.get("HF_TOKEN"))
    operations = [
        hub.CommitOperationAdd(path_in_repo=place, path_or_fileobj=content)
        for place, content in contents.items()
    ]
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        api.create_commit(url.repo_id, operations, commit_message=f"{path.name}, tuned by agenttts")
    except (errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        raise UserError(f"{name}: can't be pushed: {one_line(error)}; see `hf auth whoami`") from None
    return str(url)


def model_card(tuned: TunedModel, base: str | None) -> str:
    """The README.md of a pushed model: what the hub reads, then how it was tuned.

    Args:
        tuned: The model.
        base: The hub name of its base; None for a checkpoint.
    """
    card = tuned.card
    lines = ["---", "library_name: peft" if tuned.is_adapter else "library_name: transformers"]
    lines += [f"base_model: {base}"] if base is not None else []
    lines += ["pipeline_tag: text-generation", "tags: [agenttts]", "---", "", f"# {tuned.path.name}", ""]
    kind = f"A LoRA adapter of rank {tuned.rank}" if tuned.is_adapter else "A checkpoint"
    lines.append(f"{kind}, {tuned.n_params:,} parameters, digest `{tuned.digest[:16]}`.")
    if card.tasks:
        lines += ["", "| sub-task | score before | score after |", "| --- | ---: | ---: |"]
        for task in card.tasks:
            scores = (card.metrics.before.get(task), card.metrics.after.get(task))
            cells = ("–" if score is None else f"{score:.3f}" for score in scores)
            lines.append(f"| {task} | {' | '.join(cells)} |")
        lines += [
            "",
            f"Tuned on {card.rows} rows in {card.steps} steps; scores are greedy, on held-out rows.",
        ]
    return "\n".join(lines) + "\n"


def to_gguf(
    checkpoint: Path, out: Path, *, kind: str = "f16", environ: Mapping[str, str] = os.environ
) -> None:
    """Convert a whole checkpoint to GGUF by the converter of llama.cpp, where that is installed.

    Args:
        checkpoint: The directory of the checkpoint.
        out: The file to write.
        kind: The type of the weights, as the converter names it, such as f16 or q8_0.
        environ: The environment variables; LLAMA_CPP may name the directory of llama.cpp.

    Raises:
        UserError: It is an adapter, the place is taken, there is no converter, or it fails.
    """
    tuned = read_tuned(checkpoint)
    if tuned.is_adapter:
        raise UserError(f"{checkpoint}: is an adapter; first `agenttts tune merge ADAPTER --method base`")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    converter = _converter(environ)
    temporary = out.with_name(f"{out.name}.part")
    command = [
        sys.executable,
        str(converter),
        str(checkpoint),
        "--outfile",
        str(temporary),
        "--outtype",
        kind,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not temporary.is_file():
        temporary.unlink(missing_ok=True)
        last = (done.stderr.strip() or done.stdout.strip() or "it wrote no file").splitlines()[-1]
        raise UserError(f"{checkpoint}: {converter} failed: {last:.200}")
    temporary.rename(out)


def _is_hub_name(base: str) -> bool:
    """Whether a base is named as the hub does, and is no directory here."""
    errors = library("huggingface_hub.errors")
    try:
        library("huggingface_hub.utils").validate_repo_id(base)
    except errors.HFValidationError:
        return False
    return not Path(base).is_dir()


def _converter(environ: Mapping[str, str]) -> Path:
    directory = environ.get("LLAMA_CPP")  # an empty value would name the working directory
    places = [Path(directory) / CONVERTER] if directory else []
    on_path = shutil.which(CONVERTER, path=environ.get("PATH"))
    places += [Path(on_path)] if on_path else []
    converter = next((place for place in places if place.is_file()), None)
    if converter is None:
        raise UserError(
            f"GGUF needs {CONVERTER} of llama.cpp, which is not there; get llama.cpp, install its "
            "requirements, and name its directory in LLAMA_CPP"
        )
    return converter
