"""Prompts and samples: look-ups and puts, with what is known of them in memory, and attached banks beside the
store.

The store's own sample comes first; where it has none of an index, the banks are asked in the order of
attachment. Puts and look-ups of many callers arrive as one batch from `writer`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import duckdb

from datastore import rows
from datastore.bank import Bank
from datastore.records import Prompt, Sample
from datastore.writer import Transaction

_INDICES = """
SELECT prompt_key, list("index") FROM samples WHERE prompt_key IN (SELECT unnest($1)) GROUP BY prompt_key
"""
_COUNTED = """
UPDATE prompts SET prompt_tokens = counted.prompt_tokens
FROM {batch} AS counted WHERE prompts.key = counted.key AND prompts.prompt_tokens IS NULL
"""

Samples = tuple[Sample, ...]
Put = tuple[Prompt, Samples]


def merged(first: Iterable[Sample], then: Iterable[Sample]) -> Samples:
    """Both, sorted by index; of two with one index, the one in `first`."""
    by_index = {sample.index: sample for sample in then}
    by_index.update((sample.index, sample) for sample in first)
    return tuple(by_index[index] for index in sorted(by_index))


class Cache:
    """Samples by prompt key, the least recently used forgotten beyond `most_bytes` (estimated)."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Samples] = OrderedDict()
        self._guard = threading.Lock()
        self.generation = 0

    def get(self, key: str) -> Samples | None:
        with self._guard:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, samples: Samples) -> None:
        with self._guard:
            former = self._kept.pop(key, None)
            self._bytes += _size(samples) - (0 if former is None else _size(former))
            self._kept[key] = samples
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        with self._guard:
            self._kept.clear()
            self._bytes = 0
            self.generation += 1


def _size(samples: Samples) -> int:
    return 400 * (1 + len(samples)) + sum(len(sample.text) for sample in samples)


class SampleTable:
    """The prompts and samples of one open database, and of the banks attached to it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, cache_bytes: int = 512 << 20) -> None:
        self.banks: list[Bank] = []
        self._cache = Cache(cache_bytes)
        self._counted: dict[str, bool] = {}  # prompt key -> whether its prompt_tokens are known
        self._indices: dict[str, set[int]] = {}  # of the prompts touched so far: what the store has
        self._lock = threading.Lock()
        self.reload(connection)

    def reload(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Learn anew what the database holds, after something else than `put` wrote to it."""
        keys = connection.execute("SELECT key, prompt_tokens IS NOT NULL FROM prompts").fetchall()
        with self._lock:
            self._counted = dict(keys)
            self._indices = {}
            self._cache.clear()

    def attach(self, bank: Bank) -> None:
        """Let look-ups find the bank's samples too."""
        with self._lock:
            self.banks = [*self.banks, bank]
            self._cache.clear()

    def peek(self, keys: Iterable[str]) -> tuple[dict[str, Samples], list[str]]:
        """What memory alone can answer, and the keys that the database must be asked for. For any thread."""
        found: dict[str, Samples] = {}
        unknown: list[str] = []
        for key in keys:
            samples = self._cache.get(key)
            if samples is None and key not in self._counted:
                samples = self._from_banks_cached(key)
            if samples is None:
                unknown.append(key)
            else:
                found[key] = samples
        return found, unknown

    def _from_banks_cached(self, key: str) -> Samples | None:
        generation = self._cache.generation
        samples = self._from_banks(key)
        with self._lock:
            if key in self._counted:  # put meanwhile
                return None
            if samples and generation == self._cache.generation:
                self._cache.put(key, samples)
        return samples

    def _from_banks(self, key: str) -> Samples:
        found: Samples = ()
        for bank in self.banks:
            if key in bank:
                found = merged(found, bank.samples(key)) if found else bank.samples(key)
        return found

    def get(self, transaction: Transaction, payloads: Sequence[Sequence[str]]) -> list[dict[str, Samples]]:
        """For each payload of prompt keys, its samples by key: one query for all."""
        found, unknown = self.peek(dict.fromkeys(key for keys in payloads for key in keys))
        if unknown:
            stored: dict[str, list[Sample]] = {key: [] for key in unknown}
            where = "prompt_key IN (SELECT unnest($1))"
            for sample in rows.select(transaction.connection, Sample, where, [unknown]):
                stored[sample.prompt_key].append(sample)
            fresh = {key: merged(samples, self._from_banks(key)) for key, samples in stored.items()}
            found |= fresh
            transaction.after_commit.append(lambda: self._remember(fresh))
        return [{key: found[key] for key in keys} for keys in payloads]

    def _remember(self, samples: dict[str, Samples]) -> None:
        for key, of_key in samples.items():
            self._cache.put(key, of_key)

    def put(self, transaction: Transaction, payloads: Sequence[Put]) -> list[None]:
        """Insert what is not yet there; the first sample of an index stays."""
        connection = transaction.connection
        self._learn_indices(connection, {prompt.key for prompt, _ in payloads})
        new_prompts: dict[str, Prompt] = {}
        now_counted: dict[str, Prompt] = {}
        fresh: dict[str, list[Sample]] = {}
        for prompt, samples in payloads:
            known = self._counted.get(prompt.key)
            if known is None and (
                prompt.key not in new_prompts or new_prompts[prompt.key].prompt_tokens is None
            ):
                new_prompts[prompt.key] = prompt
            elif known is False and prompt.prompt_tokens is not None:
                now_counted[prompt.key] = prompt
            indices = self._indices[prompt.key]
            for sample in samples:
                if sample.index not in indices:
                    indices.add(sample.index)
                    fresh.setdefault(prompt.key, []).append(sample)
        touched = {prompt.key: self._counted.get(prompt.key) for prompt, _ in payloads}
        transaction.after_rollback.append(lambda: self._forget(touched))
        self._counted.update((key, prompt.prompt_tokens is not None) for key, prompt in new_prompts.items())
        self._counted.update((key, True) for key in now_counted)
        rows.insert(connection, Prompt, list(new_prompts.values()))
        rows.insert(connection, Sample, [sample for of_key in fresh.values() for sample in of_key])
        if now_counted:
            batch = rows.to_arrow(Prompt, list(now_counted.values()))
            rows.execute_on(connection, _COUNTED, batch)
        transaction.after_commit.append(lambda: self._extend(fresh, set(new_prompts)))
        return [None] * len(payloads)

    def _learn_indices(self, connection: duckdb.DuckDBPyConnection, keys: set[str]) -> None:
        ask = [key for key in keys if key not in self._indices and key in self._counted]
        for key in keys:
            self._indices.setdefault(key, set())
        if ask:
            for key, indices in connection.execute(_INDICES, [ask]).fetchall():
                self._indices[key].update(indices)

    def _extend(self, fresh: dict[str, list[Sample]], new_keys: set[str]) -> None:
        for key, samples in fresh.items():
            cached = self._cache.get(key)
            if cached is None and key in new_keys:
                cached = self._from_banks(key)
            if cached is not None:
                self._cache.put(key, merged(samples, cached))

    def _forget(self, touched: dict[str, bool | None]) -> None:
        for key, counted in touched.items():
            self._indices.pop(key, None)
            if counted is None:
                self._counted.pop(key, None)
            else:
                self._counted[key] = counted

    def prompt(self, connection: duckdb.DuckDBPyConnection, key: str) -> Prompt | None:
        """The prompt of that key, here or in a bank; None when neither has it."""
        found = rows.select(connection, Prompt, "key = ?", [key]) if key in self._counted else []
        if found:
            return found[0]
        return next((prompt for bank in self.banks if (prompt := bank.prompt(key)) is not None), None)
