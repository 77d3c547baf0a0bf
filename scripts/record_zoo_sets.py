"""Adds to the zoo's bank what weighted votes and other orders of its samples make new.

    python scripts/record_zoo_sets.py

The bank was recorded for fixed allocations with plain votes, in the order in which the samples were drawn. A
vote that weighs evidence, or the same vote over the samples in another order, can select another set of
sentences, and the bank has no answers to it. This script finds every set that the retrieval's samples can
yield and draws the answers of each model to those that are missing: 32 samples at the temperature of the
spec, from the shipped models through transformers, in float32 on CPU. Draws that share a prefix share the
computation. What the bank has stays as it is; a second run draws nothing.

Samples are drawn as vLLM draws them: before it draws, the script checks on prompts of the bank that prompts
have the recorded number of tokens and texts the recorded log-probability.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from agenttts.policies.orders import sample_order
from datastore import Payment, Prompt, Sample, Store
from datastore.bank import Bank, read_parquet
from pipelines.dataset.splits import load_examples
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.policy import Vote
from pipelines.runtime.sampler import Sampler
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages import prompts
from pipelines.stages.ballots import Ballots
from pipelines.stages.candidates import Candidate
from pipelines.stages.counts import Count
from pipelines.stages.parsers import Parsed, parse
from pipelines.zoo import SPEC
from pipelines.zoo.training.answerer import Answerer, Request, samples

log = logging.getLogger("zoo.sets")
ORDERS = range(5)
"""The orders of the samples whose sets are answered; 0 is the bank's own."""
VOTES = tuple(
    Vote(kind=kind, threshold=threshold) for kind in ("plain", "weighted") for threshold in (0.15, 0.2, 0.25)
)
"""The votes whose sets are answered: the stage's own is plain 0.25."""
N_CHECKED = 200
"""How many prompts of the bank are compared with what the models say here."""


def evidence_sets(spec: PipelineSpec, example: Example, bank: Bank, sampler: Sampler) -> list[JSON]:
    """Find every set of sentences that a number of samples, an order and a vote can select.

    Args:
        spec: The zoo.
        example: The example.
        bank: The bank with the samples of the retrieval.
        sampler: Gives the keys of prompts.

    Returns:
        The outputs of the stage, without doubles.
    """
    stage = spec.stages[0]
    counts = [count for vote in VOTES if (count := Count.of(stage.aggregator, vote)) is not None]
    outputs: dict[str, JSON] = {}
    for model in stage.models:
        key = sampler.prompt(model, prompts.render(stage, example, {}), stage.sampling).key
        candidates = []
        for s in bank.samples(key):
            parsed = parse(stage.parser, s.text, example)
            value = parsed.value if isinstance(parsed, Parsed) else None
            candidates.append(Candidate(s.index, s.text, value, s.mean_logprob, s.generated_tokens))
        for order in ORDERS:
            ballots = Ballots.of(stage, counts[0], example)
            for index in sample_order(key, order, len(candidates)):
                ballots.add(candidates[index])
                for count in counts:
                    output = ballots.output(count)
                    outputs[repr(output)] = output
    return list(outputs.values())


def requests(spec: PipelineSpec, bank: Bank) -> Iterator[tuple[str, Request]]:
    """Yield each model's answer prompts of all sets of both splits, those of the bank included."""
    sampler = Sampler(spec, _NoBank(), None, run_id=None, replay=True, gate=None)
    stage = spec.stages[1]
    for split in ("search", "test"):
        for example in load_examples(spec, split):
            for chosen in evidence_sets(spec, example, bank, sampler):
                content = prompts.render(stage, example, {spec.stages[0].name: chosen})
                for model in stage.models:
                    prompt = sampler.prompt(model, content, stage.sampling)
                    yield model, Request(prompt=prompt, content=content)


class _NoBank:
    """Gives the sampler nothing: here it only makes keys."""

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]:
        return {}

    async def get_prompt(self, key: str) -> Prompt | None:
        return None

    async def put_samples(
        self, prompt: Prompt, samples: Sequence[Sample], payment: Payment | None = None
    ) -> None:
        raise NotImplementedError

    async def put_payment(self, payment: Payment) -> None:
        raise NotImplementedError


def check(answerer: Answerer, known: Sequence[Request], bank: Bank) -> float:
    """Compare the model with the bank's samples.

    Returns:
        The largest difference between log-probabilities of whole texts.

    Raises:
        SystemExit: A prompt has another number of tokens, or a text another log-probability.
    """
    worst = 0.0
    for request in known[:: max(1, len(known) // N_CHECKED)]:
        recorded = bank.prompt(request.prompt.key)
        n_tokens = len(answerer.prompt_ids(request.content))
        if recorded is None or recorded.prompt_tokens != n_tokens:
            raise SystemExit(
                f"prompt {request.prompt.key}: the bank has another number of tokens than {n_tokens}"
            )
        sample = bank.samples(request.prompt.key)[0]
        tokens = answerer.tokenizer.encode(sample.text, add_special_tokens=False)
        tokens += [answerer.tokenizer.eos_token_id] * (sample.finish_reason == "stop")
        if len(tokens) != sample.generated_tokens or sample.mean_logprob is None:
            continue  # the text was drawn in other tokens than it is read in
        logprob = answerer.logprob(request.content, tokens)
        worst = max(worst, abs(logprob - sample.mean_logprob * len(tokens)))
    if worst > 0.01:
        raise SystemExit(f"the models here differ from the bank's by up to {worst:g} in log-probability")
    return worst


async def record(spec: PipelineSpec, bank: Bank, store: Store) -> int:
    """Draw what the bank lacks into a store and return the number of prompts."""
    stage, count = spec.stages[1], 0
    by_model: dict[str, dict[str, Request]] = defaultdict(dict)
    for model, request in requests(spec, bank):
        by_model[model][request.prompt.key] = request
    for model, every in by_model.items():
        known = [request for key, request in every.items() if key in bank]
        missing = [request for key, request in every.items() if key not in bank]
        path = spec.root / str(spec.models[model].path)
        answerer = Answerer(path, stage.sampling.max_tokens or 8)
        worst = check(answerer, known, bank)
        log.info(
            "%s: %d sets known (log-probabilities within %.1g), %d new",
            model,
            len(known),
            worst,
            len(missing),
        )
        for request, draws in zip(missing, answerer.draw(missing), strict=True):
            prompt = Prompt(
                key=request.prompt.key,
                model_key=request.prompt.model_key,
                content=request.prompt.content,
                sampling=request.prompt.sampling,
                prompt_tokens=len(answerer.prompt_ids(request.content)),
            )
            await store.put_samples(prompt, samples(request, draws, answerer))
        count += len(missing)
    return count


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bank", type=Path, default=SPEC.parent / "bank" / "zoo.parquet", help="bank to add to"
    )
    bank_path: Path = parser.parse_args().bank
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    bank = Bank(read_parquet(bank_path), str(bank_path))
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "sets.duckdb") as store:
        store.import_bank(bank_path)
        count = asyncio.run(record(load_spec(SPEC), bank, store))
        log.info("%d prompts added; %d samples in %s", count, store.export_bank(bank_path), bank_path)


if __name__ == "__main__":
    main()
