"""Do chosen rows teach more than random ones?

    python -m benchmarks.row_selection --out runs.jsonl --seeds 10 --setting mixed --setting one
    python -m benchmarks.row_selection --out runs.jsonl --seeds 10 --setting intents --data DATA

As many rows are chosen from a pool in several ways, and the same model is trained on them for as many steps.
`mixed`: 1,200 rows of four sub-tasks of the zoo, 150 of them chosen to answer questions of its kept-out
domain; `one`: 100 of 600 rows of that sub-task alone; `intents`: 300 of 2,000 rows of BANKING77, a logistic
head on TF-IDF.

`influence` takes the rows whose gradients point most to that of a held-out target set, preconditioned by the
pool's damped Fisher matrix, `influence, cosine` without that and by direction alone. `Quad` (arXiv
2409.16986) draws from clusters by a bandit, which weighs the influence seen against how seldom a cluster was
drawn from, and computes influence for what it draws only. `clusters` takes as many from each cluster; `no
near duplicates` draws at random and passes over a row that is like one before (Jaccard similarity of 5-grams
by MinHash, 0.7). In `mixed`, `sub-tasks by Lasso` shares the rows out by the non-negative Lasso coefficients
of the target's gradient on the mean gradients of the sub-tasks (after arXiv 2306.02556), and `own sub-task`
takes random rows of the target's, whose name is known. Where the target's own sub-task is left out of the
pool, its 32 rows are trained on with what was chosen. `random, twice the steps` spends on training what
gradients of a whole pool cost.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Lasso, LogisticRegression

from agenttts.tasktune.data.cleaning import sketch
from benchmarks.zoo_tuning import Item, Tokens, adapted, batch_of, over_seeds, score, text_of, train
from pipelines.zoo.training.lexicon import CIVIC, MUSEUM
from pipelines.zoo.training.make_data import DIFFICULTY
from pipelines.zoo.training.worlds import make_rows

Floats = npt.NDArray[np.float64]
DAMPING, NEAR, EXPLORE, DRAW = 0.1, 0.7, 1.0, 8


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What can be chosen from, and what a choice may look at.

    Attributes:
        gradients: The gradient of each row's loss.
        target: The mean gradient of the target set.
        states: A state for each row, to cluster by.
        texts: The text of each row.
        groups: The sub-task of each row.
        own: The target's sub-task.
    """

    gradients: Floats
    target: Floats
    states: Floats
    texts: Sequence[str]
    groups: Sequence[str]
    own: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--setting", action="append", choices=["mixed", "one", "intents"], required=True)
    parser.add_argument("--data", type=Path, help="directory with banking77_train.csv and banking77_test.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for setting in options.setting:
        done = {run["seed"] for run in _read(options.out) if run["setting"] == setting}
        for seed in sorted(set(range(options.seeds)) - done):
            run = _intents(options.data, seed) if setting == "intents" else _zoo(setting, seed)
            with options.out.open("a") as file:
                file.write(json.dumps({"setting": setting, "seed": seed, **run}) + "\n")
            print(setting, seed, run, flush=True)
        _print(setting, [run for run in _read(options.out) if run["setting"] == setting])


# -- ways to choose


def _choices(pool: Pool, n: int, seed: int) -> dict[str, tuple[list[int], int]]:
    """The rows that each way chooses, and how many gradients it computed."""
    size = len(pool.texts)
    rng = np.random.default_rng(seed)
    clusters = KMeans(max(8, n // 8), n_init=1, random_state=seed).fit_predict(pool.states)
    gradients = pool.gradients
    influence = gradients @ _preconditioned(pool.target, gradients)
    lengths = np.linalg.norm(gradients, axis=1) * np.linalg.norm(pool.target) + 1e-12
    ways = {
        "random": (rng.permutation(size)[:n].tolist(), 0),
        "clusters": (_evenly(clusters, n, rng), 0),
        "no near duplicates": (_unlike(pool.texts, n, rng), 0),
        "influence": (np.argsort(-influence)[:n].tolist(), size),
        "influence, cosine": (np.argsort(-(gradients @ pool.target) / lengths)[:n].tolist(), size),
        "Quad": _quad(gradients, pool.target, clusters, n, rng),
    }
    if len(set(pool.groups)) > 1:
        own = [i for i, group in enumerate(pool.groups) if group == pool.own]
        ways["own sub-task"] = (rng.permutation(own)[:n].tolist(), 0)
        for name, left_out in (("sub-tasks by Lasso", ""), ("sub-tasks by Lasso, own left out", pool.own)):
            ways[name] = (_by_lasso(gradients, pool, left_out, n, rng), 32 * len(set(pool.groups)))
        others = [i for i, group in enumerate(pool.groups) if group != pool.own]
        ways["random, own left out"] = (rng.permutation(others)[:n].tolist(), 0)
        cosine = (gradients @ pool.target) / lengths
        ways["influence, cosine, own left out"] = (sorted(others, key=lambda i: -cosine[i])[:n], size)
    return ways


def _preconditioned(target: Floats, gradients: Floats) -> Floats:
    """(F + λI)⁻¹ times the target's gradient, F the mean outer product of the gradients, by Woodbury."""
    n = len(gradients)
    gram = gradients @ gradients.T / n
    damping = DAMPING * np.trace(gram) / n
    inner = np.linalg.solve(gram + damping * np.eye(n), gradients @ target / n)
    solved: Floats = (target - gradients.T @ inner) / damping
    return solved


def _evenly(clusters: npt.NDArray[np.int32], n: int, rng: np.random.Generator) -> list[int]:
    """As many rows from each cluster as it has, up to an equal share."""
    queues = [rng.permutation(np.flatnonzero(clusters == c)).tolist() for c in range(clusters.max() + 1)]
    chosen: list[int] = []
    while len(chosen) < n:
        for queue in rng.permutation(len(queues)):
            if queues[queue] and len(chosen) < n:
                chosen.append(queues[queue].pop())
    return chosen


def _unlike(texts: Sequence[str], n: int, rng: np.random.Generator) -> list[int]:
    """Random rows, none like another; where these run out, the most unlike of the rest count no further."""
    chosen: list[int] = []
    passed: list[int] = []
    sketches: list[Any] = []
    for i in rng.permutation(len(texts)).tolist():
        if len(chosen) == n:
            break
        own = sketch(texts[i])
        if any(own.jaccard(other) >= NEAR for other in sketches):
            passed.append(i)
        else:
            chosen.append(i)
            sketches.append(own)
    return [*chosen, *passed][:n]


def _quad(
    gradients: Floats, target: Floats, clusters: npt.NDArray[np.int32], n: int, rng: np.random.Generator
) -> tuple[list[int], int]:
    """Rows drawn from clusters by an upper confidence bound; of each draw the better half is taken."""
    queues = [rng.permutation(np.flatnonzero(clusters == c)).tolist() for c in range(clusters.max() + 1)]
    first = [queue[0] for queue in queues if queue]
    solved = _preconditioned(target, gradients[first])
    seen: list[list[float]] = [[] for _ in queues]
    chosen: list[int] = []
    n_drawn = 0
    while len(chosen) < n:
        spread = np.std([v for values in seen for v in values]) if n_drawn else 1.0
        bounds = [
            -np.inf
            if not queue
            else np.inf
            if not values
            else np.mean(values) + EXPLORE * spread * (2 * np.log(n_drawn) / len(values)) ** 0.5
            for queue, values in zip(queues, seen, strict=True)
        ]
        arm = int(np.argmax(bounds))
        drawn, queues[arm] = queues[arm][:DRAW], queues[arm][DRAW:]
        values = gradients[drawn] @ solved
        seen[arm] += values.tolist()
        n_drawn += len(drawn)
        order = np.argsort(-values)[: max(1, len(drawn) // 2)]
        chosen += [drawn[i] for i in order]
    return chosen[:n], n_drawn


def _by_lasso(gradients: Floats, pool: Pool, left_out: str, n: int, rng: np.random.Generator) -> list[int]:
    """Rows of each sub-task by its share of the coefficients, estimated on 32 rows each."""
    names = sorted(set(pool.groups) - {left_out})
    rows = {name: rng.permutation([i for i, g in enumerate(pool.groups) if g == name]) for name in names}
    means = np.stack([gradients[rows[name][:32]].mean(0) for name in names], 1)
    scale = np.linalg.norm(means, axis=0)
    strength = 0.1 * np.abs((means / scale).T @ pool.target).max() / len(pool.target)
    fit = Lasso(alpha=strength, positive=True, fit_intercept=False).fit(means / scale, pool.target)
    shares = fit.coef_ / fit.coef_.sum() if fit.coef_.sum() > 0 else np.full(len(names), 1 / len(names))
    counts = np.floor(shares * n).astype(int)
    counts[np.argmax(shares)] += n - counts.sum()
    chosen: list[int] = []
    for name, count in zip(names, counts, strict=True):
        chosen += rows[name][:count].tolist()
    return chosen


# -- the zoo


def _zoo(setting: str, seed: int) -> dict[str, Any]:
    tokens = Tokens()

    def rows(domain: Any, prefix: str, count: int) -> list[Any]:
        return list(make_rows(seed, domain, "train", DIFFICULTY, prefix=prefix, n_rows=count))

    if setting == "mixed":
        parts = {
            "museum-read": tokens.read(rows(MUSEUM, "own", 300)),
            "museum-quote": tokens.quote(rows(MUSEUM, "quote", 300)),
            "civic-read": tokens.read(rows(CIVIC, "civic", 300)),
            "civic-quote": tokens.quote(rows(CIVIC, "civic-quote", 300)),
        }
        n, steps = 150, 100
    else:
        parts, n, steps = {"museum-read": tokens.read(rows(MUSEUM, "own", 600))}, 100, 100
    items = [item for part in parts.values() for item in part]
    groups = [name for name, part in parts.items() for _ in part]
    target = tokens.read(rows(MUSEUM, "target", 32))
    test = tokens.read(list(make_rows(0, MUSEUM, "test", DIFFICULTY, prefix="judge", n_rows=400)))
    warm = adapted("small", 4, seed)
    train(
        warm,
        [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:64]],
        steps=20,
        seed=seed,
    )
    pool = Pool(
        gradients=_gradients(warm, items),
        target=_gradients(warm, target).mean(0),
        states=_mean_states(warm, items),
        texts=[f"{tokens.tokenizer.decode(item.prompt)}{item.text}" for item in items],
        groups=groups,
        own="museum-read",
    )
    ways = _choices(pool, n, seed)
    out: dict[str, Any] = {"scores": {}, "gradients": {}, "own": {}}

    def judge(
        way: str, chosen: Sequence[int], n_gradients: int, n_steps: int = steps, extra: Any = ()
    ) -> None:
        model = adapted("small", 16, seed)
        train(model, [*(items[i] for i in chosen), *extra], steps=n_steps, seed=seed)
        out["scores"][way] = score(model, test)
        out["gradients"][way] = n_gradients
        out["own"][way] = sum(groups[i] == pool.own for i in chosen) / max(1, len(chosen))

    for way, (chosen, n_gradients) in ways.items():
        extra = target if "left out" in way else ()
        judge(way, chosen, n_gradients, extra=extra)
    judge("random, twice the steps", ways["random"][0], 0, 2 * steps)
    judge("random, the target set with it", ways["random"][0], 0, extra=target)
    if setting == "mixed":
        judge("the target set alone", (), 0, extra=target)
    return out


def _gradients(model: Any, items: Sequence[Item]) -> Floats:
    """The gradient of each item's loss by what the model has to train."""
    learnt = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}

    def loss(weights: dict[str, torch.Tensor], ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        batch = {"input_ids": ids[None], "labels": labels[None]}  # padding is to the right of all
        out: torch.Tensor = torch.func.functional_call(model, weights, kwargs=batch).loss
        return out

    of_each: Any = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    parts = []
    for start in range(0, len(items), 32):
        batch = batch_of(items[start : start + 32])
        found = of_each(learnt, batch["input_ids"], batch["labels"])
        parts.append(torch.cat([one.flatten(1) for one in found.values()], 1))
    gradients: Floats = torch.cat(parts).double().numpy()
    return gradients


def _mean_states(model: Any, items: Sequence[Item]) -> Floats:
    """The mean of the last states of each item."""
    parts = []
    for start in range(0, len(items), 100):
        batch = batch_of(items[start : start + 100])
        mask = batch["attention_mask"][..., None]
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states[-1]
        parts.append((states * mask).sum(1) / mask.sum(1))
    means: Floats = torch.cat(parts).double().numpy()
    return means


# -- intents


def _intents(data: Path, seed: int) -> dict[str, Any]:
    def read(name: str) -> tuple[list[str], list[str]]:
        with (data / f"banking77_{name}.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [row["text"] for row in rows], [row["category"] for row in rows]

    texts, labels = read("train")
    test_texts, test_labels = read("test")
    states = _states([*texts, *test_texts])
    order = np.random.default_rng(seed).permutation(len(texts))
    pooled, held, warm = order[:2000], order[2000:2200], order[2200:2400]
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}
    y = np.array([number[label] for label in labels])
    head = LogisticRegression(C=10.0, max_iter=200).fit(states[warm], y[warm])

    def gradient(i: int) -> Floats:
        errors = -np.eye(len(names))[y[i]]
        errors[head.classes_] += head.predict_proba(states[i : i + 1])[0]
        flat: Floats = np.outer(errors, states[i]).ravel().astype(np.float32)
        return flat

    pool = Pool(
        gradients=np.stack([gradient(i) for i in pooled]),
        target=np.mean([gradient(i) for i in held], axis=0),
        states=states[pooled],
        texts=[texts[i] for i in pooled],
        groups=["intents"] * len(pooled),
        own="intents",
    )
    out: dict[str, Any] = {"scores": {}, "gradients": {}}
    truth = np.array([number[label] for label in test_labels])
    for way, (chosen, n_gradients) in _choices(pool, 300, seed).items():
        rows = pooled[chosen]
        trained = LogisticRegression(C=10.0, max_iter=300).fit(states[rows], y[rows])
        out["scores"][way] = float((trained.predict(states[len(texts) :]) == truth).mean())
        out["gradients"][way] = n_gradients
    return out


def _states(texts: Sequence[str]) -> Floats:
    """Texts as weighted words and pairs of words, in 128 dimensions of unit length."""
    weighted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    reduced: Floats = TruncatedSVD(128, random_state=0).fit_transform(weighted)
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit: Floats = reduced / np.maximum(lengths, 1e-9)
    return unit


# -- the table


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print(setting: str, runs: Sequence[dict[str, Any]]) -> None:
    print(
        f"{setting}, {len(runs)} seeds\n| | score | minus random | gradients |\n| --- | ---: | --- | ---: |"
    )
    for way in runs[0]["scores"]:
        own = {run["seed"]: run["scores"][way] for run in runs}
        difference = text_of(over_seeds(own, {run["seed"]: run["scores"]["random"] for run in runs}))
        n_gradients = np.mean([run["gradients"][way] for run in runs])
        print(f"| {way} | {np.mean(list(own.values())):.3f} | {difference} | {n_gradients:.0f} |")


if __name__ == "__main__":
    main()
