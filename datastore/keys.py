"""What identifies a Sample: the canonical JSON of its prompt and sampling parameters, and the hash of both.

Keys are stable across processes, machines and versions; everything in a bank hangs on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from datastore.records import Prompt


def well_formed(text: str) -> str:
    """`text` with every lone surrogate, which no UTF-8 file can hold, replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces, so that equal values give equal text.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold. Note that 1 and 1.0 differ.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return well_formed(text)


def model_key(name: str, revision: str | None) -> str:
    """A model's identity in the bank: `name`, or `name@revision` (weights revision or adapter digest)."""
    return name if revision is None else f"{name}@{revision}"


def prompt_key(model_key: str, content: str | Mapping[str, Any], sampling: str | Mapping[str, Any]) -> str:
    """The first 128 bits, as 32 hex digits, of SHA-256 over canonical JSON {content, model_key, sampling}.

    `content` and `sampling` are mappings, or text that `canonical_json` made of them.
    """
    content = content if isinstance(content, str) else canonical_json(content)
    sampling = sampling if isinstance(sampling, str) else canonical_json(sampling)
    whole = f'{{"content":{content},"model_key":{canonical_json(model_key)},"sampling":{sampling}}}'
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def make_prompt(
    model_key: str, content: Mapping[str, Any], sampling: Mapping[str, Any], prompt_tokens: int | None = None
) -> Prompt:
    """The Prompt of a request: canonical texts and their key. `prompt_tokens` is None until counted."""
    content_json, sampling_json = canonical_json(content), canonical_json(sampling)
    return Prompt(
        key=prompt_key(model_key, content_json, sampling_json),
        model_key=model_key,
        content=content_json,
        sampling=sampling_json,
        prompt_tokens=prompt_tokens,
    )
