"""Training throughput of `agenttts tune fit` against TRL's own trainer, on the same rows, in one run.

    python benchmarks/tune_throughput.py [--rows 1000] [--repeats 3]

Both train the zoo's small model for one epoch, LoRA on all linear layers, each in a process of its own, by
turns. Prints rows per second of the training loop, their ratio, and the peak resident memory.

Measured 2026-11-25 (one thread): 511 rows/s against TRL's 469, ratio 1.09; peak 0.66 GiB against 0.65.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.zoo import SPEC

BASE = str(SPEC.parent / "models/small")


def with_trl(folder: Path) -> None:
    """As TRL's script `sft.py` does it: a conversational prompt-completion dataset, and its trainer."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = datasets.load_from_disk(str(folder / "museum" / "examples"))["train"]
    data = rows.map(
        lambda row: {
            "prompt": row["messages"],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        },
        remove_columns=rows.column_names,
    )
    trainer = SFTTrainer(
        model=BASE,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            num_train_epochs=1,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            max_length=512,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="epoch",
        ),
        train_dataset=data,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    told(len(data), trainer.train().metrics["train_runtime"])


def with_agenttts(folder: Path) -> None:
    """`fit`, timed from its first step to the end of its loop, saving included."""
    from agenttts.tasktune.fit import FitConfig, fit
    from agenttts.tasktune.fit import trainer_class as made

    seconds: list[float] = []

    def timed(trl: object) -> object:
        class Timed(made(trl)):  # type: ignore[misc]
            def train(self, *arguments: object, **named: object) -> object:
                out = super().train(*arguments, **named)
                seconds.append(out.metrics["train_runtime"])
                return out

        return Timed

    import agenttts.tasktune.fit as module

    module.trainer_class = timed  # type: ignore[assignment]
    config = FitConfig(base=BASE, data="museum", out="ours", learning_rate=5e-3, epochs=1)
    (tuned,) = fit(config, folder)
    told(tuned.card.rows, seconds[0])


def told(rows: int, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows_per_second": rows / seconds, "peak_bytes": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["trl", "agenttts"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.only:
        {"trl": with_trl, "agenttts": with_agenttts}[arguments.only](arguments.folder)
        return
    from tests.agenttts.tasktune.museum import museum_config

    found: dict[str, list[dict[str, float]]] = {"trl": [], "agenttts": []}
    for repeat in range(arguments.repeats):
        for name in ("trl", "agenttts") if repeat % 2 else ("agenttts", "trl"):
            folder = Path(tempfile.mkdtemp())
            from agenttts.tasktune.data.build import run_build

            config = museum_config(folder, arguments.rows).model_copy(update={"eval_share": 0.0})
            run_build(config, folder, llm=None)
            command = [sys.executable, __file__, "--only", name, "--folder", str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(output.strip().splitlines()[-1]))
            time.sleep(0.5)
    pace = {name: statistics.median(one["rows_per_second"] for one in runs) for name, runs in found.items()}
    peak = {name: max(one["peak_bytes"] for one in runs) for name, runs in found.items()}
    print(
        json.dumps(
            {
                "rows_per_second": pace,
                "throughput_ratio": pace["agenttts"] / pace["trl"],
                "peak_gib": {name: bytes_ / 2**30 for name, bytes_ in peak.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
