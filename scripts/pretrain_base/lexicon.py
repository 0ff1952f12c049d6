"""Words and how they bend: word fields, plurals, past forms, invented words, names, codes, numbers."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VOWELS = "aeiou"
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sp st t th tr v w z".split()
NUCLEI = "a e i o u a e i o u ai ea ee oa oo ou ia io".split()
CODAS = "b ck d f g k l ll m n nd ng nk nt p r rd rk rn rt s sh sk st t x".split()
ENDINGS = "er or on el en ator ine ette ment age ling ster ow o a et ic us iser ler ier ach ish oss ith ory".split()
FIRST_NAMES = (
    "Alice Peter Julia Henry Clara Simon Laura Victor Emma Hugo Olga Felix Mona Ivan Ruth Carl Ella Stefan Judith Ralf "
    "Amir Chen Dora Pavel Sofia Tariq Noor Kofi Mei Luca"
).split()
IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "foot": "feet", "tooth": "teeth", "mouse": "mice",
    "knife": "knives", "leaf": "leaves", "wolf": "wolves", "sheep": "sheep", "fish": "fish", "shelf": "shelves",
    "wife": "wives", "thief": "thieves", "half": "halves", "goose": "geese", "loaf": "loaves",
}  # fmt: skip
IRREGULAR_PAST = dict(
    pair.split(":")
    for pair in (
        "grow:grew blow:blew freeze:froze shine:shone sink:sank drive:drove ride:rode fly:flew sing:sang swim:swam "
        "catch:caught pay:paid spend:spent buy:bought sell:sold lend:lent withdraw:withdrew break:broke tear:tore "
        "send:sent leave:left eat:ate drink:drank feed:fed bite:bit graze:grazed speak:spoke say:said tell:told "
        "write:wrote read:read spell:spelt learn:learnt teach:taught win:won lose:lost throw:threw run:ran "
        "begin:began give:gave take:took hold:held keep:kept bring:brought get:got sweep:swept sleep:slept "
        "dream:dreamt wake:woke steal:stole fight:fought meet:met think:thought know:knew understand:understood "
        "find:found seek:sought hide:hid sting:stung build:built put:put stand:stood set:set lie:lay sit:sat "
        "wear:wore sew:sewed cut:cut stick:stuck spin:spun fall:fell climb:climbed hear:heard ring:rang draw:drew "
        "feel:felt hurt:hurt forget:forgot mislead:misled rend:rent bend:bent forge:forged overcharge:overcharged "
        "repay:repaid mix:mixed fix:fixed bow:bowed weave:wove mend:mended hug:hugged"
    ).split()
)


@dataclass(frozen=True)
class Field:
    """A word field: words that speak of the same thing."""

    name: str
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    modifiers: tuple[str, ...]

    def words(self) -> frozenset[str]:
        """All words of the field in their plain form."""
        return frozenset((*self.nouns, *self.verbs, *self.modifiers))


@cache
def fields() -> tuple[Field, ...]:
    """The word fields of `fields.txt`."""
    lines = (Path(__file__).parent / "fields.txt").read_text(encoding="utf-8").splitlines()
    rows = [[part.split() for part in line.split("|")] for line in lines if line and not line.startswith("#")]
    return tuple(Field(r[0][0], tuple(r[1]), tuple(r[2]), tuple(r[3])) for r in rows)


@cache
def all_nouns() -> tuple[str, ...]:
    """Every noun that can be counted by adding to it."""
    return tuple(sorted({n for f in fields() for n in f.nouns if n.islower()}))


@cache
def all_words() -> tuple[str, ...]:
    """Every word of every field."""
    return tuple(sorted({w for f in fields() for w in f.words()}))


def plural(noun: str) -> str:
    """The plural of a noun, by its last word."""
    head, _, last = noun.rpartition(" ")
    return f"{head} {_plural_word(last)}".lstrip()


def _plural_word(noun: str) -> str:
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2:-1] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _doubles(verb: str) -> bool:
    short = len(verb) <= 4 and len(verb) >= 3
    return short and verb[-1] not in "aeiouwxy" and verb[-2] in VOWELS and verb[-3] not in VOWELS


def past(verb: str) -> str:
    """The simple past of a verb."""
    if verb in IRREGULAR_PAST:
        return IRREGULAR_PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2:-1] not in VOWELS:
        return verb[:-1] + "ied"
    return verb + (verb[-1] if _doubles(verb) else "") + "ed"


def gerund(verb: str) -> str:
    """The -ing form of a verb."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if _doubles(verb) else "") + "ing"


def invented(rng: random.Random) -> str:
    """A word that no dictionary has, such as `plonder`."""
    syllable = rng.choice(ONSETS) + rng.choice(NUCLEI)
    shape = rng.random()
    if shape < 0.25:
        return syllable + rng.choice(CODAS)
    if shape < 0.6:
        return syllable + rng.choice(CODAS) + rng.choice(ENDINGS)
    if shape < 0.85:
        return syllable + rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS)
    return syllable + rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(ONSETS) + rng.choice(ENDINGS)


def person(rng: random.Random) -> str:
    """A first name, half of them invented."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.5 else invented(rng).capitalize()


def thing(rng: random.Random, nouns: tuple[str, ...]) -> str:
    """Something to be counted: a noun of `nouns`, an invented one, or two words."""
    roll = rng.random()
    first = rng.choice(nouns) if roll < 0.35 else invented(rng)
    if rng.random() < 0.3:
        second = rng.choice(nouns) if rng.random() < 0.5 else invented(rng)
        return f"{first} {second}"
    return first


def _segment(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.5:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 6)))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 4)))
    return text.lower() if roll > 0.95 else text


def code(rng: random.Random) -> str:
    """A code of random shape, such as `T-4410/B` or `882013`."""
    while True:
        joint = rng.choice(("", "", "-", "-", "-", "/", ".", "_"))
        text = joint.join(_segment(rng) for _ in range(rng.choice((1, 2, 2, 2, 3, 3, 4))))
        if 3 <= len(text) <= 12 and any(c.isdigit() for c in text):
            return ("#" if rng.random() < 0.15 else "") + text


def count_text(rng: random.Random, n: int) -> str:
    """A number in digits or, up to twelve, in words."""
    return NUMBER_WORDS[n] if n < len(NUMBER_WORDS) and rng.random() < 0.45 else str(n)


def counted(rng: random.Random, noun: str, n: int) -> str:
    """A number of things: `three herons`, `1 heron`, `a heron`."""
    if n == 1 and rng.random() < 0.5:
        return f"{'an' if noun[0] in VOWELS else 'a'} {noun}"
    return f"{count_text(rng, n)} {noun if n == 1 else plural(noun)}"
