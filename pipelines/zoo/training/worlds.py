"""Invented worlds and multi-hop questions about them.

A world is a set of facts (subject, relation, object) about invented people, firms, teams,
cities and countries; a document states each fact in one sentence. A question names the start
of a chain of facts and asks for its end: "Who is the chief of the employer of Ana?" needs
"Ana joined Kestrel." and "Mira runs Kestrel.".

Every possible fact belongs to exactly one split, chosen by a hash of (salt, subject, relation,
object); names are shared by all splits, facts by none. Nothing here is random by itself: callers
pass a `random.Random`. This module knows neither tokens nor models; the words themselves live in
`lexicon.py`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from pipelines.zoo.training.lexicon import Domain, Phrasing, Relation
from pipelines.zoo.training.rows import Row

Split = Literal["train", "search", "test"]

SPLIT_SHARES: Mapping[Split, int] = {"train": 60, "search": 20, "test": 20}
"""Percent of all possible facts that belong to each split."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One (subject, relation, object) triple; for every subject a relation has one object."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """What decides how hard a row is. Shares and weights are relative, not normalised."""

    hop_weights: tuple[float, ...] = (0.2, 0.6, 0.2)
    """Weight of questions that need 1, 2, 3, … facts."""
    level_weights: tuple[float, float, float] = (0.4, 0.35, 0.25)
    """Weight of phrasings of level 1, 2, 3, for every sentence."""
    n_candidates: tuple[int, int] = (6, 9)
    """Smallest and largest number of candidate sentences."""
    clause_share: float = 0.4
    """Share of question parts put as a clause ("the firm that hired Ana")."""
    distinct_share: float = 0.5
    """Share of rows in which no two sentences of a relation are phrased alike, while phrasings last."""


@dataclass(kw_only=True)
class World:
    """The facts of one split that have been drawn so far; further ones are drawn when they are needed.

    Attributes:
        domain: Names and relations.
        split: The split to which facts belong; None allows facts of every split.
        salt: Part of the hash that assigns facts to splits.
    """

    domain: Domain
    split: Split | None
    salt: str = "zoo"
    _facts: dict[tuple[str, str], str] = field(default_factory=dict)

    def objects(self, subject: str, relation: Relation) -> list[str]:
        """Return the names that the split allows as object of a fact."""
        names = self.domain.names[relation.object_kind]
        return [
            name
            for name in names
            if name != subject
            and (self.split is None or split_of(subject, relation.name, name, self.salt) == self.split)
        ]

    def tell(self, rng: random.Random, subject: str, relation: Relation, *, avoid: set[str]) -> Fact | None:
        """Return the fact about a subject, which is drawn if it is new.

        Args:
            rng: The source of randomness.
            subject: The subject of the fact.
            relation: The relation of the fact.
            avoid: Names that a new fact must not have as object.

        Returns:
            The fact; None if no name is left for a new one.
        """
        known = self._facts.get((subject, relation.name))
        if known is None:
            choices = [name for name in self.objects(subject, relation) if name not in avoid]
            if not choices:
                return None
            known = rng.choice(choices)
            self._facts[subject, relation.name] = known
        return Fact(subject=subject, relation=relation.name, object=known)


@cache
def split_of(subject: str, relation: str, obj: str, salt: str) -> Split:
    """Return the one split that a fact belongs to, decided by a hash: the same on every machine."""
    digest = hashlib.blake2b(f"{salt}|{subject}|{relation}|{obj}".encode(), digest_size=4).digest()
    point = int.from_bytes(digest, "big") % 100
    for name, share in SPLIT_SHARES.items():
        if point < share:
            return name
        point -= share
    raise AssertionError("SPLIT_SHARES must add up to 100")


def make_row(
    rng: random.Random, domain: Domain, split: Split | None, difficulty: Difficulty, row_id: str = ""
) -> Row:
    """Draw one question, its evidence and its distractors from a new world.

    Args:
        rng: The source of randomness.
        domain: Names and relations.
        split: The split to which all facts belong; None allows facts of every split.
        difficulty: Decides how hard the row is.
        row_id: The id of the row.
    """
    while True:
        world = World(domain=domain, split=split)
        hops = rng.choices(range(1, len(difficulty.hop_weights) + 1), difficulty.hop_weights)[0]
        chain = _draw_chain(rng, world, hops)
        if chain is None:
            continue
        n_candidates = max(rng.randint(*difficulty.n_candidates), hops + 1)
        facts = chain + _draw_distractors(rng, world, chain, n_candidates - hops)
        used: set[str] | None = set() if rng.random() < difficulty.distinct_share else None
        phrased = [_sentence(rng, domain, split, fact, difficulty, used) for fact in facts]
        sentences = [sentence for sentence, _ in phrased]
        if len(set(sentences)) < len(sentences):
            continue
        order = rng.sample(range(len(sentences)), len(sentences))
        return Row(
            id=row_id,
            question=_ask(rng, domain, chain, difficulty.clause_share),
            candidates=tuple(sentences[i] for i in order),
            evidence=tuple(sentences[:hops]),
            answer=chain[-1].object,
            hops=hops,
            level=max(level for _, level in phrased[:hops]),
        )


def make_rows(
    seed: int, domain: Domain, split: Split | None, difficulty: Difficulty, *, prefix: str, n_rows: int
) -> Iterator[Row]:
    """Draw rows; the same arguments give the same rows.

    Args:
        seed: The seed, which is combined with the prefix.
        domain: Names and relations.
        split: The split to which all facts belong; None allows facts of every split.
        difficulty: Decides how hard the rows are.
        prefix: The start of the ids, which are "prefix-0000", "prefix-0001", …
        n_rows: Number of rows.
    """
    rng = random.Random(f"{prefix}:{seed}")
    for i in range(n_rows):
        yield make_row(rng, domain, split, difficulty, f"{prefix}-{i:04d}")


def _draw_chain(rng: random.Random, world: World, hops: int) -> list[Fact] | None:
    """`hops` facts, each about the object of the one before; no name twice."""
    relation = rng.choice(list(world.domain.relations.values()))
    subject = rng.choice(world.domain.names[relation.subject_kind])
    chain: list[Fact] = []
    seen = {subject}
    for hop in range(hops):
        if hop:
            follow = world.domain.relations_of(relation.object_kind)
            if not follow:
                return None
            relation, subject = rng.choice(follow), chain[-1].object
        fact = world.tell(rng, subject, relation, avoid=seen)
        if fact is None:
            return None
        seen.add(fact.object)
        chain.append(fact)
    return chain


def _draw_distractors(rng: random.Random, world: World, chain: Sequence[Fact], n: int) -> list[Fact]:
    """Draw facts that look needed: the same relation of another subject, perhaps with the fact that would
    follow it in the chain, or another relation of the same subject."""
    relations = world.domain.relations
    used = {(fact.subject, fact.relation) for fact in chain}
    chain_names = {fact.subject for fact in chain} | {fact.object for fact in chain}
    out: list[Fact] = []
    while len(out) < n:
        hop = rng.randrange(len(chain))
        fact, relation = chain[hop], relations[chain[hop].relation]
        new: list[Fact | None] = []
        if rng.random() < 0.5:
            others = [name for name in world.domain.names[relation.subject_kind] if name not in chain_names]
            twin = world.tell(rng, rng.choice(others), relation, avoid=chain_names)
            new.append(twin)
            if twin is not None and hop + 1 < len(chain) and rng.random() < 0.7:
                after = relations[chain[hop + 1].relation]
                new.append(world.tell(rng, twin.object, after, avoid=chain_names))
        else:
            siblings = [r for r in world.domain.relations_of(relation.subject_kind) if r is not relation]
            if siblings:
                new.append(world.tell(rng, fact.subject, rng.choice(siblings), avoid=chain_names))
        for extra in new:
            if extra is not None and (extra.subject, extra.relation) not in used and len(out) < n:
                used.add((extra.subject, extra.relation))
                out.append(extra)
    return out


def _sentence(
    rng: random.Random,
    domain: Domain,
    split: Split | None,
    fact: Fact,
    difficulty: Difficulty,
    used: set[str] | None,
) -> tuple[str, int]:
    """One sentence for a fact, and the level of its phrasing; phrasings in `used` only if none is left."""
    relation = domain.relations[fact.relation]
    fresh = [phrasing for phrasing in relation.phrasings if not used or phrasing.text not in used]
    by_level: dict[int, list[Phrasing]] = {}
    for phrasing in fresh or relation.phrasings:
        by_level.setdefault(phrasing.level, []).append(phrasing)
    levels = sorted(by_level)
    level = rng.choices(levels, [difficulty.level_weights[i - 1] for i in levels])[0]
    phrasing = rng.choice(by_level[level])
    if used is not None:
        used.add(phrasing.text)
    decoy = ""
    if "{x}" in phrasing.text:
        names = [n for n in domain.names[relation.object_kind] if n not in (fact.subject, fact.object)]
        # What a decoy says ("left Falcon") is a fact too, so it stays inside its split.
        in_split = [
            n
            for n in names
            if split is None or split_of(fact.subject, relation.name + "-not", n, "zoo") == split
        ]
        decoy = rng.choice(in_split or names)
    return phrasing.text.format(s=fact.subject, o=fact.object, x=decoy), level


def _ask(rng: random.Random, domain: Domain, chain: Sequence[Fact], clause_share: float) -> str:
    """The question: the start of the chain wrapped in one noun phrase a hop."""
    phrase = chain[0].subject
    for fact in chain:
        relation = domain.relations[fact.relation]
        wrap = relation.clause if rng.random() < clause_share else relation.noun
        phrase = wrap.format(phrase)
    word = "Who" if domain.relations[chain[-1].relation].object_kind == "person" else "What"
    return f"{word} is {phrase}?"
