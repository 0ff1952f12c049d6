"""Ways to say a record in free text: a counted thing, a code, and the lesser facts, in changing sequence."""

import random
from dataclasses import dataclass, field

from pretrain_base.grammar import GOODBYES, HELLOS, Cue, Speaker
from pretrain_base.keys import DAYS, PLACES
from pretrain_base.lexicon import Field, all_nouns, code, counted, fields, past, person, plural, thing

MARKS = (
    "tag mark number file ref page plate no. id card entry label box folder list record ticket slip sheet case lot "
    "reference stamp"
).split()


@dataclass
class Facts:
    """What a text says: values by kind, and the cue of every label."""

    domain: Field
    thing: str
    count: int
    code: str
    person: str
    place: str
    day: str
    cues: list[Cue | None] = field(default_factory=list)


def random_facts(rng: random.Random, cues: list[Cue | None]) -> Facts:
    """Facts of a random domain; counts are mostly small."""
    domain = rng.choice(fields())
    nouns = tuple(n for n in domain.nouns if n.islower()) or all_nouns()
    count = rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, rng.randint(13, 400)))
    place = rng.choice(PLACES) if rng.random() < 0.6 else rng.choice(all_nouns())
    return Facts(domain, thing(rng, nouns), count, code(rng), person(rng), place, rng.choice(DAYS), cues)


def _coded(rng: random.Random, c: str) -> str:
    """The code with or without a word that announces it."""
    mark = rng.choice(MARKS) if rng.random() < 0.6 else rng.choice(all_nouns())
    return rng.choice(
        (c, f"{mark} {c}", f"{mark} {c}", f"{mark} number {c}", f"{mark} {c}", f"{mark}: {c}", f"{mark} no. {c}")
    )


def _subject(rng: random.Random, facts: Facts) -> str:
    noun = rng.choice(all_nouns())
    return rng.choice(
        ("we", "I", "they", "you", "she", facts.person, facts.person, f"the {noun}", f"my {noun}", f"our {noun}")
    )


def _verb(rng: random.Random, facts: Facts) -> str:
    return past(rng.choice(facts.domain.verbs if rng.random() < 0.6 else rng.choice(fields()).verbs))


def _tail(rng: random.Random) -> str:
    noun = rng.choice(all_nouns())
    return rng.choice(("", "", "", f" near the {noun}", f" for the {noun}", f" with a {noun}", " last night", " at once",
                       f" in our {noun}", " some days ago", " this morning", f" as a {noun}", " again"))  # fmt: skip


def _bare(facts: Facts, rng: random.Random) -> str:
    """The thing and its count apart: `heron, 3`."""
    n, t = str(facts.count), facts.thing
    mark = rng.choice(MARKS)
    return rng.choice(
        (f"{t}, {n}", f"{t} x {n}", f"{n} x {t}", f"{t} ({n})", f"{mark}: {t}, how many: {n}", f"{plural(t)}: {n}")
    )


def main_sentences(rng: random.Random, facts: Facts) -> list[str]:
    """One or two sentences that hold the thing, its count and the code."""
    things = counted(rng, facts.thing, facts.count) if rng.random() < 0.88 else _bare(facts, rng)
    coded, subject, verb = _coded(rng, facts.code), _subject(rng, facts), _verb(rng, facts)
    core = f"{subject} {verb} {things}{_tail(rng)}"
    link = rng.choice((", ", ", ", " with ", " under ", " as ", " - ", "; ", " in ", " from "))
    opener = rng.choice(
        ("Note on", "News of", "As for", "In", "From", "With", "Under", "Here is", "Look at", "See", "")
    )
    noun = rng.choice(all_nouns())
    one = (
        f"{core}{link}{coded}", f"{core} ({coded})", f"{opener} {coded}{link}{core}".lstrip(), f"{coded}: {things}",
        f"{opener} {coded} ({things})".lstrip(), f"{coded} is for {things}", f"{opener} {things}{link}{coded}".lstrip(),
        f"the {noun} {coded} has {things}", f"my {coded} {_verb(rng, facts)} {things}", f"{things}, {coded}",
        f"{coded}, {things}", f"there were {things} under {coded}", f"{opener} my {things}, {coded}".lstrip(),
    )  # fmt: skip
    two = ([core, f"the {coded} is on the {noun}"], [f"the {coded}", core], [f"my {coded}", core], [core, f"it was {coded}"],
           [f"can you see {coded}", f"{rng.choice(('it has', 'there are', 'I see'))} {things}"])  # fmt: skip
    chosen = [rng.choice(one)] if rng.random() < 0.7 else rng.choice(two)
    return [s[0].upper() + s[1:] + rng.choice("....!") if s[0] != facts.code[0] else s + "." for s in chosen]


def side_sentences(rng: random.Random, facts: Facts, kinds: set[str]) -> list[str]:
    """Sentences for the person, the place and the day, where the record asks for them."""
    noun = rng.choice(all_nouns())
    p, place, day = facts.person, facts.place, facts.day
    texts = {
        "person": (
            f"It was {p} who came.",
            f"{p} told me.",
            f"Ask {p} about it.",
            f"My friend is called {p}.",
            f"{p} speaking.",
        ),
        "place": (
            f"That was at {place}.",
            f"It happened near {place}.",
            f"We are in {place} now.",
            f"Seen from {place}.",
        ),
        "day": (f"It was a {day}.", f"All on {day}.", f"We met on {day} by the {noun}.", f"{day} was the day."),
    }
    return [rng.choice(texts[k]) for k in ("person", "place", "day") if k in kinds]


def _mistyped(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    i = rng.randrange(len(words))
    w = words[i]
    if len(w) > 4 and w.isalpha() and w.islower():
        j = rng.randrange(1, len(w) - 1)
        words[i] = w[:j] + w[j + 1] + w[j] + w[j + 2 :] if rng.random() < 0.5 else w[:j] + w[j + 1 :]
    return " ".join(words)


def text_of(rng: random.Random, facts: Facts, kinds: set[str]) -> str:
    """A short text that says all `facts` of the asked `kinds`, among sentences that say nothing."""
    say = Speaker(rng)
    blocks = [main_sentences(rng, facts), *([s] for s in side_sentences(rng, facts, kinds))]
    blocks += [[say.about(cue)] for cue in facts.cues if cue is not None]
    if rng.random() < 0.25:
        blocks.append([say.sentence(facts.domain)])
    if rng.random() < 0.5:
        rng.shuffle(blocks)
    parts = [s for block in blocks for s in block]
    if rng.random() < 0.25:
        parts.insert(0, say.fill(rng.choice(HELLOS)))
    if rng.random() < 0.2:
        parts.append(say.fill(rng.choice(GOODBYES)))
    text = ("\n" if rng.random() < 0.06 else " ").join(parts)
    if rng.random() < 0.12:
        text = facts.code.join(t.lower() for t in text.split(facts.code))
        for name in (facts.person, facts.place, facts.day):
            text = text.replace(name.lower(), name)
    return _mistyped(rng, text) if rng.random() < 0.1 and facts.thing.isascii() else text
