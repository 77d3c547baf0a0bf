"""The words of the zoo: names, relations and the sentences that express them.

Two domains. `CIVIC` (people, firms, teams, cities, countries) is what the models are trained on.
`MUSEUM` (works of art, museums) is held out of the training, with its own relations and phrasings, so that
a fine-tune has something to learn. This module has only words; `worlds.py` builds facts and questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrasing:
    """A way to express a fact in a sentence.

    Attributes:
        text: The sentence with `{s}` (subject), `{o}` (object) and sometimes `{x}` (a decoy of the object's
            kind).
        level: How hard it is to read, from 1 to 3.
    """

    text: str
    level: int


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A relation that has one object for every subject.

    Attributes:
        name: The name of the relation.
        subject_kind: The kind of its subjects, such as person.
        object_kind: The kind of its objects.
        noun: A phrase that means the object, with `{}` for the subject.
        clause: The same as a clause, such as "the firm that hired {}".
        phrasings: Sentences that express a fact.
    """

    name: str
    subject_kind: str
    object_kind: str
    noun: str
    clause: str
    phrasings: tuple[Phrasing, ...]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The names of a domain by kind, and its relations by name."""

    names: Mapping[str, tuple[str, ...]]
    relations: Mapping[str, Relation]

    def relations_of(self, kind: str) -> list[Relation]:
        """Return the relations whose subjects are of a kind, in a fixed order."""
        return [relation for relation in self.relations.values() if relation.subject_kind == kind]


def _relation(
    name: str, kinds: tuple[str, str], noun: str, clause: str, *phrasings: tuple[int, str]
) -> Relation:
    return Relation(
        name=name,
        subject_kind=kinds[0],
        object_kind=kinds[1],
        noun=noun,
        clause=clause,
        phrasings=tuple(Phrasing(level=level, text=text) for level, text in phrasings),
    )


def _domain(names: Mapping[str, str], *relations: Relation) -> Domain:
    return Domain(
        names={kind: tuple(words.split()) for kind, words in names.items()},
        relations={relation.name: relation for relation in relations},
    )


_PEOPLE = (
    "Ana Boris Clara Dario Elena Felix Greta Hugo Irene Jonas Karin Leon Mira Nils Olga Pavel Rosa Simon "
    "Tilda Umar Vera Walter Yara Zeno Anton Berta Cyril Dora Emil Flora Gustav Hanna Ivan Julia Klara Lukas"
)
_CITIES = (
    "Arden Belmar Corvo Dunmor Eastby Farrow Glenor Harwick Istria Jarlen Kelso Lorvik Marwen Norby Ostend "
    "Pelham Quarry Rosmar Selby Tarvos Ulmen Varna Wexley Yarrow"
)

CIVIC = _domain(
    {
        "person": _PEOPLE,
        "city": _CITIES,
        "firm": "Kestrel Falcon Nimbus Orbis Vertex Zenith Lumen Cobalt Delphi Ember Fjord Granite Helios "
        "Indigo Juniper Krypton Magnet Nectar Onyx Quartz",
        "team": "Hawks Tigers Rovers Comets Wolves Giants Pirates Ravens Saints Sharks Bulls "
        "Eagles Lions Panthers",
        "country": "Veland Ostria Marovia Tarkan Belusia Corland Dravia Elbonia Florin Genovia Hestan Ikaria "
        "Jutland Kirania",
    },
    _relation(
        "employer",
        ("person", "firm"),
        "the employer of {}",
        "the firm that hired {}",
        (1, "{s} joined {o}."),
        (2, "{s} left {x} for {o}."),
        (2, "{s} signed a new contract with {o}."),
        (3, "{o} hired {s}."),
        (3, "{o} gave a desk to {s}."),
    ),
    _relation(
        "mentor",
        ("person", "person"),
        "the teacher of {}",
        "the person who taught {}",
        (1, "{s} admired {o}."),
        (2, "{s} learned from {o} after {x}."),
        (2, "{s} took many lessons with {o}."),
        (3, "{o} taught {s}."),
        (3, "{o} was a teacher to {s}."),
    ),
    _relation(
        "birthplace",
        ("person", "city"),
        "the birthplace of {}",
        "the city where {} was born",
        (1, "{s} left {o}."),
        (2, "{s} grew up in {o}, not in {x}."),
        (2, "{s} came as a child from {o}."),
        (3, "{o} raised {s}."),
        (3, "{o} is the birthplace of {s}."),
    ),
    _relation(
        "team",
        ("person", "team"),
        "the team of {}",
        "the team that {} plays for",
        (1, "{s} supports {o}."),
        (2, "{s} quit {x} to play for {o}."),
        (2, "{s} wears the shirt of {o}."),
        (3, "{o} picked {s}."),
        (3, "{o} bought the player {s}."),
    ),
    _relation(
        "base",
        ("firm", "city"),
        "the base of {}",
        "the city where {} has offices",
        (1, "{s} chose {o}."),
        (2, "{s} moved from {x} to {o}."),
        (2, "{s} rents a large tower in {o}."),
        (3, "{o} hosts {s}."),
        (3, "{o} gave offices to {s}."),
    ),
    _relation(
        "chief",
        ("firm", "person"),
        "the chief of {}",
        "the person who runs {}",
        (1, "{s} appointed {o}."),
        (2, "{s} preferred {o} to {x}."),
        (2, "{s} is now led by {o}."),
        (3, "{o} runs {s}."),
        (3, "{o} took over as chief of {s}."),
    ),
    _relation(
        "home",
        ("team", "city"),
        "the home of {}",
        "the city where {} train",
        (1, "{s} fill {o}."),
        (2, "{s} swapped {x} for {o}."),
        (2, "{s} have a new stadium in {o}."),
        (3, "{o} cheers {s}."),
        (3, "{o} is the home of {s}."),
    ),
    _relation(
        "coach",
        ("team", "person"),
        "the coach of {}",
        "the person who trains {}",
        (1, "{s} follow {o}."),
        (2, "{s} replaced {x} by {o}."),
        (2, "{s} have a strict coach in {o}."),
        (3, "{o} trains {s}."),
        (3, "{o} is the coach of {s}."),
    ),
    _relation(
        "country",
        ("city", "country"),
        "the country of {}",
        "the country that rules {}",
        (1, "{s} joins {o}."),
        (2, "{s} lies in {o}, near {x}."),
        (2, "{s} is an old port of {o}."),
        (3, "{o} rules {s}."),
        (3, "{o} built the city of {s}."),
    ),
    _relation(
        "mayor",
        ("city", "person"),
        "the mayor of {}",
        "the person who governs {}",
        (1, "{s} elected {o}."),
        (2, "{s} voted for {o}, not for {x}."),
        (2, "{s} has a young mayor in {o}."),
        (3, "{o} governs {s}."),
        (3, "{o} is the mayor of {s}."),
    ),
)
"""The domain of training, search and test."""

MUSEUM = _domain(
    {
        "person": _PEOPLE,
        "city": _CITIES,
        "work": "Aurora Banshee Cascade Dolphin Emerald Fresco Goblet Horizon Icarus Lantern Mosaic Nocturne "
        "Obelisk Phoenix Siren Triton",
        "museum": "Louvain Pradera Uffora Tatema Hermia Rijka Guggen Albera Brera Capitol Museion Orsay",
    },
    _relation(
        "maker",
        ("work", "person"),
        "the maker of {}",
        "the artist who made {}",
        (1, "{s} honours {o}."),
        (2, "{s} was carved by {o} before {x} saw it."),
        (2, "{s} bears the seal of {o}."),
        (3, "{o} painted {s}."),
        (3, "{o} carved the statue {s}."),
    ),
    _relation(
        "museum",
        ("work", "museum"),
        "the museum of {}",
        "the gallery that shows {}",
        (1, "{s} adorns {o}."),
        (2, "{s} was lent by {x} to {o}."),
        (2, "{s} hangs in a hall of {o}."),
        (3, "{o} displays {s}."),
        (3, "{o} keeps the treasure {s}."),
    ),
    _relation(
        "curator",
        ("museum", "person"),
        "the curator of {}",
        "the expert who guards {}",
        (1, "{s} trusts {o}."),
        (2, "{s} dismissed {x} and hosted {o}."),
        (2, "{s} is curated by the expert {o}."),
        (3, "{o} guards {s}."),
        (3, "{o} is the curator of {s}."),
    ),
    _relation(
        "site",
        ("museum", "city"),
        "the site of {}",
        "the town around {}",
        (1, "{s} overlooks {o}."),
        (2, "{s} stands in {o}, not in {x}."),
        (2, "{s} opened its gates in {o}."),
        (3, "{o} surrounds {s}."),
        (3, "{o} built a gallery for {s}."),
    ),
    _relation(
        "patron",
        ("person", "museum"),
        "the patron museum of {}",
        "the gallery that sponsors {}",
        (1, "{s} praises {o}."),
        (2, "{s} sold {x} a frame and {o} a treasure."),
        (2, "{s} painted a ceiling at {o}."),
        (3, "{o} sponsors {s}."),
        (3, "{o} paid a prize to {s}."),
    ),
)
"""The domain that is held out of the training."""
