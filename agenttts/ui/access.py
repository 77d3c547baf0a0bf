"""Who may read the pages: the browser of the person who started the server, and nobody else.

The server listens on 127.0.0.1 only. The first request brings the token of the printed address and gets a
cookie for it. Requests under another host name (DNS rebinding) and those that another site's page sends are
refused. Pages load scripts, styles and data from this server alone, and no inline script runs.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import URL, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agenttts.origin import is_from_another_site, is_own_host

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, forms have no origin
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """The address of the server and the token that opens it.

    Attributes:
        port: The port on 127.0.0.1.
        token: The secret of this start of the server.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The name of the cookie: those of other ports of this host are sent along."""
        return f"agenttts_{self.port}"

    def refusal(self, request: HTTPConnection) -> Response | None:
        """Return the answer to a request that is refused; None to one that may pass.

        Args:
            request: The request.
        """
        if not is_own_host(request.headers, ("127.0.0.1", "localhost"), self.port):
            return _refused(
                421, f"The host must be 127.0.0.1:{self.port}; open the address that was printed."
            )
        if is_from_another_site(request.headers):
            return _refused(403, "A page of another site has sent this request; it is refused.")
        given = request.query_params.get("token")
        if given is not None and hmac.compare_digest(given.encode(), self.token.encode()):
            return self._admitted(request.url)
        if not hmac.compare_digest(request.cookies.get(self.cookie, "").encode(), self.token.encode()):
            return _refused(403, "Open the address that `agenttts ui` has printed: it brings the token.")
        return None

    def _admitted(self, url: URL) -> Response:
        """The same page without the token, so that it stays in no history, and a cookie in its place."""
        response = RedirectResponse(url.remove_query_params("token"), status_code=303)
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
        return response


class Guard:
    """The middleware that lets requests pass by an Access, and adds HEADERS to every answer.

    Args:
        app: The application.
        access: Decides which requests pass.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._access.refusal(HTTPConnection(scope))
        await (refusal or self._app)(scope, receive, with_headers)


def _refused(status: int, reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", status_code=status)
