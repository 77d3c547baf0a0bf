"""`agenttts tune merge`: merge adapters of one base, or add an adapter to the weights of its base.

Task vectors add up (Ilharco et al. 2022, arXiv 2212.04089). `sum` is exact: the merged rank is that of all
together. TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) are approximations of one adapter's rank. Learnt
coefficients are one for each adapter and layer, as in aTLAS (arXiv 2407.02880), fitted on a few labelled
rows. All merges are peft's. Experimental: what they are worth has not been measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from agenttts.errors import UserError
from agenttts.tasktune.data.rows import TaskRow
from agenttts.tasktune.generate import encode_answer, encode_chat
from agenttts.training.checkpoints import one_line, quiet, save_json
from agenttts.training.weights import (
    ADAPTER_CONFIG,
    CARD,
    TunedModel,
    TuningCard,
    read_tuned,
    require_base,
    require_servable,
    tensors,
)
from pipelines.extras import library
from pipelines.files import whole

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["sum", "ties", "dare"]
WEIGHTS = "adapter_model.safetensors"
_COMBINATION: Mapping[Method, str] = {"sum": "cat", "ties": "ties", "dare": "dare_linear"}
_MERGED = "merged"
_STEPS = 60
_BATCH = 16
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
    """Merge adapters into one.

    Args:
        adapters: The directories of the adapters.
        out: The directory of the result.
        method: How they are merged.
        weights: A weight for each adapter. None: 1 each, or equal shares of 1 where coefficients are learnt.
        density: The share of values that TIES and DARE keep.
        learn_from: Rows on which a coefficient for each adapter and layer is learnt, starting from the
            weights. None: the weights are the coefficients.
        seed: Decides the batches, and the values that DARE drops.
        on_loss: Is called with the number of each step of learning and its loss in nats.

    Raises:
        UserError: Bases, layers or numbers do not fit together, or the place is taken.
        MissingDependency: The extra `tune` is not installed.
    """
    tuned = [read_tuned(path) for path in adapters]
    _require_alike(tuned)
    weights = list(weights) if weights else [1.0 / len(tuned) if learn_from else 1.0] * len(tuned)
    if len(weights) != len(tuned):
        raise UserError(f"--weight: one for each of the {len(tuned)} adapters, got {len(weights)}")
    if learn_from is not None and method != "sum":
        raise UserError("learnt coefficients go with the method sum")
    if method != "sum" and len({one.rank for one in tuned}) > 1:
        ranks = ", ".join(f"{one.path} has {one.rank}" for one in tuned)
        raise UserError(f"{method} needs adapters of one rank: {ranks}; use the method sum")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    with quiet(), _made(out) as beside:
        torch, peft = library("torch"), library("peft")
        torch.manual_seed(seed)
        model = _loaded(tuned, torch, peft)
        names = [f"a{i}" for i in range(len(tuned))]
        coefficients: dict[str, list[float]] = {}
        if method == "sum":
            coefficients = {layer: weights for layer in sorted(_lora_layers(model))}
        if learn_from is not None:
            coefficients = _learnt(model, names, weights, learn_from, seed, on_loss)
            _apply(model, names, coefficients)
            weights_left = [1.0] * len(tuned)  # the coefficients are in the layers' scaling
        else:
            weights_left = weights
        model.add_weighted_adapter(
            names, weights_left, _MERGED, combination_type=_COMBINATION[method], density=density
        )
        _save_adapter(model, beside, peft)
        card = tuned[0].card
        merged_card = TuningCard(
            base=card.base or tuned[0].base,
            base_digest=card.base_digest,
            base_params=card.base_params,
            tasks=tuple(sorted({task for one in tuned for task in one.card.tasks})),
            settings={"merged": [str(one.path) for one in tuned], "method": method, "weights": [*weights]},
            coefficients={name: [round(c, 4) for c in values] for name, values in coefficients.items()},
        )
        save_json(beside / CARD, merged_card.to_json_dict())
        require_servable(beside)
    return read_tuned(out)


def merge_into_base(adapter: Path, out: Path) -> TunedModel:
    """Write a whole checkpoint: the base's weights with the adapter added.

    Args:
        adapter: The directory of the adapter.
        out: The directory of the checkpoint.

    Raises:
        UserError: There is no adapter, or the place is taken.
        MissingDependency: The extra `tune` is not installed.
    """
    tuned = read_tuned(adapter)
    if tuned.base is None:
        raise UserError(f"{adapter}: is a whole checkpoint already")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    with quiet(), _made(out) as beside:
        model = _loaded([tuned], library("torch"), library("peft")).merge_and_unload()
        model.save_pretrained(str(beside), safe_serialization=True)
        library("transformers").AutoTokenizer.from_pretrained(tuned.base).save_pretrained(str(beside))
        require_servable(beside)
        save_json(beside / CARD, {**tuned.card.to_json_dict(), "merged": str(tuned.path)})
    return read_tuned(out)


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    """A directory that is filled beside its place. UserError when it can't be created."""
    try:
        with whole(out) as beside:
            beside.mkdir()
            yield beside
    except OSError as error:
        raise UserError(
            f"{out}: can't be created: {error.strerror or one_line(error)}; choose another --out"
        ) from None


def _require_alike(tuned: Sequence[TunedModel]) -> None:
    """UserError unless all are adapters of one base with the same layers."""
    first = tuned[0]
    for adapter in tuned:
        if adapter.base is None:
            raise UserError(f"{adapter.path}: must be an adapter, it is a whole checkpoint")
        digest = adapter.card.base_digest
        if digest != first.card.base_digest or (digest is None and adapter.base != first.base):
            raise UserError(f"{adapter.path}: has the base {adapter.base}, {first.path} has {first.base}")
        if Path(adapter.base).is_dir():
            require_base(adapter, Path(adapter.base))
    names = [set(tensors(one.path / WEIGHTS)) for one in tuned]
    for adapter, tensor_names in zip(tuned, names, strict=True):
        if tensor_names != names[0]:
            other = sorted(tensor_names ^ names[0])[0]
            raise UserError(f"{adapter.path}: must adapt the same layers as {first.path}; {other} differs")


def _loaded(tuned: Sequence[TunedModel], torch: ModuleType, peft: ModuleType) -> Any:
    """The base with the adapters a0, a1, … on it: a PeftModel, whose methods come from its LoRA model."""
    base = tuned[0].base
    try:
        model = library("transformers").AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"base: {base} can't be loaded: {one_line(error)}") from None
    with_adapters = peft.PeftModel.from_pretrained(model, str(tuned[0].path), adapter_name="a0")
    for i, one in enumerate(tuned[1:], 1):
        with_adapters.load_adapter(str(one.path), adapter_name=f"a{i}")
    return with_adapters


def _lora_layers(model: Any) -> dict[str, Any]:
    """The layers with adapters, by their name in the base."""
    return {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "scaling")
    }


def _learnt(
    model: Any,
    names: Sequence[str],
    weights: Sequence[float],
    rows: Sequence[TaskRow],
    seed: int,
    on_loss: Callable[[int, float], None],
) -> dict[str, list[float]]:
    """For each layer a coefficient for each adapter, with which the loss on the rows is least."""
    torch, transformers = library("torch"), library("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.base_model.model.config.name_or_path)
    model.base_model.set_adapter(list(names))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = _lora_layers(model)
    scalings = {layer: dict(module.scaling) for layer, module in layers.items()}
    learnt: dict[str, Tensor] = {}
    for layer, module in layers.items():
        learnt[layer] = torch.nn.Parameter(torch.tensor(list(weights), dtype=torch.float32))
        for i, name in enumerate(names):
            module.scaling[name] = _Scaled(learnt[layer], i, float(module.scaling[name]))
    optimizer = torch.optim.Adam(learnt.values(), lr=_RATE)
    records = [
        (encode_chat(tokenizer, row.messages), encode_answer(tokenizer, row.completion)) for row in rows
    ]
    order = torch.Generator().manual_seed(seed)
    for step in range(_STEPS):
        chosen = torch.randint(len(records), (min(_BATCH, len(records)),), generator=order).tolist()
        loss = _loss(model, [records[i] for i in chosen], torch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_loss(step + 1, float(loss))
    for layer, module in layers.items():
        module.scaling.update(scalings[layer])
    return {layer: [float(c) for c in learnt[layer].detach()] for layer in sorted(layers)}


def _apply(model: Any, names: Sequence[str], coefficients: Mapping[str, Sequence[float]]) -> None:
    """Multiply each layer's coefficients into the scaling of its adapters."""
    for layer, module in _lora_layers(model).items():
        for name, coefficient in zip(names, coefficients[layer], strict=True):
            module.scaling[name] *= coefficient


class _Scaled:
    """Stands where peft keeps an adapter's scaling: multiplied into the adapter's output, with a gradient."""

    def __init__(self, coefficients: Tensor, position: int, scaling: float) -> None:
        self._coefficients, self._position, self._scaling = coefficients, position, scaling

    def __rmul__(self, output: Tensor) -> Tensor:
        return output * (self._coefficients[self._position] * self._scaling)

    __mul__ = __rmul__


def _loss(model: Any, batch: Sequence[tuple[list[int], list[int]]], torch: ModuleType) -> Tensor:
    """The loss on the answers of a batch of prompts and answers."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        mask[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    loss: Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _save_adapter(model: Any, folder: Path, peft: ModuleType) -> None:
    state = peft.get_peft_model_state_dict(model, adapter_name=_MERGED)
    tensors_by_name = {name: tensor.contiguous() for name, tensor in state.items()}
    library("safetensors.torch").save_file(tensors_by_name, str(folder / WEIGHTS))
    config = {**model.peft_config[_MERGED].to_dict(), "use_rslora": False}  # the halves hold the scaling
    text = json.dumps(
        config, indent=2, default=lambda value: sorted(value) if isinstance(value, set) else str(value)
    )
    (folder / ADAPTER_CONFIG).write_text(text)
