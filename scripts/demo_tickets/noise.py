"""Small faults of real tickets: typos, lower case, lost punctuation. The words that the answer needs stay intact."""

import random
import re

_WORD = re.compile(r"[A-Za-z]{5,}")


def _mistype(rng: random.Random, word: str) -> str:
    """Swap, drop or double one letter inside `word`."""
    i = rng.randrange(1, len(word) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    return word[:i] + word[i] + word[i:]


def add_typo(rng: random.Random, text: str, protected: frozenset[str]) -> str:
    """One typo in a random word of five letters or more; `protected` holds lower-case words to leave alone."""
    places = [m for m in _WORD.finditer(text) if m.group().lower() not in protected]
    if not places:
        return text
    m = rng.choice(places)
    return text[: m.start()] + _mistype(rng, m.group()) + text[m.end() :]


def lower_except(text: str, keep: str) -> str:
    """`text` in lower case, with `keep` (an order code) as it was written."""
    return keep.join(part.lower() for part in text.split(keep))


def add_noise(rng: random.Random, text: str, code: str, protected: frozenset[str]) -> str:
    """Typos in every sixth ticket, lower case in every eighth, careless punctuation in some."""
    if rng.random() < 0.16:
        text = add_typo(rng, text, protected)
        if rng.random() < 0.3:
            text = add_typo(rng, text, protected)
    if rng.random() < 0.12:
        text = lower_except(text, code)
    if rng.random() < 0.05:
        text = text.replace("!", "!!!").replace("?", "??")
    if rng.random() < 0.05:
        text = text.rstrip(".")
    return text
