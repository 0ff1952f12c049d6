"""Short drills: copying, finding, counting words, plurals, kinship of words."""

import json
import random

from pretrain_base.grammar import Speaker
from pretrain_base.keys import key_name
from pretrain_base.lexicon import (
    NUMBER_WORDS,
    all_nouns,
    code,
    counted,
    fields,
    gerund,
    invented,
    past,
    person,
    plural,
    thing,
)
from pretrain_base.records import Turns

System = tuple[str, Turns]


def repeat(rng: random.Random) -> System:
    """The same text again."""
    say = Speaker(rng)
    text = say.sentence() if rng.random() < 0.4 else " ".join(say.shuffle_words(rng.randint(2, 12)))
    if rng.random() < 0.3:
        text = " ".join(code(rng) for _ in range(rng.randint(1, 4)))
    ask = rng.choice(("Repeat:", "Say again:", "Copy this:", "Echo", "Same words:"))
    return "", [(f"{ask} {text}", text)]


def find_code(rng: random.Random) -> System:
    """The one code among words; also the number or the name."""
    say = Speaker(rng)
    what, value = rng.choice(
        (("code", code(rng)), ("code", code(rng)), ("name", person(rng)), ("number", str(rng.randint(13, 99999))))
    )
    words = [w for w in " ".join(say.sentence() for _ in range(rng.randint(1, 2))).split() if w.islower()]
    words.insert(rng.randrange(len(words) + 1), value)
    ask = rng.choice((f"Find the {what}:", f"Which {what} is in here?", f"Give me the {what} in:", f"The {what} only."))
    text = " ".join(words)
    return "", [(f"{ask} {text}" if rng.random() < 0.7 else f"{text}\n{ask}", value)]


def look_up(rng: random.Random) -> System:
    """Pairs, then one of them."""
    say = Speaker(rng)
    left = list(dict.fromkeys(say.shuffle_words(rng.randint(3, 7))))
    pairs = {k: code(rng) if rng.random() < 0.6 else " ".join(say.shuffle_words(rng.randint(1, 2))) for k in left}
    joint, sep = rng.choice((" is ", ": ", " = ", " -> ", " has ")), rng.choice(("; ", ", ", "\n"))
    listing = sep.join(f"{k}{joint}{v}" for k, v in pairs.items())
    asked = rng.sample(left, min(len(left), rng.randint(1, 3)))
    first = f"{listing}\n{rng.choice(('What is', 'Tell me', 'Value of', 'And'))} {asked[0]}?"
    return "", [(first, pairs[asked[0]]), *((f"{a}?", pairs[a]) for a in asked[1:])]


def pairs_to_json(rng: random.Random) -> System:
    """Pairs written as JSON."""
    say = Speaker(rng)
    keys = list(
        dict.fromkeys(key_name(rng, rng.choice(("thing", "code", "person", "label"))) for _ in range(rng.randint(2, 5)))
    )
    values: dict[str, str | int] = {
        k: rng.randint(0, 9999)
        if rng.random() < 0.25
        else code(rng)
        if rng.random() < 0.4
        else " ".join(say.shuffle_words(1))
        for k in keys
    }
    joint = rng.choice((" is ", " = ", ": ", " "))
    listing = rng.choice(("; ", ", ", " and ", "\n")).join(f"{k}{joint}{v}" for k, v in values.items())
    return "", [(f"{rng.choice(('As JSON:', 'JSON of', 'Write as JSON'))} {listing}", json.dumps(values))]


def from_json(rng: random.Random) -> System:
    """One value out of a JSON object."""
    say = Speaker(rng)
    values = {
        invented(rng): code(rng) if rng.random() < 0.5 else say.shuffle_words(1)[0] for _ in range(rng.randint(2, 5))
    }
    key = rng.choice(list(values))
    return "", [(f"{json.dumps(values)}\n{key}?", values[key])]


def singular(rng: random.Random) -> System:
    """`three plonders` -> `plonder, 3`, and the like."""
    turns = []
    for _ in range(rng.randint(2, 5)):
        noun, n = thing(rng, all_nouns()), rng.randint(1, 12)
        turns.append((counted(rng, noun, n), json.dumps({"one": noun, "n": n})))
    rule = rng.choice(("Write the singular and the count.", "One and how many?", ""))
    if rng.random() < 0.4:
        turns = [(plural(t), t) for t in (thing(rng, all_nouns()) for _ in range(4))]
        rule = "Give the singular."
    return rule, turns


def number_words(rng: random.Random) -> System:
    """Words to digits and back."""
    ns = [rng.randint(0, 12) for _ in range(rng.randint(3, 7))]
    words = " ".join(NUMBER_WORDS[n] for n in ns)
    digits = " ".join(str(n) for n in ns)
    return "", [(f"In digits: {words}", digits) if rng.random() < 0.7 else (f"In words: {digits}", words)]


def same_field(rng: random.Random) -> System:
    """Which word goes with the others; which does not."""
    home, other = rng.sample(fields(), 2)
    words = rng.sample(sorted(home.words()), 4)
    odd = rng.choice(sorted(other.words() - home.words()))
    if rng.random() < 0.5:
        shown = [*words[:3], odd]
        rng.shuffle(shown)
        return "", [(f"Which word does not belong: {', '.join(shown)}", odd)]
    choice = [words[3], odd]
    rng.shuffle(choice)
    return "", [(f"What goes with {', '.join(words[:3])}: {choice[0]} or {choice[1]}?", words[3])]


def verb_forms(rng: random.Random) -> System:
    """Plain form, past and -ing form."""
    verb = rng.choice(rng.choice(fields()).verbs)
    forms = [verb, past(verb), gerund(verb)]
    return "", [(f"Forms of {rng.choice(forms)}", ", ".join(forms))]


def next_word(rng: random.Random) -> System:
    """The word that follows another."""
    words = list(dict.fromkeys(Speaker(rng).shuffle_words(rng.randint(4, 12))))
    i = rng.randrange(len(words) - 1)
    return "", [(f"{' '.join(words)}\nWhat follows {words[i]}?", words[i + 1])]
