"""Embeddings of texts, from an OpenAI-compatible server or from word counts.

AGENTTTS_EMBEDDING_BASE_URL, AGENTTTS_EMBEDDING_MODEL and AGENTTTS_EMBEDDING_API_KEY name the server. Without
it, the vector is the logarithm of word counts, with names in code split into words. Consistency is then
lexical, and lower than published figures.
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
    """Embed a text.

    Returns:
        The value of each dimension that is not 0, by the name of the dimension: a word, or the position as
        text.

    Raises:
        ConfigurationError: The server does not return an embedding.
    """
    base_url = os.environ.get("AGENTTTS_EMBEDDING_BASE_URL")
    if not base_url:
        counts = Counter(word.lower() for word in _WORD.findall(text) if len(word) > 2)
        return {word: 1.0 + math.log(count) for word, count in counts.items()}
    import openai

    key = os.environ.get("AGENTTTS_EMBEDDING_API_KEY") or "none"
    model = os.environ.get("AGENTTTS_EMBEDDING_MODEL", "text-embedding-ada-002")
    try:
        with openai.OpenAI(base_url=base_url, api_key=key) as client:
            response = client.embeddings.create(input=text[:_MOST_CHARS] or "None", model=model)
    except openai.OpenAIError as error:
        raise ConfigurationError(
            f"AGENTTTS_EMBEDDING_BASE_URL: no embedding from {model!r} ({type(error).__name__}); "
            "correct the URL, AGENTTTS_EMBEDDING_MODEL or AGENTTTS_EMBEDDING_API_KEY"
        ) from None
    return {str(i): value for i, value in enumerate(response.data[0].embedding)}


def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Compute the cosine similarity of two vectors; 0 when one of them is empty."""
    lengths = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
    return sum(value * other.get(name, 0.0) for name, value in one.items()) / lengths if lengths else 0.0
