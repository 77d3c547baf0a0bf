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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from agenttts.policies.orders import sample_order
from datastore import Payment, Prompt, Sample, Store
from datastore.bank import Bank, read_parquet
from pipelines.content import Content
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

log = logging.getLogger("zoo.sets")
ORDERS = range(5)
"""The orders of the samples whose sets are answered; 0 is the bank's own."""
VOTES = tuple(
    Vote(kind=kind, threshold=threshold) for kind in ("plain", "weighted") for threshold in (0.15, 0.2, 0.25)
)
"""The votes whose sets are answered: the stage's own is plain 0.25."""
SEED = 14
N_SAMPLES = 32
N_CHECKED = 200
"""How many prompts of the bank are compared with what the models say here."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to answer.

    Attributes:
        prompt: Its identity in the bank.
        content: The chat.
    """

    prompt: Prompt
    content: Content


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Equal samples of one prompt.

    Attributes:
        tokens: The generated tokens, the end token included where it was drawn.
        count: How many samples are these tokens.
        logprob: The sum of the tokens' log-probabilities.
    """

    tokens: tuple[int, ...]
    count: int
    logprob: float


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


class Answerer:
    """One of the zoo's models, as transformers runs it.

    Args:
        folder: The folder of the model.
        max_tokens: The most tokens of a sample.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._end = int(self.tokenizer.eos_token_id)
        self._max_tokens = max_tokens

    def prompt_ids(self, content: Content) -> list[int]:
        """Return the tokens of a chat."""
        messages = [dict(message) for message in content["messages"]]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens."""
        decoded = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return str(decoded)

    def draw(self, wanted: Sequence[Request]) -> list[list[Draw]]:
        """Draw `N_SAMPLES` samples of each prompt.

        Args:
            wanted: The prompts.

        Returns:
            For each prompt its distinct samples. They depend on the prompt and the seed alone.
        """
        ids = [self.prompt_ids(request.content) for request in wanted]
        rngs = [np.random.default_rng([SEED, int(request.prompt.key[:16], 16)]) for request in wanted]
        done: list[list[Draw]] = [[] for _ in wanted]
        live = [(i, Draw(tokens=(), count=N_SAMPLES, logprob=0.0)) for i in range(len(wanted))]
        while live:
            rows = self._logprobs([ids[i] + list(draw.tokens) for i, draw in live])
            longer: list[tuple[int, Draw]] = []
            for (i, draw), logprobs in zip(live, rows, strict=True):
                chances = np.exp(logprobs)
                counts = rngs[i].multinomial(draw.count, chances / chances.sum())
                for token in np.flatnonzero(counts).tolist():
                    tokens = (*draw.tokens, token)
                    logprob = draw.logprob + float(logprobs[token])
                    further = Draw(tokens=tokens, count=int(counts[token]), logprob=logprob)
                    ended = token == self._end or len(tokens) == self._max_tokens
                    (done[i].append(further) if ended else longer.append((i, further)))
            live = longer
        return done

    def logprob(self, content: Content, tokens: Sequence[int]) -> float:
        """Return the sum of the log-probabilities of tokens after a prompt."""
        ids = self.prompt_ids(content)
        rows = self._logprobs([ids + list(tokens[:k]) for k in range(len(tokens))])
        return float(sum(row[token] for row, token in zip(rows, tokens, strict=True)))

    def _logprobs(self, sequences: Sequence[Sequence[int]], batch: int = 256) -> list[np.ndarray]:
        """Return the log-probabilities of the next token after each sequence."""
        rows: list[np.ndarray] = [np.zeros(0)] * len(sequences)
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(by_length), batch):
            part = by_length[start : start + batch]
            longest = max(len(sequences[i]) for i in part)
            padded = [[*sequences[i], *[self._end] * (longest - len(sequences[i]))] for i in part]
            last = [len(sequences[i]) - 1 for i in part]
            with torch.inference_mode():
                hidden = self._network.model(torch.tensor(padded)).last_hidden_state
                logits = self._network.lm_head(hidden[torch.arange(len(part)), last])
                logprobs = torch.log_softmax(logits.double(), -1).numpy()
            for i, row in zip(part, logprobs, strict=True):
                rows[i] = row
        return rows


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


def samples(request: Request, draws: Sequence[Draw], answerer: Answerer) -> list[Sample]:
    """Return the drawn samples in a seeded order."""
    drawn = [draw for draw in draws for _ in range(draw.count)]
    shuffled = np.random.default_rng([SEED + 1, int(request.prompt.key[:16], 16)]).permutation(len(drawn))
    end = answerer.tokenizer.eos_token_id
    return [
        Sample(
            prompt_key=request.prompt.key,
            index=index,
            text=answerer.text(drawn[i].tokens),
            generated_tokens=len(drawn[i].tokens),
            mean_logprob=drawn[i].logprob / len(drawn[i].tokens),
            finish_reason="stop" if drawn[i].tokens[-1] == end else "length",
            run_id=None,
            request_id=None,
        )
        for index, i in enumerate(shuffled.tolist())
    ]


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
