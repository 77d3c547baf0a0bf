"""Embeddings of texts, from an OpenAI-compatible server where one is named, else counted from words.

AGENTTTS_EMBEDDING_BASE_URL, _MODEL and _API_KEY name the server. Without it the vector counts words, names in
code split into theirs, on a logarithmic scale: consistency is then lexical, and lower than published figures.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from pipelines.errors import ConfigurationError

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MOST_CHARS = 24_000


@lru_cache(maxsize=4096)
def embedded(text: str) -> Mapping[str, float]:
    """The vector of a text by dimension. ConfigurationError when the server that is named does not answer."""
    base_url = os.environ.get("AGENTTTS_EMBEDDING_BASE_URL")
    if not base_url:
        counts = Counter(word.lower() for word in _WORD.findall(text) if len(word) > 2)
        return {word: 1.0 + math.log(count) for word, count in counts.items()}
    import openai

    key = os.environ.get("AGENTTTS_EMBEDDING_API_KEY") or "none"
    model = os.environ.get("AGENTTTS_EMBEDDING_MODEL", "text-embedding-ada-002")
    try:
        with openai.OpenAI(base_url=base_url, api_key=key) as client:
            found = client.embeddings.create(input=text[:_MOST_CHARS] or "None", model=model)
    except openai.OpenAIError as error:
        raise ConfigurationError(
            f"AGENTTTS_EMBEDDING_BASE_URL: no embedding from {model!r} ({type(error).__name__}); correct it"
        ) from None
    return {str(i): value for i, value in enumerate(found.data[0].embedding)}


def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The cosine of two vectors; 0 where one is empty."""
    lengths = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
    return sum(value * other.get(name, 0.0) for name, value in one.items()) / lengths if lengths else 0.0
