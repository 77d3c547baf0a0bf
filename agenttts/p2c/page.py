"""A small local web page on which a person says which of two texts is more of their label.

Every answer is in the store before the next pair is shown, so that a person can stop and go on later. The
page is on the loopback address alone, under a secret path, and texts are shown as text.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agenttts.p2c.preferences import agreement, known_pairs, preference
from agenttts.p2c.texts import TIE, LabelledText
from datastore.records import Preference
from datastore.store import Store

_LONGEST_BODY = 10_000  # bytes


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair that is to be judged.

    Attributes:
        number: Its number, by which an answer names it.
        label: The name of the class.
        first: The text that stands first.
        second: The text that stands second.
    """

    number: int
    label: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class JudgingState:
    """How far a person is.

    Attributes:
        pair: The next pair; None when all are done.
        done: The number of pairs that are done.
        total: The number of pairs.
        agreement: How often other judges agree with the person; None where nobody judged the same pair.
    """

    pair: ShownPair | None
    done: int
    total: int
    agreement: float | None


class Judging:
    """One person's answers to a list of pairs. Which text of a pair stands first is shuffled.

    Args:
        store: Where the answers go.
        collection: The name of the collection.
        person: Who judges.
        texts: The texts.
        labels: The names of the classes.
        pairs: The positions of two texts each.
        clock: Gives the time in Unix seconds.
    """

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
        self._pairs = [pair if _keeps_order(person, texts, pair) else pair[::-1] for pair in pairs]
        self._lock = threading.Lock()
        stored = {one.key for one in store.preferences(collection)}
        self._answered = [number for number in range(len(pairs)) if self._record(number, TIE).key in stored]

    def state(self) -> JudgingState:
        """How far the person is, and the next pair."""
        with self._lock:
            answered = set(self._answered)
            left = next((number for number in range(len(self._pairs)) if number not in answered), None)
            return JudgingState(
                pair=None if left is None else self._shown(left),
                done=len(answered),
                total=len(self._pairs),
                agreement=agreement(self._store.preferences(self._collection), of=self._person),
            )

    def answer(self, number: int, preferred: float) -> None:
        """Store an answer; a second one to the same pair replaces the first.

        Args:
            number: The number of the pair.
            preferred: 1 for the text that stands first, 0 for the second, 0.5 for neither.

        Raises:
            ValueError: There is no such pair or answer.
        """
        if not 0 <= number < len(self._pairs) or preferred not in (0, 0.5, 1):
            raise ValueError("no such pair or answer")
        with self._lock:
            self._store.put_preferences([self._record(number, float(preferred))])
            self._answered = [other for other in self._answered if other != number] + [number]

    def undo(self) -> None:
        """Remove the last answer."""
        with self._lock:
            if self._answered:
                self._store.remove_preference(self._record(self._answered.pop(), TIE).key)

    def _shown(self, number: int) -> ShownPair:
        first, second = (self._texts[i] for i in self._pairs[number])
        label = self._labels[first.label]
        return ShownPair(number=number, label=label, first=first.text, second=second.text)

    def _record(self, number: int, preferred: float) -> Preference:
        i, j = self._pairs[number]
        return preference(
            self._collection,
            self._texts[i],
            self._texts[j],
            self._labels,
            preferred,
            source="people",
            judge=self._person,
            at=self._clock(),
        )


class JudgePage:
    """Serves the page: `with JudgePage(judging, collection) as page:` until the block ends.

    Args:
        judging: The pairs and where the answers go.
        collection: The title of the page.
        port: The port; 0 takes a free one.
    """

    def __init__(self, judging: Judging, collection: str, *, port: int = 0) -> None:
        self._token = secrets.token_urlsafe(16)
        handler = _handler(judging, self._token, _page(collection))
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The address of the page, secret path included."""
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
    """Find the pairs of a collection that others have judged, for a second person to judge the same.

    Args:
        store: The store of the collection.
        collection: Its name.
        texts: The texts.
        labels: The names of the classes.

    Returns:
        The positions of two texts each; an empty list when the collection is empty.

    Raises:
        UserError: None of the preferences is about two of the texts.
    """
    preferences = store.preferences(collection)
    return list(known_pairs(preferences, texts, labels)) if preferences else []


def _handler(judging: Judging, token: str, page: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == f"/{token}/":
                self._send(200, "text/html; charset=utf-8", page)
            elif self.path == f"/{token}/state":
                self._send_state()
            else:
                self._send(404, "text/plain", "not here")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _LONGEST_BODY:
                return self._send(400, "text/plain", "too long")
            try:
                body: Mapping[str, float] = json.loads(self.rfile.read(length) or b"{}")
                if self.path == f"/{token}/say":
                    judging.answer(int(body["number"]), float(body["preferred"]))
                elif self.path == f"/{token}/undo":
                    judging.undo()
                else:
                    return self._send(404, "text/plain", "not here")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return self._send(400, "text/plain", str(error) or type(error).__name__)
            except Exception as error:
                return self._send(500, "text/plain", f"{type(error).__name__}: {error}")
            return self._send_state()

        def _send_state(self) -> None:
            self._send(200, "application/json", json.dumps(asdict(judging.state())))

        def _send(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keep requests off the terminal."""

    return Handler


def _keeps_order(person: str, texts: Sequence[LabelledText], pair: tuple[int, int]) -> bool:
    """Whether the first text of a pair stands first, by a hash of the person and the texts."""
    key = f"{person}|{texts[pair[0]].text}|{texts[pair[1]].text}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def _page(collection: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("agenttts.p2c"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("judge.html.j2").render(collection=collection)
