"""Samples of the zoo's models through transformers, in float32 on CPU: few prompts, without a server.

Samples that share a prefix share its computation, so 32 samples of one prompt cost little more than their
distinct texts. vLLM draws from the same distribution; the log-probabilities agree to about 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from datastore import Prompt, Sample
from pipelines.content import Content

SEED = 14
N_SAMPLES = 32


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
