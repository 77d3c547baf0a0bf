"""What counting the health of samples costs a search, for each sample.

    python benchmarks/sample_health.py [--prompts 2000] [--samples 4]

Samples of a stage are put into a store, then counted as a search counts them when their results come; then
again, as a second trial on the same samples does. Printed: microseconds of CPU for each sample, by parser, of
which parsing is a part. `noop_throughput.py` gives the CPU time of a whole request.

Measured 2026-11-26, two shared cores: 1.6 to 3.8 µs and the parsing, 2 (text) to 24 µs (JSON with a schema),
of the 134 µs that a sample of an instant server takes (0.54 ms for a request of four); 0.5 µs when counted
again.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from agenttts.results.meter import SampleMeter
from datastore import Sample, StageResult, Store, make_prompt
from pipelines import Allocation, Example, PipelineSpec, StageChoice
from pipelines.stages.parsers import parse

ALLOWED = ["red", "green", "blue", "black"]
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"kind": "text"}, "The house by the river is red, as the roof is."),
    "text after thinking": ({"kind": "text"}, f"<think>{'It may be red. ' * 100}</think>The house is red."),
    "choice": ({"kind": "choice", "allowed": "colours"}, "The house by the river is red."),
    "json": (
        {"kind": "json", "schema": {"type": "object"}},
        '{"colour": "red", "why": "the roof is red too"}',
    ),
}


def pipeline(parser: dict[str, Any], n_samples: int) -> PipelineSpec:
    stage = {
        "name": "answer",
        "prompt": "{{ question }}",
        "parser": parser,
        "models": ["small"],
        "max_samples": n_samples,
        "prompt_tokens": 40,
        "generated_tokens": 8,
    }
    return PipelineSpec.model_validate(
        {
            "name": "health",
            "stages": [stage],
            "models": {"small": {"base_url": "http://127.0.0.1:9/v1", "active_params": 1e6}},
            "dataset": {"search": "none.jsonl", "test": "none.jsonl"},
            "metric": {"kind": "exact_match", "label": "gold"},
            "budget": {"units": 10},
        }
    )


async def fill(store: Store, n_prompts: int, n_samples: int, text: str) -> list[StageResult]:
    results, puts = [], []
    for number in range(n_prompts):
        prompt = make_prompt("small", {"prompt": f"house {number}"}, {})
        samples = [
            Sample(
                prompt_key=prompt.key,
                index=index,
                text=text if text.endswith("}") else f"{text} {index}",
                generated_tokens=8,
                mean_logprob=None,
                finish_reason="stop",
                run_id="r",
                request_id=None,
            )
            for index in range(n_samples)
        ]
        puts.append(store.put_samples(prompt, samples))
        results.append(
            StageResult(
                trial_id="t",
                example_id=str(number),
                stage="answer",
                model_key="small",
                n_samples=n_samples,
                prompt_key=prompt.key,
                output=None,
                score=None,
                status="ok",
                reason=None,
                prompt_tokens=40,
                generated_tokens=8,
                flops=0.0,
                cost_usd=None,
                samples_drawn=n_samples,
                samples_reused=0,
            )
        )
    await asyncio.gather(*puts)
    return results


async def measure(kind: str, n_prompts: int, n_samples: int) -> None:
    parser, text = KINDS[kind]
    spec = pipeline(parser, n_samples)
    examples = [Example(str(number), {"colours": ALLOWED}) for number in range(n_prompts)]
    allocation = Allocation({"answer": StageChoice("small", n_samples)})
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory, "health.duckdb")) as store:
        results = await fill(store, n_prompts, n_samples, text)
        await store.get_samples([result.prompt_key or "" for result in results])  # as the runtime just has
        meter = SampleMeter(spec, store, examples)
        figures = []
        for _ in range(2):
            start = time.process_time()
            for result in results:  # one by one, as they come
                await meter.add(allocation, [result])
            figures.append((time.process_time() - start) / n_prompts / n_samples * 1e6)
        start = time.process_time()
        for _ in range(n_prompts * n_samples):
            parse(spec.stages[0].parser, text, examples[0])
        parsing = (time.process_time() - start) / n_prompts / n_samples * 1e6
        start = time.process_time()
        for _ in range(1000):
            meter.health(allocation)
        shares = (time.process_time() - start) * 1e3
    assert meter.health()[0].n_samples == n_prompts * n_samples
    print(
        f"{kind:20} {figures[0]:7.1f} µs a sample, {parsing:.1f} of them parsing; {figures[1]:.1f} µs again; "
        f"{shares:.1f} µs for the shares"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--prompts", type=int, default=2000)
    arguments.add_argument("--samples", type=int, default=4)
    options = arguments.parse_args()
    for kind in KINDS:
        asyncio.run(measure(kind, options.prompts, options.samples))


if __name__ == "__main__":
    main()
