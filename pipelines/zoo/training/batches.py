"""Training rows as token ids, of a difficulty that grows during a run.

Pure Python; `train.py` builds the tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer

from pipelines.zoo.training.lexicon import CIVIC, MUSEUM
from pipelines.zoo.training.rows import Row
from pipelines.zoo.training.tokens import (
    Encoded,
    answer_prompt,
    answer_sentences,
    encode,
    retrieve_prompt,
    retrieve_target,
)
from pipelines.zoo.training.worlds import Difficulty, make_row

RENAMED_SHARE = 0.1
"""Share of training rows whose names are replaced by words of the held-out domain, so that those
words have embeddings without any of that domain's sentences being seen."""


def difficulty_at(progress: float) -> Difficulty:
    """Return the difficulty at a point of the run: easy at first, full from 40 % of the run on.

    Args:
        progress: The share of the run that is over, in [0, 1].
    """
    ramp = min(1.0, progress / 0.4)
    return Difficulty(
        hop_weights=(0.7 - 0.45 * ramp, 0.3 + 0.25 * ramp, 0.2 * ramp),
        level_weights=(0.6 - 0.2 * ramp, 0.25 + 0.1 * ramp, 0.15 + 0.1 * ramp),
        n_candidates=(3 + round(2 * ramp), 4 + round(5 * ramp)),
        distinct_share=1.0 - 0.5 * ramp,
    )


def recite_share_at(progress: float) -> float:
    """Return the share of retrieve rows that only copy the document in another order, to teach quoting."""
    return min(0.5, max(0.05, 0.5 - (progress - 0.08) * 2.5))


class Batches:
    """Endless (retrieve, answer) batches of similar length, drawn from the train split."""

    def __init__(self, tokenizer: Tokenizer, n_rows: int, rng: random.Random) -> None:
        self.tokenizer, self.n_rows, self.rng = tokenizer, n_rows, rng
        civic = {name for names in CIVIC.names.values() for name in names}
        words = {word for names in MUSEUM.names.values() for word in names}
        words |= {
            word.strip("{}.,")
            for relation in MUSEUM.relations.values()
            for text in (relation.noun, relation.clause, *(p.text for p in relation.phrasings))
            for word in text.split()
        }
        vocab = tokenizer.get_vocab()
        self.name_ids = {vocab["Ġ" + name] for name in civic}
        self.spare_ids = sorted({vocab["Ġ" + word] for word in words - civic if "Ġ" + word in vocab})

    def draw(self, progress: float, n_batches: int = 8) -> Iterator[tuple[list[Encoded], list[Encoded]]]:
        """Draw pairs of batches, one of each stage. Rows of a batch have similar lengths.

        Args:
            progress: The share of the run that is over, in [0, 1].
            n_batches: Number of pairs.
        """
        n = self.n_rows * n_batches
        difficulty = difficulty_at(progress)
        rows = [make_row(self.rng, CIVIC, "train", difficulty) for _ in range(2 * n)]
        pools = [
            [
                self._rename(
                    encode_recital(self.tokenizer, row, self.rng)
                    if self.rng.random() < recite_share_at(progress)
                    else encode_retrieve(self.tokenizer, row)
                )
                for row in rows[:n]
            ],
            [self._rename(encode_answer(self.tokenizer, row, self.rng)) for row in rows[n:]],
        ]
        chunked = []
        for pool in pools:
            pool.sort(key=lambda item: len(item.ids))
            chunks = [pool[i : i + self.n_rows] for i in range(0, n, self.n_rows)]
            self.rng.shuffle(chunks)
            chunked.append(chunks)
        yield from zip(*chunked, strict=True)

    def _rename(self, item: Encoded) -> Encoded:
        if self.rng.random() > RENAMED_SHARE:
            return item
        names = sorted(self.name_ids.intersection(item.ids))
        swap = dict(zip(names, self.rng.sample(self.spare_ids, len(names)), strict=True))
        return Encoded(ids=[swap.get(i, i) for i in item.ids], n_prompt=item.n_prompt)


def encode_retrieve(tokenizer: Tokenizer, row: Row) -> Encoded:
    """Encode prompt and target of the first stage."""
    return encode(tokenizer, retrieve_prompt(row), retrieve_target(row))


def encode_recital(tokenizer: Tokenizer, row: Row, rng: random.Random) -> Encoded:
    """Encode a prompt with all candidate sentences, and the same sentences in another order as target."""
    lines = [" " + sentence for sentence in row.candidates]
    return encode(
        tokenizer, "Sentences:\n" + "\n".join(lines) + "\nCopy:", "\n".join(rng.sample(lines, len(lines)))
    )


def encode_answer(tokenizer: Tokenizer, row: Row, rng: random.Random | None) -> Encoded:
    """Encode prompt and target of the second stage; with `rng`, on a fallible selection of sentences."""
    chosen = answer_sentences(rng, row) if rng else [s for s in row.candidates if s in row.evidence]
    return encode(tokenizer, answer_prompt(row.question, chosen), " " + row.answer)
