"""Prompts and samples: look-ups and puts, with a cache in memory, and the banks attached to the store.

The store's own sample has precedence; an index that it lacks is looked up in the banks, in the order in which
they were attached. `writer` passes the puts and look-ups of many callers as one batch.
"""

from __future__ import annotations

import marshal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

import duckdb

from datastore import rows
from datastore.bank import Bank
from datastore.keynumbers import KeyNumbers
from datastore.records import Payment, Prompt, Sample
from datastore.writer import Transaction

_INDICES = """
SELECT prompt_key, list("index") FROM samples WHERE prompt_key IN (SELECT unnest($1)) GROUP BY prompt_key
"""
_COUNTED = """
UPDATE prompts SET prompt_tokens = counted.prompt_tokens
FROM {batch} AS counted WHERE prompts.key = counted.key AND prompts.prompt_tokens IS NULL
"""

CACHE_BYTES = 64 << 20
_ENTRY_BYTES = 330  # of a prompt in the cache, beside its samples
_MOST_INDICES = 1 << 13  # prompts; of others, what the store has is read again when it is needed
_KEYS_AT_ONCE = 1 << 14
_KNOWN, _COUNTED_TOO = 1, 2  # what is known of a prompt: 0 where the store does not have it

_fields = attrgetter(*(field.name for field in fields(Sample)[1:]))

Samples = tuple[Sample, ...]
Put = tuple[Prompt, Samples, Payment | None]


def merged(first: Iterable[Sample], then: Iterable[Sample]) -> Samples:
    """Merge samples of one prompt, sorted by index; of two with the same index, the one in `first` stays."""
    by_index = {sample.index: sample for sample in then}
    by_index.update((sample.index, sample) for sample in first)
    return tuple(by_index[index] for index in sorted(by_index))


class Cache:
    """Samples by prompt key, packed. The least recently used are dropped beyond `most_bytes`.

    Attributes:
        generation: How often the cache was cleared.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._guard = threading.Lock()
        self.generation = 0

    def get(self, key: str) -> Samples | None:
        """Return a prompt's samples; None when they are not in the cache."""
        with self._guard:
            packed = self._entries.get(key)
            if packed is None:
                return None
            self._entries.move_to_end(key)
        return tuple(
            Sample(
                prompt_key=key,
                index=index,
                text=text,
                generated_tokens=tokens,
                mean_logprob=mean_logprob,
                finish_reason=finish_reason,
                run_id=run_id,
                request_id=request_id,
            )
            for index, text, tokens, mean_logprob, finish_reason, run_id, request_id in marshal.loads(packed)
        )

    def put(self, key: str, samples: Samples) -> None:
        """Add or replace a prompt's samples."""
        packed = marshal.dumps([_fields(sample) for sample in samples])
        with self._guard:
            former = self._entries.pop(key, None)
            self._bytes += _size(packed) - (0 if former is None else _size(former))
            self._entries[key] = packed
            while self._bytes > self._most_bytes and len(self._entries) > 1:
                self._bytes -= _size(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop everything."""
        with self._guard:
            self._entries.clear()
            self._bytes = 0
            self.generation += 1


def _size(packed: bytes) -> int:
    return _ENTRY_BYTES + len(packed)


class _KnownPrompts:
    """Which prompts the store has, and whether their tokens are known: a byte for each beside its key."""

    def __init__(self) -> None:
        self._numbers = KeyNumbers()
        self._states = bytearray()

    def __contains__(self, key: str) -> bool:
        return self.state(key) > 0

    def state(self, key: str) -> int:
        """Return 0 where the store does not have the prompt, else _KNOWN or _COUNTED_TOO."""
        number = self._numbers.find(key)
        return 0 if number is None else self._states[number]

    def set(self, key: str, state: int) -> None:
        number = self._numbers.find(key)
        if number is None:
            self._states.append(state)  # before the key, by which other threads find it
            self._numbers.add(key)
        else:
            self._states[number] = state


class SampleTable:
    """The prompts and samples of one open database, and of the banks attached to it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.banks: list[Bank] = []
        self._cache = Cache(cache_bytes)
        self._known = _KnownPrompts()
        self._indices: dict[str, set[int]] = {}  # of the prompts touched so far: what the store has
        self._lock = threading.Lock()
        self.reload(connection)

    def reload(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Read again what the database holds, after something other than `put` wrote to it."""
        known = _KnownPrompts()
        keys = connection.execute("SELECT key, prompt_tokens IS NOT NULL FROM prompts")
        while some := keys.fetchmany(_KEYS_AT_ONCE):
            for key, is_counted in some:
                known.set(key, _COUNTED_TOO if is_counted else _KNOWN)
        with self._lock:
            self._known = known
            self._indices = {}
            self._cache.clear()

    def attach(self, bank: Bank) -> None:
        """Let look-ups find the bank's samples too."""
        with self._lock:
            self.banks = [*self.banks, bank]
            self._cache.clear()

    def peek(self, keys: Iterable[str]) -> tuple[dict[str, Samples], list[str]]:
        """Look up samples in memory only. Can be called from any thread.

        Returns:
            The samples by key, and the keys that need a query.
        """
        answers: dict[str, Samples] = {}
        unanswered: list[str] = []
        for key in keys:
            samples = self._cache.get(key)
            if samples is None and key not in self._known:
                samples = self._from_banks_cached(key)
            if samples is None:
                unanswered.append(key)
            else:
                answers[key] = samples
        return answers, unanswered

    def _from_banks_cached(self, key: str) -> Samples | None:
        generation = self._cache.generation
        samples = self._from_banks(key)
        with self._lock:
            if key in self._known:  # put meanwhile
                return None
            if samples and generation == self._cache.generation:
                self._cache.put(key, samples)
        return samples

    def _from_banks(self, key: str) -> Samples:
        samples: Samples = ()
        for bank in self.banks:
            if key in bank:
                samples = merged(samples, bank.samples(key)) if samples else bank.samples(key)
        return samples

    def get(self, transaction: Transaction, payloads: Sequence[Sequence[str]]) -> list[dict[str, Samples]]:
        """Look up samples, with one query for all payloads.

        Args:
            transaction: The transaction.
            payloads: Each a sequence of prompt keys.

        Returns:
            For each payload, its samples by key.
        """
        answers, unanswered = self.peek(dict.fromkeys(key for keys in payloads for key in keys))
        if unanswered:
            stored: dict[str, list[Sample]] = {key: [] for key in unanswered}
            where = "prompt_key IN (SELECT unnest($1))"
            for sample in rows.select(transaction.connection, Sample, where, [unanswered]):
                stored[sample.prompt_key].append(sample)
            fresh = {key: merged(samples, self._from_banks(key)) for key, samples in stored.items()}
            answers |= fresh
            transaction.after_commit.append(lambda: self._remember(fresh))
        return [{key: answers[key] for key in keys} for keys in payloads]

    def _remember(self, samples: dict[str, Samples]) -> None:
        for key, of_key in samples.items():
            self._cache.put(key, of_key)

    def put(self, transaction: Transaction, payloads: Sequence[Put]) -> list[None]:
        """Insert the prompts and samples that are new, and what was paid for them; an index that is already
        stored is ignored.
        """
        connection = transaction.connection
        rows.insert(connection, Payment, [payment for *_, payment in payloads if payment is not None])
        self._learn_indices(connection, {prompt.key for prompt, *_ in payloads})
        new_prompts: dict[str, Prompt] = {}
        now_counted: dict[str, Prompt] = {}
        fresh: dict[str, list[Sample]] = {}
        touched = {prompt.key: self._known.state(prompt.key) for prompt, *_ in payloads}
        for prompt, samples, _ in payloads:
            state = touched[prompt.key]
            if not state and (prompt.key not in new_prompts or new_prompts[prompt.key].prompt_tokens is None):
                new_prompts[prompt.key] = prompt
            elif state == _KNOWN and prompt.prompt_tokens is not None:
                now_counted[prompt.key] = prompt
            indices = self._indices[prompt.key]
            for sample in samples:
                if sample.index not in indices:
                    indices.add(sample.index)
                    fresh.setdefault(prompt.key, []).append(sample)
        transaction.after_rollback.append(lambda: self._forget(touched))
        for key, prompt in {**new_prompts, **now_counted}.items():
            self._known.set(key, _KNOWN if prompt.prompt_tokens is None else _COUNTED_TOO)
        rows.insert(connection, Prompt, list(new_prompts.values()))
        rows.insert(connection, Sample, [sample for of_key in fresh.values() for sample in of_key])
        if now_counted:
            batch = rows.to_arrow(Prompt, list(now_counted.values()))
            rows.execute_on(connection, _COUNTED, batch)
        transaction.after_commit.append(lambda: self._extend(fresh, set(new_prompts)))
        return [None] * len(payloads)

    def _learn_indices(self, connection: duckdb.DuckDBPyConnection, keys: set[str]) -> None:
        if len(self._indices) > _MOST_INDICES:
            self._indices.clear()
        unread = [key for key in keys if key not in self._indices and key in self._known]
        for key in keys:
            self._indices.setdefault(key, set())
        if unread:
            for key, indices in connection.execute(_INDICES, [unread]).fetchall():
                self._indices[key].update(indices)

    def _extend(self, fresh: dict[str, list[Sample]], new_keys: set[str]) -> None:
        for key, samples in fresh.items():
            cached = self._cache.get(key)
            if cached is None and key in new_keys:
                cached = self._from_banks(key)
            if cached is not None:
                self._cache.put(key, merged(samples, cached))

    def _forget(self, touched: dict[str, int]) -> None:
        for key, state in touched.items():
            self._indices.pop(key, None)
            self._known.set(key, state)

    def prompts(self, connection: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> dict[str, Prompt | None]:
        """Return prompts by key from the store or a bank, with one query; None where none of them has one."""
        stored = [key for key in dict.fromkeys(keys) if key in self._known]
        selected = rows.select(connection, Prompt, "key IN (SELECT unnest($1))", [stored]) if stored else []
        by_key: dict[str, Prompt | None] = {prompt.key: prompt for prompt in selected}
        for key in keys:
            if key not in by_key:
                banked = (prompt for bank in self.banks if (prompt := bank.prompt(key)) is not None)
                by_key[key] = next(banked, None)
        return by_key
