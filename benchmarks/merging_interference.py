"""What is left of two adapters when they are merged?

    python -m benchmarks.merging_interference --out runs.jsonl --seeds 10

The zoo's small model, two adapters of rank 16 for reading an answer off sentences: of the kept-out domain
(museum), and of the domain the model knows (civic); or, with `--pair sub-tasks`, of the kept-out domain for
reading an answer off and for quoting sentences. Each way to merge is scored on 400 questions of each domain.
Coefficients and scales are learnt or chosen on 32 further rows of each that no adapter saw. TIES and DARE
are tried on the factors, as peft does, and on ΔW = scale·B·A, as the papers have it: whole, and brought to a
rank by a truncated SVD, whose lost energy is recorded. Tangent-space adapters are trained, and answer, as
the model's linearisation; `as served` is what vLLM would answer with their weights. Each seed is a line of
the file; the same command goes on, and prints means and differences over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.zoo_tuning import (
    Item,
    Tokens,
    adapted,
    answered,
    batch_of,
    batches,
    load,
    over_seeds,
    score,
    text_of,
    train,
)
from pipelines.zoo.training.lexicon import CIVIC, MUSEUM
from pipelines.zoo.training.make_data import DIFFICULTY
from pipelines.zoo.training.worlds import make_rows

Deltas = dict[str, torch.Tensor]
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]  # scale·B and A of each layer
RANK, STEPS, N_TRAIN, N_LEARN, N_TEST = 16, 200, 1000, 32, 400
PAIRS = {
    "domains": {"museum": (MUSEUM, "read"), "civic": (CIVIC, "read")},
    "sub-tasks": {"read": (MUSEUM, "read"), "quote": (MUSEUM, "quote")},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--pair", choices=list(PAIRS), default="domains")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {run["seed"] for run in _read(options.out) if run["pair"] == options.pair}
    for seed in sorted(set(range(options.seeds)) - done):
        run = {"pair": options.pair, "seed": seed, **_run(options.pair, seed)}
        with options.out.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(json.dumps(run), flush=True)
    _print([run for run in _read(options.out) if run["pair"] == options.pair])


def _run(pair: str, seed: int) -> dict[str, Any]:
    tokens = Tokens()

    def items(name: str, seed: int, split: Any, prefix: str, count: int) -> list[Item]:
        domain, task = PAIRS[pair][name]
        made = list(make_rows(seed, domain, split, DIFFICULTY, prefix=prefix, n_rows=count))
        return tokens.read(made) if task == "read" else tokens.quote(made)

    names = list(PAIRS[pair])
    rows = {
        (name, split): items(name, seed, "train", split, count)
        for name in names
        for split, count in (("train", N_TRAIN), ("learn", N_LEARN))
    }
    tests = {name: items(name, 0, "test", "judge", N_TEST) for name in names}
    learn = [item for name in names for item in rows[name, "learn"]]
    both = [item for name in names for item in rows[name, "train"]]
    out: dict[str, Any] = {"scores": {}, "lost": {}}

    def judge(arm: str, model: Any) -> None:
        out["scores"][arm] = {name: score(model, tests[name]) for name in tests}

    judge("base", load("small"))
    factors: list[Factors] = []
    for number, name in enumerate(names):
        for rank in (RANK, 2 * RANK):
            model = adapted("small", rank, 10 * seed + number)
            train(model, rows[name, "train"], steps=STEPS, seed=seed)
            judge(f"{name} alone, rank {rank}", model)
            if rank == RANK:
                factors.append(_factors(model))
    model = adapted("small", 2 * RANK, 10 * seed)
    train(model, both, steps=2 * STEPS, seed=seed)
    judge(f"trained on both, rank {2 * RANK}", model)
    deltas = [_product(one) for one in factors]
    judge("sum", _with(_sum(deltas, [1.0, 1.0])))
    judge("mean", _with(_sum(deltas, [0.5, 0.5])))

    def lower(arm: str, delta: Deltas, rank: int) -> None:
        cut, lost = _truncated(delta, rank)
        out["lost"][f"{arm}, rank {rank}"] = lost
        judge(f"{arm}, rank {rank}", _with(cut))

    for rank in (RANK, RANK // 2):
        lower("sum", _sum(deltas, [1.0, 1.0]), rank)
    grid = [(a, b) for a in (0.2, 0.4, 0.6, 0.8, 1.0) for b in (0.2, 0.4, 0.6, 0.8, 1.0)]
    losses = {scales: _loss(_with(_sum(deltas, scales)), learn) for scales in grid}
    one_scale = min((scales for scales in grid if scales[0] == scales[1]), key=lambda one: losses[one])
    two_scales = min(grid, key=lambda scales: losses[scales])
    out["chosen"] = {"one": one_scale, "two": two_scales}
    judge("sum, one scale chosen", _with(_sum(deltas, one_scale)))
    judge("sum, two scales chosen", _with(_sum(deltas, two_scales)))
    for density in (0.2, 0.5):
        judge(f"TIES {density} on factors", _with(_factorwise(factors, density, _ties)))
        ties = {name: _ties([d[name] for d in deltas], density) for name in deltas[0]}
        judge(f"TIES {density} on ΔW, whole", _with(ties))
        for rank in (RANK, 2 * RANK):
            lower(f"TIES {density} on ΔW", ties, rank)
        scale = min((0.4, 0.6, 0.8, 1.0, 1.3), key=lambda s: _loss(_with(_sum([ties], [s])), learn))
        judge(f"TIES {density} on ΔW, whole, scale chosen", _with(_sum([ties], [scale])))
        torch.manual_seed(seed)
        judge(f"DARE {density} on factors", _with(_factorwise(factors, density, _dare)))
        dare = {name: _dare([d[name] for d in deltas], density) for name in deltas[0]}
        judge(f"DARE {density} on ΔW, whole", _with(dare))
        for rank in (RANK, 2 * RANK):
            lower(f"DARE {density} on ΔW", dare, rank)
    for arm, per_layer, start in (
        ("learnt per layer, from mean", True, 0.5),
        ("learnt per layer, from sum", True, 1.0),
        ("learnt, one per adapter", False, 0.5),
    ):
        judge(arm, _with(_learnt(deltas, learn, per_layer, start, seed)))
    for arm, weights in (("sum", (1.0, 1.0)), ("mean", (0.5, 0.5))):
        model = _adapter_of(factors, weights)
        train(model, learn, steps=60, seed=seed, rate=1e-3)
        judge(f"{arm}, trained on the rows to learn from", model)
    if pair == "domains":
        _tangent(seed, rows, tests, out)
    return out


# -- adapters as matrices


def _factors(model: Any) -> Factors:
    layers = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")}
    return {
        name: (
            layer.lora_B["default"].weight.detach() * layer.scaling["default"],
            layer.lora_A["default"].weight.detach(),
        )
        for name, layer in layers.items()
    }


def _product(factors: Factors) -> Deltas:
    return {name: b @ a for name, (b, a) in factors.items()}


def _sum(deltas: Sequence[Deltas], weights: Sequence[float]) -> Deltas:
    return {name: sum(w * d[name] for w, d in zip(weights, deltas, strict=True)) for name in deltas[0]}  # type: ignore[misc]


def _with(deltas: Deltas) -> Any:
    model = load("small")
    with torch.no_grad():
        for name, delta in deltas.items():
            model.get_submodule(name).weight += delta
    return model


def _truncated(deltas: Deltas, rank: int) -> tuple[Deltas, float]:
    cut, kept, whole = {}, 0.0, 0.0
    for name, delta in deltas.items():
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        cut[name] = (u[:, :rank] * s[:rank]) @ v[:rank]
        kept, whole = kept + float((s[:rank] ** 2).sum()), whole + float((s**2).sum())
    return cut, 1.0 - kept / whole


def _ties(parts: Sequence[torch.Tensor], density: float) -> torch.Tensor:
    """Trim to the largest values, elect a sign by mass, average those that have it (arXiv 2306.01708)."""
    trimmed = []
    for part in parts:
        least = part.abs().flatten().kthvalue(max(1, round((1 - density) * part.numel()))).values
        trimmed.append(torch.where(part.abs() > least, part, 0.0))
    stack = torch.stack(trimmed)
    sign = torch.sign(stack.sum(0))
    agree = (torch.sign(stack) == sign) & (stack != 0)
    return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


def _dare(parts: Sequence[torch.Tensor], density: float) -> torch.Tensor:
    """Drop values at random, scale up those that stay, and add (arXiv 2311.03099)."""
    return torch.stack([p * (torch.rand_like(p) < density) / density for p in parts]).sum(0)


def _factorwise(factors: Sequence[Factors], density: float, combine: Any) -> Deltas:
    """peft's way: the rule on A and on B, each with the root of the scale."""
    out = {}
    for name in factors[0]:
        root = (2 * RANK / RANK) ** 0.5
        b = combine([f[name][0] / root for f in factors], density)
        out[name] = b @ combine([f[name][1] * root for f in factors], density)
    return out


def _adapter_of(factors: Sequence[Factors], weights: Sequence[float]) -> Any:
    """The weighted sum as one adapter, exact, that can be trained on."""
    model: Any = adapted("small", RANK * len(factors), 0)
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            scale = layer.scaling["default"]
            b = torch.cat([w * f[name][0] / scale for w, f in zip(weights, factors, strict=True)], 1)
            layer.lora_B["default"].weight.data = b
            layer.lora_A["default"].weight.data = torch.cat([f[name][1] for f in factors], 0)
    return model


def _loss(model: Any, items: Sequence[Item]) -> float:
    with torch.no_grad():
        return float(model(**batch_of(items)).loss)


def _learnt(
    deltas: Sequence[Deltas], items: Sequence[Item], per_layer: bool, start: float, seed: int
) -> Deltas:
    """Coefficients by gradient on the loss, as aTLAS has them (arXiv 2407.02880)."""
    model = load("small").requires_grad_(False)
    names = list(deltas[0])
    learnt = torch.full((len(names) if per_layer else 1, len(deltas)), start, requires_grad=True)
    base = {name: model.get_submodule(name).weight for name in names}
    optimizer = torch.optim.Adam([learnt], lr=0.05)

    def merged() -> Deltas:
        rows = learnt if per_layer else learnt.expand(len(names), -1)
        return {
            name: sum(c * d[name] for c, d in zip(row, deltas, strict=True))  # type: ignore[misc]
            for name, row in zip(names, rows, strict=True)
        }

    for chosen in batches(items, 16, 60, np.random.default_rng(seed)):
        weights = {f"{name}.weight": base[name] + delta for name, delta in merged().items()}
        loss = torch.func.functional_call(model, weights, kwargs=batch_of(chosen)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: delta.detach() for name, delta in merged().items()}


# -- the tangent space


class _Tangent:
    """f(θ) + J·Δ, where Δ is B of an adapter whose A is fixed: linear in what is learnt."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = load("small").requires_grad_(False)
        self.model.set_attn_implementation("eager")
        self.names = [n for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        self.names = [name for name in self.names if name != "lm_head"]
        self.base = {f"{name}.weight": self.model.get_submodule(name).weight for name in self.names}
        self.a = {n: torch.empty(RANK, w.shape[1]) for n, w in self.base.items()}
        for a in self.a.values():
            torch.nn.init.kaiming_uniform_(a, a=5**0.5)
        self.b = {n: torch.zeros(w.shape[0], RANK, requires_grad=True) for n, w in self.base.items()}

    def delta(self) -> Deltas:
        return {name: 2.0 * self.b[name] @ self.a[name] for name in self.base}

    def logits(self, delta: Deltas, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def at(weights: Deltas) -> torch.Tensor:
            out: torch.Tensor = torch.func.functional_call(
                self.model, weights, kwargs={"input_ids": ids, "attention_mask": mask, "use_cache": False}
            ).logits
            return out

        both: Any = torch.func.jvp(at, (self.base,), (delta,))
        summed: torch.Tensor = both[0] + both[1]
        return summed

    def train(self, items: Sequence[Item], seed: int) -> None:
        optimizer = torch.optim.AdamW(self.b.values(), lr=5e-3, weight_decay=0.0)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / STEPS)
        for chosen in batches(items, 16, STEPS, np.random.default_rng(seed)):
            batch = batch_of(chosen)
            logits = self.logits(self.delta(), batch["input_ids"], batch["attention_mask"])
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.b.values(), 1.0)
            optimizer.step()
            falling.step()

    def score(self, delta: Deltas, items: Sequence[Item]) -> float:
        right: list[bool] = []
        for start in range(0, len(items), 100):
            batch = batch_of(items[start : start + 100])
            with torch.no_grad():
                logits = self.logits(delta, batch["input_ids"], batch["attention_mask"])
            right += answered(logits, batch["labels"])
        return float(np.mean(right))


def _tangent(
    seed: int,
    rows: Mapping[tuple[str, str], Sequence[Item]],
    tests: Mapping[str, Sequence[Item]],
    out: dict[str, Any],
) -> None:
    deltas: list[Deltas] = []
    for name in tests:
        one = _Tangent(seed)  # one A for both, so that the merge stays of one rank
        one.train(rows[name, "train"], seed)
        deltas.append({n: d.detach() for n, d in one.delta().items()})
        out["scores"][f"tangent, {name} alone"] = {t: one.score(deltas[-1], tests[t]) for t in tests}
    for arm, weights in (("sum", (1.0, 1.0)), ("mean", (0.5, 0.5))):
        delta = _sum(deltas, weights)
        out["scores"][f"tangent, {arm}"] = {t: one.score(delta, tests[t]) for t in tests}
    for domain, delta in zip(tests, deltas, strict=True):
        served = _with({name.removesuffix(".weight"): d for name, d in delta.items()})
        out["scores"][f"tangent, {domain} alone, as served"] = {t: score(served, tests[t]) for t in tests}


# -- the table


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print(runs: Sequence[dict[str, Any]]) -> None:
    names = list(PAIRS[runs[0]["pair"]])
    print(f"{len(runs)} seeds; the last difference is of the averages, from that of the mean adapter")
    print(f"| | {' | '.join(f'{n} | minus {n} alone' for n in names)} | average | minus mean | lost |")
    print("| --- | ---: | --- | ---: | --- | ---: | --- | ---: |")
    for arm in runs[0]["scores"]:
        cells = []
        for domain in names:
            own = {run["seed"]: run["scores"][arm][domain] for run in runs}
            alone = {run["seed"]: run["scores"][f"{domain} alone, rank {RANK}"][domain] for run in runs}
            cells += [f"{np.mean(list(own.values())):.3f}", text_of(over_seeds(own, alone))]
        both, mean = (
            {run["seed"]: float(np.mean(list(run["scores"][name].values()))) for run in runs}
            for name in (arm, "mean")
        )
        cells += [f"{np.mean(list(both.values())):.3f}", text_of(over_seeds(both, mean))]
        lost = [run["lost"][arm] for run in runs if arm in run["lost"]]
        print(f"| {arm} | {' | '.join(cells)} | {f'{np.mean(lost):.2f}' if lost else ''} |")


if __name__ == "__main__":
    main()
