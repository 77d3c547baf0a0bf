"""`agenttts tune merge`: adapters of one base made one, or an adapter made part of its base's weights.

Task vectors add up (Ilharco et al. 2022, arXiv 2212.04089). `sum` is exact: the merged rank is that of all
together. TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) are peft's. Learnt coefficients are one for each
adapter and layer, as in aTLAS (arXiv 2407.02880), fitted on a few labelled rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.fit import encode_answer, encode_chat
from agenttts.training.checkpoints import quiet
from agenttts.training.weights import (
    ADAPTER_CONFIG,
    CARD,
    TunedModel,
    read_tuned,
    require_base,
    require_servable,
)
from pipelines.extras import library

Method = Literal["sum", "ties", "dare"]
WEIGHTS = "adapter_model.safetensors"
_STEPS = 60
_RATE = 0.05


def merge(
    adapters: Sequence[Path],
    out: Path,
    *,
    method: Method = "sum",
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    learn_from: Sequence[TaskRow] | None = None,
    seed: int = 0,
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
) -> TunedModel:
    """The adapters as one, in a new directory.

    weights: one for each (sum: 1 each; ties, dare: 1 each). density: the share of values that TIES and DARE
    keep. learn_from: rows on which a coefficient for each adapter and layer is learnt, starting from the
    weights. UserError when bases, layers or numbers do not fit.
    """
    found = [read_tuned(path) for path in adapters]
    _require_alike(found)
    weights = list(weights) if weights else [1.0 / len(found) if learn_from else 1.0] * len(found)
    if len(weights) != len(found):
        raise UserError(f"--weight: one for each of the {len(found)} adapters, got {len(weights)}")
    if learn_from is not None and method != "sum":
        raise UserError("learnt coefficients go with the method sum")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    with quiet():
        if method == "sum":
            modules = _coefficients(found, weights, learn_from, seed, on_loss)
            state, rank = _summed(found, modules)
            config = {**_config(found[0]), "r": rank, "lora_alpha": rank, "use_rslora": False}
        else:
            state, config = _by_peft(found, method, weights, density, seed)
            modules = {}
    card = {
        "base": found[0].card.get("base", found[0].base),
        "base_digest": found[0].card.get("base_digest"),
        "base_params": found[0].card.get("base_params"),
        "tasks": sorted({task for one in found for task in one.card.get("tasks", ())}),
        "settings": {"merged": [str(one.path) for one in found], "method": method, "weights": weights},
        "coefficients": {name: [round(c, 4) for c in values] for name, values in modules.items()},
    }
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: can't be made: {error.strerror}; choose another --out") from None
    library("safetensors.torch").save_file(state, str(partial / WEIGHTS))
    (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2))
    (partial / CARD).write_text(json.dumps(card, indent=2))
    require_servable(partial)
    partial.rename(out)
    return read_tuned(out)


def merge_into_base(adapter: Path, out: Path) -> TunedModel:
    """A whole checkpoint: the base's weights with the adapter added. UserError when the place is taken."""
    found = read_tuned(adapter)
    if found.base is None:
        raise UserError(f"{adapter}: is a whole checkpoint already")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    with quiet():
        transformers = library("transformers")
        model = _loaded([found], transformers).merge_and_unload()
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(str(partial), safe_serialization=True)
        transformers.AutoTokenizer.from_pretrained(found.base).save_pretrained(str(partial))
        (partial / CARD).write_text(json.dumps({**found.card, "merged": str(found.path)}, indent=2))
        partial.rename(out)
    return read_tuned(out)


def _require_alike(found: Sequence[TunedModel]) -> None:
    """UserError unless all are adapters of one base with the same layers."""
    for one in found:
        if one.base is None:
            raise UserError(f"{one.path}: must be an adapter, it is a whole checkpoint")
        if one.card.get("base_digest") != found[0].card.get("base_digest") or (
            one.card.get("base_digest") is None and one.base != found[0].base
        ):
            raise UserError(f"{one.path}: has the base {one.base}, {found[0].path} has {found[0].base}")
        if Path(one.base).is_dir():
            require_base(one, Path(one.base))
    modules = [set(_halves(_state(one))) for one in found]
    for one, names in zip(found, modules, strict=True):
        if names != modules[0]:
            odd = sorted(names ^ modules[0])[0]
            raise UserError(f"{one.path}: must adapt the same layers as {found[0].path}; {odd} differs")


def _coefficients(
    found: Sequence[TunedModel],
    weights: Sequence[float],
    rows: Sequence[TaskRow] | None,
    seed: int,
    on_loss: Callable[[int, float], None],
) -> dict[str, list[float]]:
    """For each layer a coefficient for each adapter."""
    layers = sorted(_halves(_state(found[0])))
    if rows is None:
        return {layer: list(weights) for layer in layers}
    torch, transformers = library("torch"), library("transformers")
    torch.manual_seed(seed)
    base = found[0].base
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = _loaded(found, transformers)
    names = [f"a{i}" for i in range(len(found))]
    model.base_model.set_adapter(names)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learnt: dict[str, Any] = {}
    for layer, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "scaling"):
            learnt[layer] = torch.nn.Parameter(torch.tensor(list(weights), dtype=torch.float32))
            for i, name in enumerate(names):
                module.scaling[name] = _Scaled(learnt[layer], i, float(module.scaling[name]))
    optimizer = torch.optim.Adam(learnt.values(), lr=_RATE)
    batches = [
        (encode_chat(tokenizer, row.messages), encode_answer(tokenizer, row.completion)) for row in rows
    ]
    order = torch.Generator().manual_seed(seed)
    for step in range(_STEPS):
        chosen = torch.randint(len(batches), (min(16, len(batches)),), generator=order).tolist()
        loss = _loss(model, [batches[i] for i in chosen], torch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_loss(step + 1, float(loss))
    return {layer: [float(c) for c in learnt[layer].detach()] for layer in layers}


class _Scaled:
    """Stands where peft keeps an adapter's scaling: multiplied into the adapter's output, with a gradient."""

    def __init__(self, coefficients: Any, position: int, scaling: float) -> None:
        self._coefficients, self._position, self._scaling = coefficients, position, scaling

    def __rmul__(self, output: Any) -> Any:
        return output * (self._coefficients[self._position] * self._scaling)

    __mul__ = __rmul__


def _loss(model: Any, batch: Sequence[tuple[list[int], list[int]]], torch: Any) -> Any:
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        mask[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def _summed(
    found: Sequence[TunedModel], coefficients: Mapping[str, Sequence[float]]
) -> tuple[dict[str, Any], int]:
    """The exact weighted sum: A stacked, B side by side with scaling and coefficient in it."""
    torch = library("torch")
    states = [_halves(_state(one)) for one in found]
    scalings = [_scaling(one) for one in found]
    merged: dict[str, Any] = {}
    rank = 0
    for layer, (name_a, name_b) in _names(found[0]).items():
        pairs = [state[layer] for state in states]
        merged[name_a] = torch.cat([a for a, _ in pairs], dim=0).contiguous()
        scaled = [b * (c * s) for (_, b), c, s in zip(pairs, coefficients[layer], scalings, strict=True)]
        merged[name_b] = torch.cat(scaled, dim=1).contiguous()
        rank = merged[name_a].shape[0]
    return merged, rank


def _by_peft(
    found: Sequence[TunedModel], method: str, weights: Sequence[float], density: float, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """TIES or DARE on the adapters' two halves, which must have one rank."""
    if len({one.rank for one in found}) > 1:
        told = ", ".join(f"{one.path} has {one.rank}" for one in found)
        raise UserError(f"{method} needs adapters of one rank: {told}; use the method sum")
    torch, peft = library("torch"), library("peft")
    torch.manual_seed(seed)
    model = _loaded(found, library("transformers"))
    kind = {"ties": "ties", "dare": "dare_linear"}[method]
    names = [f"a{i}" for i in range(len(found))]
    model.add_weighted_adapter(names, list(weights), "merged", combination_type=kind, density=density)
    state = peft.get_peft_model_state_dict(model, adapter_name="merged")
    config = {**model.peft_config["merged"].to_dict(), "use_rslora": False}  # the halves hold the scaling
    return {name: tensor.contiguous() for name, tensor in state.items()}, json.loads(
        json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    )


def _loaded(found: Sequence[TunedModel], transformers: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(found[0].base, dtype=library("torch").float32)
    peft = library("peft")
    loaded = peft.PeftModel.from_pretrained(model, str(found[0].path), adapter_name="a0")
    for i, one in enumerate(found[1:], 1):
        loaded.load_adapter(str(one.path), adapter_name=f"a{i}")
    return loaded


def _state(one: TunedModel) -> dict[str, Any]:
    found: dict[str, Any] = library("safetensors.torch").load_file(str(one.path / WEIGHTS))
    return found


def _names(one: TunedModel) -> dict[str, tuple[str, str]]:
    """Layer → names of its two halves in the file."""
    halves = [name for name in _state(one) if ".lora_A." in name]
    return {_layer(name): (name, name.replace(".lora_A.", ".lora_B.")) for name in halves}


def _halves(state: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        _layer(name): (state[name], state[name.replace(".lora_A.", ".lora_B.")])
        for name in state
        if ".lora_A." in name
    }


def _layer(name: str) -> str:
    return name.split(".lora_A.")[0].removeprefix("base_model.model.")


def _config(one: TunedModel) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((one.path / ADAPTER_CONFIG).read_text())
    return found


def _scaling(one: TunedModel) -> float:
    config = _config(one)
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
