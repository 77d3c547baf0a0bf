"""Which layers of a model get an adapter: they must be there, and vLLM must be able to serve them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agenttts.errors import UserError
from agenttts.training.lora import LoraSettings
from pipelines.extras import library

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def peft_config(lora: LoraSettings, model: PreTrainedModel) -> LoraConfig:
    """The adapter's configuration in the form that peft takes.

    Args:
        lora: The adapter's settings.
        model: The model that gets the adapter.

    Raises:
        UserError: The model has none of the layers that are named, or an adapter on them can't be served.
    """
    _require_layers(lora, model)
    _require_served(lora, model)
    config: LoraConfig = library("peft").LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=lora.peft_targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return config


def _require_layers(lora: LoraSettings, model: PreTrainedModel) -> None:
    """UserError when a name or pattern fits no layer."""
    names = [name for name, _ in model.named_modules()]
    missing = next((wanted for wanted in _wanted(lora) if not _fitting(wanted, lora, names)), None)
    if missing is not None:
        linear = {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if "Linear" in type(module).__name__
        }
        raise UserError(
            f"lora.target_modules: {model.name_or_path} has no layer {missing!r}; "
            f"it has {', '.join(sorted(linear - {'lm_head'}))}"
        )


def _require_served(lora: LoraSettings, model: PreTrainedModel) -> None:
    """UserError when embeddings are to get an adapter.

    With an adapter on the output embeddings, vLLM 0.32 lets it answer requests for the base too, and TRL 1.16
    trains none there; an adapter on the input embeddings vLLM refuses for many architectures.
    """
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is one for one in embeddings)]
    adapted = next((name for wanted in _wanted(lora) for name in _fitting(wanted, lora, names)), None)
    if adapted is not None:
        layer = adapted.rsplit(".", 1)[-1]
        raise UserError(
            f"lora.target_modules: must not name the embeddings, got {layer!r}: vLLM can't serve an adapter "
            "on them; leave them out"
        )


def _wanted(lora: LoraSettings) -> tuple[str, ...]:
    """The names or the pattern of the settings; none for all linear layers, which excludes embeddings."""
    if lora.target_modules == "all-linear":
        return ()
    return (lora.target_modules,) if isinstance(lora.target_modules, str) else lora.target_modules


def _fitting(wanted: str, lora: LoraSettings, names: Iterable[str]) -> list[str]:
    """The layers that a name or pattern means, by peft's rules: patterns are for whole names."""
    if isinstance(lora.target_modules, str):
        return [name for name in names if re.fullmatch(wanted, name)]
    return [name for name in names if name == wanted or name.endswith(f".{wanted}")]
