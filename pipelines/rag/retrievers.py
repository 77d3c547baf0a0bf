"""The function of the stage `retrieve`, and the retrievers that its options name.

A retriever is made once from all passages and then ranks them for one question after another. To add one,
write a class like `BM25` and name it in `RETRIEVERS`: an option with `retriever: NAME` then uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pipelines.errors import ConfigurationError
from pipelines.extras import library
from pipelines.rag.corpus import read_passages
from pipelines.runtime.calls import Costed
from pipelines.spec.functions import files_below

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The passages that a retriever puts first.

    Attributes:
        places: Their places among the passages, the best first; fewer than `top_k` where no more fit.
        flops: FLOPs that the search took, which count in the budget's units.
    """

    places: Sequence[int]
    flops: float = 0.0


class Retriever(Protocol):
    """What ranks passages. Its searches come from several threads at once."""

    def search(self, question: str, top_k: int) -> Ranking:
        """Return the passages that fit a question best, `top_k` at most."""
        ...


class BM25:
    """Ranks passages by the words that they share with the question (BM25 as Lucene has it, k1 1.5, b 0.75).

    Words are runs of letters and digits in lower case, without English stop words. Passages that share none
    with the question are left out. It counts no FLOPs.

    Args:
        passages: The corpus.
        encoder: Not used.
    """

    def __init__(self, passages: Sequence[str], encoder: str) -> None:
        self._library = library("bm25s", "retrieval with BM25", extra="rag")
        self._n_passages = len(passages)
        self._index = self._library.BM25()
        self._index.index(self._words(passages), show_progress=False)

    def search(self, question: str, top_k: int) -> Ranking:
        """Return the passages that fit a question best, `top_k` at most."""
        k = min(top_k, self._n_passages)
        places, scores = self._index.retrieve(self._words([question]), k=k, show_progress=False)
        return Ranking(places=[int(place) for place in places[0][scores[0] > 0]])

    def _words(self, texts: Sequence[str]) -> object:
        return self._library.tokenize(list(texts), stopwords="english", show_progress=False)


class Dense:
    """Ranks passages by the cosine of their vectors and the question's (sentence-transformers).

    A search counts 2·P FLOPs for each token of the question, with P parameters of the encoder, and two for
    each number of the passages' vectors. The vectors of the passages are made once and not counted.

    Args:
        passages: The corpus.
        encoder: A name on the Hugging Face hub, or a directory.

    Raises:
        ConfigurationError: The encoder can't be loaded.
    """

    def __init__(self, passages: Sequence[str], encoder: str) -> None:
        transformers = library("sentence_transformers", "dense retrieval", extra="rag")
        try:
            self._encoder = transformers.SentenceTransformer(encoder)
        except (OSError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise ConfigurationError(
                f"the encoder {encoder!r} can't be loaded: {problem:.200}; name a directory that has one, "
                "as encoder among the stage's files"
            ) from None
        self._lock = threading.Lock()  # fast tokenizers can't be used by two threads at once
        self._vectors = self._encoder.encode_document(
            list(passages), normalize_embeddings=True, show_progress_bar=False
        )
        self._n_parameters = sum(part.numel() for part in self._encoder.parameters())

    def search(self, question: str, top_k: int) -> Ranking:
        """Return the passages that fit a question best, `top_k` at most."""
        with self._lock:
            vector = self._encoder.encode_query(question, normalize_embeddings=True, show_progress_bar=False)
            n_tokens = self._encoder.preprocess([question])["input_ids"].numel()
        order = np.argsort(-(self._vectors @ vector), kind="stable")
        flops = 2.0 * self._n_parameters * n_tokens + 2.0 * self._vectors.size
        return Ranking(places=[int(place) for place in order[:top_k]], flops=flops)


RETRIEVERS: Mapping[str, Callable[[Sequence[str], str], Retriever]] = {"bm25": BM25, "dense": Dense}
"""By the name in options: makes a retriever from all passages and the name of an encoder."""


def retrieve(
    question: str, corpus: str, retriever: str = "bm25", top_k: int = 10, encoder: str = ENCODER
) -> Costed:
    """Return the passages of a corpus that fit a question best: the function of the stage `retrieve`.

    Args:
        question: The question.
        corpus: The path of the corpus, which `pipelines.rag.corpus.read_passages` reads.
        retriever: A name in `RETRIEVERS`.
        top_k: The largest number of passages.
        encoder: The encoder of a dense retriever, a name on the Hugging Face hub or a directory.

    Raises:
        ConfigurationError: There is no such retriever, or its encoder can't be loaded.
        DatasetError: The corpus can't be read or has no passage.
        MissingDependency: A library of the extra `rag` is not installed.
    """
    if retriever not in RETRIEVERS:
        raise ConfigurationError(f"retriever must be one of {', '.join(RETRIEVERS)}, got {retriever!r}")
    index = _index(Path(corpus), retriever, encoder)
    ranking = index.retriever.search(question, top_k)
    return Costed(value=[index.passages[place] for place in ranking.places], flops=ranking.flops)


def require_ready() -> None:
    """Import what BM25 needs, so that `agenttts check` says when the extra `rag` is missing.

    Raises:
        MissingDependency: It is not installed.
    """
    library("bm25s", "retrieval with BM25", extra="rag")


@dataclass(frozen=True, kw_only=True)
class _Index:
    stamp: object
    passages: Sequence[str]
    retriever: Retriever


_indexes: dict[tuple[Path, str, str], _Index] = {}
_building = threading.Lock()


def _index(corpus: Path, retriever: str, encoder: str) -> _Index:
    """The index of a corpus, made by the first thread that needs it, and anew once its files changed."""
    key, stamp = (corpus, retriever, encoder), _stamp(corpus)
    with _building:
        index = _indexes.get(key)
        if index is None or index.stamp != stamp:
            passages = read_passages(corpus)
            ranker = RETRIEVERS[retriever](passages, encoder)
            index = _indexes[key] = _Index(stamp=stamp, passages=passages, retriever=ranker)
    return index


def _stamp(corpus: Path) -> object:
    if not corpus.exists():
        return None
    return [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files_below(corpus)]
