"""Reading what a form sends."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from agenttts.errors import UserError

_MOST_BYTES = 200_000
_MOST_FIELDS = 2_000


async def form_of(request: Request) -> Mapping[str, str]:
    """Return the fields of a form that was sent; of several of one name the last.

    Args:
        request: The request.

    Raises:
        UserError: It is no form, or a longer one than any page sends.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise UserError(f"a form has at most {_MOST_BYTES:,} bytes; shorten its texts")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise UserError(f"what was sent is no form: {error}") from None
    return dict(fields)
