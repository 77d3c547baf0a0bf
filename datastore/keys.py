"""What identifies a Sample: the canonical JSON of its prompt and sampling parameters, and the hash of both.

Keys are stable across processes, machines and versions: banks that were recorded earlier must be found again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from datastore.records import Prompt


def well_formed(text: str) -> str:
    """Replace every lone surrogate in a text, which no UTF-8 file can hold, by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def canonical_json(value: object) -> str:
    """Serialise a value as JSON with sorted keys and no spaces, so that equal values give equal text.

    The numbers 1 and 1.0 give different text.

    Args:
        value: Mappings with text keys, sequences, text, numbers, booleans and None.

    Returns:
        The JSON text, with non-ASCII characters as they are; lone surrogates are replaced by U+FFFD.

    Raises:
        ValueError: The value contains NaN or an infinity.
        TypeError: The value contains something that JSON cannot represent.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return well_formed(text)


def model_key(name: str, revision: str | None) -> str:
    """Return a model's identity in the bank.

    Args:
        name: What the server calls the model.
        revision: The revision of its weights, or the digest of its adapter; None when it is not stated.

    Returns:
        `name`, or `name@revision`.
    """
    return name if revision is None else f"{name}@{revision}"


def prompt_key(
    model_key: str, content: str | Mapping[str, object], sampling: str | Mapping[str, object]
) -> str:
    """Return the key of a prompt: a hash of its model, its content and its sampling parameters.

    Args:
        model_key: As `model_key` returns it.
        content: The request's content as a mapping, or as text that `canonical_json` returned for it.
        sampling: The sampling parameters without the number of samples, in either form too.

    Returns:
        32 hexadecimal digits: the first 128 bits of SHA-256 over the canonical JSON of
        `{content, model_key, sampling}`.
    """
    content = content if isinstance(content, str) else canonical_json(content)
    sampling = sampling if isinstance(sampling, str) else canonical_json(sampling)
    whole = f'{{"content":{content},"model_key":{canonical_json(model_key)},"sampling":{sampling}}}'
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def make_prompt(
    model_key: str,
    content: Mapping[str, object],
    sampling: Mapping[str, object],
    prompt_tokens: int | None = None,
) -> Prompt:
    """Make the Prompt of a request, with canonical texts and their key.

    Args:
        model_key: As `model_key` returns it.
        content: `{"messages": [...]}` or `{"prompt": "..."}`.
        sampling: The sampling parameters without the number of samples.
        prompt_tokens: The prompt's length as the server counted it; None while that is unknown.

    Returns:
        The prompt.
    """
    content_json, sampling_json = canonical_json(content), canonical_json(sampling)
    return Prompt(
        key=prompt_key(model_key, content_json, sampling_json),
        model_key=model_key,
        content=content_json,
        sampling=sampling_json,
        prompt_tokens=prompt_tokens,
    )
