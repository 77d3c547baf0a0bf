"""A small local web page on which a person says which of two texts is more of their label.

Every answer is in the store before the next pair is shown; a person goes on where they stopped. The page is
on the loopback address alone, under a secret path, and texts are shown as text.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agenttts.p2c.preferences import agreement, known_pairs, preference
from agenttts.p2c.texts import LabelledText
from datastore.store import Store

_LONGEST_BODY = 10_000


class Judging:
    """What one person has said of a list of pairs, and what is next. Which text stands first is shuffled."""

    def __init__(
        self,
        store: Store,
        collection: str,
        person: str,
        texts: Sequence[LabelledText],
        labels: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        clock: Callable[[], float],
    ) -> None:
        self._store, self._collection, self._person = store, collection, person
        self._texts, self._labels, self._clock = texts, labels, clock
        self._pairs = [pair if _coin(person, texts, pair) else pair[::-1] for pair in pairs]
        self._lock = threading.Lock()
        have = {one.key for one in store.preferences(collection)}
        self._said = [number for number in range(len(pairs)) if self._record(number, 0.5).key in have]

    def state(self) -> dict[str, Any]:
        """The next pair (None: all are done), how many are done, and how often others agree."""
        with self._lock:
            done = set(self._said)
            left = [number for number in range(len(self._pairs)) if number not in done]
            pair = None
            if left:
                i, j = self._pairs[left[0]]
                pair = {
                    "number": left[0],
                    "label": self._labels[self._texts[i].label],
                    "first": self._texts[i].text,
                    "second": self._texts[j].text,
                }
            agreed = agreement(self._store.preferences(self._collection), of=self._person)
            return {"pair": pair, "done": len(done), "total": len(self._pairs), "agreement": agreed}

    def say(self, number: int, preferred: float) -> None:
        """Keep an answer; a second one of the same pair takes its place. ValueError for what is no answer."""
        if not 0 <= number < len(self._pairs) or preferred not in (0, 0.5, 1):
            raise ValueError("no such pair or answer")
        with self._lock:
            self._store.put_preferences([self._record(number, float(preferred))])
            self._said = [said for said in self._said if said != number] + [number]

    def undo(self) -> None:
        """Forget the last answer."""
        with self._lock:
            if self._said:
                self._store.remove_preference(self._record(self._said.pop(), 0.5).key)

    def _record(self, number: int, preferred: float) -> Any:
        i, j = self._pairs[number]
        return preference(
            *(self._collection, self._texts[i], self._texts[j], self._labels, preferred),
            source="people",
            judge=self._person,
            at=self._clock(),
        )


class JudgePage:
    """`with JudgePage(judging) as page:` serves at `page.url` until the block ends."""

    def __init__(self, judging: Judging, collection: str, *, port: int = 0) -> None:
        self._token = secrets.token_urlsafe(16)
        page = _page(collection)
        token = self._token

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == f"/{token}/":
                    self._send(200, "text/html; charset=utf-8", page)
                elif self.path == f"/{token}/state":
                    self._send_json(judging.state())
                else:
                    self._send(404, "text/plain", "not here")

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 <= length <= _LONGEST_BODY:
                    return self._send(400, "text/plain", "too long")
                try:
                    body: Mapping[str, Any] = json.loads(self.rfile.read(length) or b"{}")
                    if self.path == f"/{token}/say":
                        judging.say(int(body["number"]), float(body["preferred"]))
                    elif self.path == f"/{token}/undo":
                        judging.undo()
                    else:
                        return self._send(404, "text/plain", "not here")
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    return self._send(400, "text/plain", str(error) or type(error).__name__)
                except Exception as error:
                    return self._send(500, "text/plain", f"{type(error).__name__}: {error}")
                self._send_json(judging.state())
                return None

            def _send_json(self, value: Any) -> None:
                self._send(200, "application/json", json.dumps(value))

            def _send(self, status: int, kind: str, text: str) -> None:
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """The terminal is for the person."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self._token}/"

    def __enter__(self) -> JudgePage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def judged_pairs(
    store: Store, collection: str, texts: Sequence[LabelledText], labels: Sequence[str]
) -> list[tuple[int, int]]:
    """Pairs of a collection that others have judged: for a second person to judge the same."""
    given = store.preferences(collection)
    return list(known_pairs(given, texts, labels)) if given else []


def _coin(person: str, texts: Sequence[LabelledText], pair: tuple[int, int]) -> bool:
    told = f"{person}|{texts[pair[0]].text}|{texts[pair[1]].text}"
    return hashlib.sha256(told.encode()).digest()[0] % 2 == 0


def _page(collection: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("agenttts.p2c", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("judge.html.j2").render(collection=collection)
