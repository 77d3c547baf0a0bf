"""`agenttts tune merge`: merge adapters of one base, or add an adapter to the weights of its base.

Task vectors add up (Ilharco et al. 2022, arXiv 2212.04089). The weighted sum of ΔW = scale·B·A is exact: the
factors are put side by side, in float32 whatever the adapters' type, and the merged rank is that of all
together; a lower rank is what a singular value decomposition of the sum keeps. TIES (arXiv 2306.01708), DARE
(arXiv 2311.03099), a learnt coefficient for each layer (aTLAS, arXiv 2407.02880) and adapters of the tangent
space (arXiv 2305.12827) were measured and left out: `benchmarks/merging_interference.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttts.errors import UserError
from agenttts.training.checkpoints import one_line, quiet, save_json
from agenttts.training.weights import (
    ADAPTER_CONFIG,
    CARD,
    RANKS,
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

WEIGHTS = "adapter_model.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """ΔW of one layer as the product B·A.

    Attributes:
        a: Of the shape (rank, inputs), in float32.
        b: Of the shape (outputs, rank), in float32; it holds the scale.
    """

    a: Tensor
    b: Tensor


def merge(
    adapters: Sequence[Path], out: Path, *, weights: Sequence[float] | None = None, rank: int | None = None
) -> TunedModel:
    """Merge adapters into one: the weighted sum of what they add to their base.

    Args:
        adapters: The directories of the adapters.
        out: The directory of the result.
        weights: A finite weight for each adapter. None: equal shares of 1, which disturb the adapters least.
        rank: The rank of the result, below that of all adapters together; its card says in `lost_energy`
            which share of the sum's squared singular values is lost. None: the sum is exact.

    Raises:
        UserError: Bases, layers or numbers do not fit together, or the place is taken.
        MissingDependency: The extra `tune` is not installed.
    """
    tuned = [read_tuned(path) for path in adapters]
    _require_alike(tuned)
    weights = list(weights) if weights else [1.0 / len(tuned)] * len(tuned)
    if len(weights) != len(tuned):
        raise UserError(f"--weight: one for each of the {len(tuned)} adapters, got {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise UserError(f"--weight: must be finite numbers, got {', '.join(map(str, weights))}")
    exact = sum(one.rank or 0 for one in tuned)
    if rank is not None and not 1 <= rank < exact:
        raise UserError(f"--rank: must be from 1 to {exact - 1}, below that of the exact sum, got {rank}")
    if rank is None and exact > RANKS[-1]:
        raise UserError(f"the exact sum has rank {exact}, vLLM serves up to {RANKS[-1]}; name a --rank")
    if out.exists():
        raise UserError(f"{out}: must be free; choose another --out")
    with quiet(), _made(out) as beside:
        layers = _summed([_factors(one) for one in tuned], weights)
        lost = 0.0
        if rank is not None:
            layers, lost = _of_rank(layers, rank)
        card = tuned[0].card
        merged_card = TuningCard(
            base=card.base or tuned[0].base,
            base_digest=card.base_digest,
            base_params=card.base_params,
            tasks=tuple(sorted({task for one in tuned for task in one.card.tasks})),
            settings={
                "merged": [str(one.path) for one in tuned],
                "weights": [*weights],
                "lost_energy": round(lost, 6),
            },
        )
        _save_adapter(layers, _config(tuned[0]), rank or exact, beside)
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
    torch, peft, transformers = library("torch"), library("peft"), library("transformers")
    with quiet(), _made(out) as beside:
        try:
            base = transformers.AutoModelForCausalLM.from_pretrained(tuned.base, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"base: {tuned.base} can't be loaded: {one_line(error)}") from None
        model = peft.PeftModel.from_pretrained(base, str(tuned.path)).merge_and_unload()
        model.save_pretrained(str(beside), safe_serialization=True)
        transformers.AutoTokenizer.from_pretrained(tuned.base).save_pretrained(str(beside))
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
        require_servable(adapter.path)
        for pattern in ("rank_pattern", "alpha_pattern"):
            if _config(adapter).get(pattern):
                raise UserError(
                    f"{adapter.path}: {pattern} must be empty, vLLM scales all layers alike; merge it into "
                    "its base instead (--method base)"
                )
        if _config(adapter).get("target_parameters"):
            raise UserError(
                f"{adapter.path}: target_parameters must be empty, the factors of several experts can't be "
                "put side by side; merge it into its base instead (--method base)"
            )
    names = [set(tensors(one.path / WEIGHTS)) for one in tuned]
    for adapter, tensor_names in zip(tuned, names, strict=True):
        if tensor_names != names[0]:
            other = sorted(tensor_names ^ names[0])[0]
            raise UserError(f"{adapter.path}: must adapt the same layers as {first.path}; {other} differs")
    others = [name for name in names[0] if not name.endswith((_A, _B))]
    if others:
        raise UserError(f"{first.path}: only adapters on linear layers can be merged, got {min(others)}")


def _config(adapter: TunedModel) -> dict[str, Any]:
    """The adapter's configuration, which is peft's."""
    config: dict[str, Any] = json.loads((adapter.path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return config


def _factors(adapter: TunedModel) -> dict[str, _Factors]:
    """What an adapter adds, by layer, in float32: in half precision scaled factors are rounded or lost."""
    config = _config(adapter)
    rank, alpha = config["r"], config.get("lora_alpha", config["r"])
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    stored = library("safetensors.torch").load_file(str(adapter.path / WEIGHTS))
    state = {name: tensor.float() for name, tensor in stored.items()}
    layers = [name.removesuffix(_A) for name in state if name.endswith(_A)]
    return {name: _Factors(a=state[name + _A], b=scale * state[name + _B]) for name in layers}


def _summed(parts: Sequence[Mapping[str, _Factors]], weights: Sequence[float]) -> dict[str, _Factors]:
    """The weighted sum: the factors of all side by side."""
    torch = library("torch")
    return {
        name: _Factors(
            a=torch.cat([part[name].a for part in parts], 0),
            b=torch.cat([weight * part[name].b for weight, part in zip(weights, parts, strict=True)], 1),
        )
        for name in parts[0]
    }


def _of_rank(layers: Mapping[str, _Factors], rank: int) -> tuple[dict[str, _Factors], float]:
    """The nearest factors of a rank, and the share of the squared singular values that they lose."""
    torch = library("torch")
    nearest: dict[str, _Factors] = {}
    left = energy = 0.0
    for name, layer in layers.items():
        b_basis, b_rest = torch.linalg.qr(layer.b)
        a_basis, a_rest = torch.linalg.qr(layer.a.T)
        u, values, v = torch.linalg.svd(b_rest @ a_rest.T)
        root = values[:rank].sqrt()
        missing = rank - len(root)  # of a layer that is narrower than the rank
        a, b = root[:, None] * (v[: len(root)] @ a_basis.T), (b_basis @ u[:, : len(root)]) * root
        pad = torch.nn.functional.pad
        nearest[name] = _Factors(a=pad(a, (0, 0, 0, missing)), b=pad(b, (0, missing)))
        left += float((values[:rank] ** 2).sum())
        energy += float((values**2).sum())
    return nearest, 1.0 - left / energy if energy else 0.0


def _save_adapter(layers: Mapping[str, _Factors], config: Mapping[str, Any], rank: int, folder: Path) -> None:
    state = {name + _A: layer.a.contiguous() for name, layer in layers.items()}
    state |= {name + _B: layer.b.contiguous() for name, layer in layers.items()}
    library("safetensors.torch").save_file(state, str(folder / WEIGHTS))
    scaled = {**config, "r": rank, "lora_alpha": rank, "use_rslora": False}  # B holds the scale
    (folder / ADAPTER_CONFIG).write_text(json.dumps(scaled, indent=2))
