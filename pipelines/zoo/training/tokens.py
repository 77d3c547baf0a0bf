"""The zoo's tokenizer and the exact text of its prompts.

Byte-level BPE in which every word of the lexicon (both domains) is one token with its leading
space; any other text falls back to merges and bytes. Prompts come from the two templates under
`prompts/`, the same files that the pipeline renders, so that training and serving can't differ.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipelines.zoo.training.lexicon import CIVIC, MUSEUM
from pipelines.zoo.training.rows import Row
from pipelines.zoo.training.worlds import Difficulty, make_rows

PAD, BOS, EOS, USER, ASSISTANT, SYSTEM = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)
SPECIALS = [PAD, BOS, EOS, USER, ASSISTANT, SYSTEM]
CHAT_TEMPLATE = (
    "{{ '" + BOS + "' }}{% for message in messages %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '" + EOS + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)
N_MERGES = 160
"""Merges learnt for words outside the lexicon."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids of a prompt and its target.

    Attributes:
        ids: The ids of the prompt, then those of the target, which ends with EOS.
        n_prompt: Number of tokens of the prompt.
    """

    ids: list[int]
    n_prompt: int


@cache
def template(stage: str) -> jinja2.Template:
    """Return the template of a stage's user message."""
    text = (Path(__file__).parents[1] / "prompts" / f"{stage}.j2").read_text(encoding="utf-8")
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)


def retrieve_prompt(row: Row) -> str:
    """Return the user message of the first stage."""
    return template("retrieve").render(question=row.question, candidates=row.candidates)


def answer_prompt(question: str, sentences: Sequence[str]) -> str:
    """Return the user message of the second stage; `sentences` are in the order of the candidates."""
    return template("answer").render(question=question, retrieve=sentences)


def chat(user: str) -> str:
    """Apply the chat template to one user message, ready for generation."""
    return f"{BOS}{USER}{user.strip()}{ASSISTANT}"


def retrieve_target(row: Row) -> str:
    """Return the target of the first stage. Lines start with a space, so that a name is always one token."""
    return "\n".join(" " + sentence for sentence in row.evidence)


def encode(tokenizer: Tokenizer, user: str, target: str) -> Encoded:
    """Encode a chat of one user message and the reply of the model."""
    prompt = tokenizer.encode(chat(user), add_special_tokens=False).ids
    reply = tokenizer.encode(target + EOS, add_special_tokens=False).ids
    return Encoded(ids=prompt + reply, n_prompt=len(prompt))


def answer_sentences(rng: random.Random, row: Row) -> list[str]:
    """Draw the sentences that a fallible retriever might select.

    Often they are the needed sentences, else some more are added; sometimes one needed sentence is missing.
    """
    needed = set(row.evidence)
    others = [sentence for sentence in row.candidates if sentence not in needed]
    draw = rng.random()
    if draw > 0.45:
        needed.update(rng.sample(others, min(len(others), rng.choice((1, 1, 2, 3)))))
    if draw > 0.88:
        needed.discard(rng.choice(row.evidence))
    return [sentence for sentence in row.candidates if sentence in needed]


def corpus() -> list[str]:
    """Return texts in which every word of both domains occurs many times."""
    texts: list[str] = []
    for domain in (CIVIC, MUSEUM):
        for row in make_rows(
            0, domain, None, Difficulty(n_candidates=(8, 8)), prefix="tokenizer", n_rows=3000
        ):
            texts += [retrieve_prompt(row) + retrieve_target(row), answer_prompt(row.question, row.evidence)]
            texts.append(" " + row.answer)
    return texts


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer: train the merges, then add every word of the corpus as one token."""
    texts = corpus()
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(SPECIALS) + N_MERGES,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(texts, trainer)
    raw: dict[str, Any] = json.loads(base.to_str())
    vocab: dict[str, int] = raw["model"]["vocab"]
    for word in words:
        vocab.setdefault(word, len(vocab))
    raw["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, as transformers does."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(out))
