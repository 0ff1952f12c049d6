"""Label sets: which word fields (or the want of them) make which label; defined in the prompt or known by heart."""

import random
from dataclasses import dataclass
from functools import cache

from pretrain_base.grammar import Cue
from pretrain_base.keys import key_name
from pretrain_base.lexicon import Field, all_words, fields, invented

FIXED_SETS = 160


@dataclass(frozen=True)
class Labels:
    """A set of labels: each has a few cues; `default` holds where the text shows none of them."""

    key: str
    cues: dict[str, tuple[Cue, ...]]
    default: str | None
    fixed: bool = False

    def draw(self, rng: random.Random) -> tuple[str, Cue | None]:
        """A label and the cue that will show it."""
        if self.default is not None and rng.random() < 1 / (1 + len(self.cues)):
            return self.default, None
        label = rng.choice(list(self.cues))
        return label, rng.choice(self.cues[label])


def label_name(rng: random.Random) -> str:
    """An invented word, an ordinary one, or a letter and number."""
    roll = rng.random()
    if roll < 0.5:
        return invented(rng)
    return rng.choice(all_words()) if roll < 0.85 else rng.choice("ABCDEFGHKPQRSTXZ") + str(rng.randint(1, 9))


def _apart(rng: random.Random, n: int) -> list[Field]:
    """`n` fields that share no word."""
    chosen: list[Field] = []
    used: set[str] = set()
    for f in rng.sample(fields(), len(fields())):
        if len(chosen) < n and not used & f.words():
            chosen.append(f)
            used |= f.words()
    return chosen


def random_labels(rng: random.Random, max_labels: int = 5, fixed: bool = False) -> Labels:
    """Two to `max_labels` labels over fields that share no word; every fourth set turns on yes or no."""
    default = label_name(rng) if rng.random() < 0.4 else None
    if rng.random() < 0.25:
        poles = _apart(rng, rng.choice((1, 1, 2, 3)))
        cues = {label_name(rng): tuple(Cue(f, pole) for f in poles) for pole in (True, False)}
        return Labels(key_name(rng, "label"), cues, default, fixed)
    n = rng.randint(2, max_labels)
    per = rng.choice((1, 1, 2, 3)) if n <= 3 or fixed else 1
    chosen = _apart(rng, n * per)
    cues = {label_name(rng): tuple(Cue(f) for f in chosen[i * per : (i + 1) * per]) for i in range(n)}
    return Labels(key_name(rng, "label"), cues, default, fixed)


@cache
def fixed_labels() -> tuple[Labels, ...]:
    """The label sets that the model learns by heart, one key each; the first names every field by its name."""
    rng = random.Random(815)
    sets = {"theme_name": Labels("theme_name", {f.name: (Cue(f),) for f in fields()}, None, True)}
    while len(sets) < FIXED_SETS:
        made = random_labels(rng, fixed=True)
        sets.setdefault(made.key, made)
    return (sets["theme_name"],) * 8 + tuple(sets.values())


def _cue_words(rng: random.Random, cue: Cue) -> list[str]:
    words = sorted(cue.field.words())
    picked = rng.sample(words, min(len(words), rng.randint(2, 5)))
    return [f"no {w}" for w in picked] if cue.pole is False else picked


def describe_labels(rng: random.Random, key: str, labels: Labels) -> str:
    """`mood is zel for garden, leaf; tor for coin, bank; else mip.`"""
    verb = rng.choice(("for", "if", "about", "when it is about", "=", "means"))
    parts = []
    for label, cues in labels.cues.items():
        parts.append(f"{label} {verb} {', '.join(w for cue in cues for w in _cue_words(rng, cue))}")
    rng.shuffle(parts)
    rest = (
        ""
        if labels.default is None
        else f"; {rng.choice(('else', 'otherwise', 'in all other cases'))} {labels.default}"
    )
    return f"{key}{rng.choice((':', ' is', ' ='))} {'; '.join(parts)}{rest}."
