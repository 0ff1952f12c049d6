"""English sentences from templates and word fields: grammatical, with a theme, without sense."""

import random
import re
from dataclasses import dataclass

from pretrain_base.lexicon import Field, code, fields, gerund, invented, past, person, plural

# {n} noun, {ns} plural, {v} verb, {ved} past, {ving} gerund, {a} adjective or adverb, {N} name.
SENTENCES: tuple[str, ...] = (
    "The {n} {ved} the {n}.", "A {a} {n} {ved} near the {n}.", "The {ns} were {a} and the {n} was {a}.",
    "{N} {ved} the {a} {n}.", "We {ved} the {n} and then {ved} the {n}.", "Nobody {ved} the {n} because it was {a}.",
    "Why did the {n} {v}?", "Where did you {v} the {n}?", "When do the {ns} {v}?", "Who {ved} my {n}?",
    "Would you {v} the {n} for us?", "Should I {v} the {n} or the {n}?", "Do you have a {a} {n}?",
    "I think the {n} is {a}.", "I hope that you {v} the {n} soon.", "They said that the {n} was {a}.",
    "She {ved} her {n} with a {n}.", "He did not {v} the {n}.", "It is not {a}, it is {a}.",
    "There was a {n} on the {n}.", "There were some {a} {ns} in the {n}.", "My {n} is {a} and does not {v}.",
    "Our {ns} {ved} all day.", "Your {n} looks {a} to me.", "If the {n} is {a}, we {v} it.",
    "After the {n} we {ved} the {ns}.", "Before you {v}, look at the {n}.", "{ving} a {n} is {a}.",
    "The {n} of the {n} is {a}.", "I have never {ved} such a {a} {n}.", "Let us {v} the {ns}.",
    "Please {v} the {n}, {N}.", "Do not {v} the {a} {n}!", "You must {v} it with the {n}.",
    "{N} and {N} are {ving} the {n}.", "The {n} was {ved} by {N}.", "They have {ved} two {ns} so far.",
    "What a {a} {n}!", "I would rather {v} than {v}.", "It takes a long time to {v} a {n}.",
    "One {n} is {a}, the other is {a}.", "The {n} has no {n}.", "We were {ving} when the {n} {ved}.",
    "How many {ns} did they {v}?", "The {n} can {v}, but the {n} cannot.", "That {n} belongs to {N}.",
    "{N} wants to {v} a {n}.", "{N} needs a {n} to {v} the {n}.", "This {n} is much too {a}.",
    "I am {ving} and I feel {a}.", "We could not {v} it at all.", "Somebody left a {n} with the {ns}.",
    "You forgot the {n}, I believe.", "At night the {ns} {v}.", "In the morning the {n} was {a} again.",
    "The {n} has been {a} since the {n} {ved}.", "Is the {n} still {a}?", "Has anyone {ved} the {ns}?",
    "I had to {v} without a {n}.", "From the {n} to the {n} everything was {a}.", "It was {ved} again, {a} as ever.",
    "Tell {N} about the {n}.", "Thank you for the {a} {n}.", "I will {v} you a {n}.", "No {n}, no {n}.",
    "The {n}, the {n} and the {n} are {a}.", "You should have {ved} more {ns}.", "We did {v} but got no {n}.",
    "The {a} {n} that I {ved} is here.", "Without a {n} I will not {v}.", "Could {N} {v} my {n}?",
    "{a} {ns} {v} the {n}.", "It seems {a}.", "We {v} and {v}.", "A {n} will {v}.", "All the {ns} are {a} now.",
    "The {n} says it is {a}.", "{N} never {ved} my {n} back.", "The wrong {n} was {ved} to {N}.",
    "I only want to {v} the {n}.", "My {n} should be {a} by now.", "What does the {n} mean?",
)  # fmt: skip
# What the theme is not: the other pole of a label that turns on yes or no.
NEGATED: tuple[str, ...] = (
    "There is no {n} here at all.", "I do not see any {n}.", "It was not {a}, not even near the {n}.",
    "Nobody can {v} the {n}.", "We never {v} with the {n}.", "You cannot {v} the {n}.", "The {n} was not {a}.",
    "They did not {v} the {ns}.", "No {n} was {ved}.", "I am not {ving} now.", "Not one {n} is {a}.",
    "{N} does not {v} the {n}.", "We have no {n} and no {n}.", "Nothing was {a}, nothing {ved}.",
    "Without a {n} we do not {v}.", "There is not a single {n}.", "It does not {v} any more.", "Do not {v} the {n}.",
    "You need not {v}, it is not {a}.", "The {n} is hardly {a}.", "She never {ved} the {n}.", "I will not {v} it.",
    "Neither the {n} nor the {n} is {a}.", "It is by no means {a}.", "We cannot {v}.", "My {n} can do without a {n}.",
)  # fmt: skip
AFFIRMED = tuple(s for s in SENTENCES if not re.search(r"\b(not|no|never|cannot|nobody|without|forgot)\b", s.lower()))
HELLOS = ("Hello {N}.", "Hi {N},", "Dear {N},", "Good day.", "Hey!", "Dear all,", "Hi everybody,", "Greetings,")
GOODBYES = (
    "See you, {N}.",
    "Yours, {N}",
    "Bye!",
    "Love, {N}",
    "So long.",
    "Greetings, {N}",
    "- {N}",
    "Thanks a lot, {N}",
)


@dataclass(frozen=True)
class Cue:
    """What a sentence has to speak of: a word field, or (`pole` False) the want of it; `pole` None: either will do."""

    field: Field
    pole: bool | None = None


class Speaker:
    """Fills templates; remembers nothing but its random source."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def _word(self, theme: Field | None, kind: str) -> str:
        source = theme if theme is not None and self.rng.random() < 0.85 else self.rng.choice(fields())
        words = {"n": source.nouns, "v": source.verbs, "a": source.modifiers}[kind]
        return invented(self.rng) if self.rng.random() < 0.03 else self.rng.choice(words)

    def fill(self, template: str, theme: Field | None = None) -> str:
        """`template` with a fresh word in every slot, most of them from `theme`."""
        parts = template.split("{")
        out = [parts[0]]
        for part in parts[1:]:
            slot, rest = part.split("}", 1)
            out.append(self._slot(slot, theme) + rest)
        text = "".join(out)
        return text[0].upper() + text[1:]

    def _slot(self, slot: str, theme: Field | None) -> str:
        if slot == "N":
            return person(self.rng)
        word = self._word(theme, slot[0])
        bend = {"ns": plural, "ved": past, "ving": gerund}.get(slot)
        return bend(word) if bend else word

    def sentence(self, theme: Field | None = None) -> str:
        """One sentence about `theme` (or about anything)."""
        return self.fill(self.rng.choice(SENTENCES), theme)

    def about(self, cue: Cue) -> str:
        """One sentence that shows `cue`."""
        templates = SENTENCES if cue.pole is None else AFFIRMED if cue.pole else NEGATED
        return self.fill(self.rng.choice(templates), cue.field)

    def paragraph(self, n: int) -> str:
        """`n` sentences that stay with one or two themes."""
        themes = self.rng.sample(fields(), 2)
        return " ".join(self.sentence(self.rng.choice(themes)) for _ in range(n))

    def shuffle_words(self, n: int) -> list[str]:
        """`n` words without grammar: plain, invented, numbers, codes, names."""
        return [self._any_word() for _ in range(n)]

    def _any_word(self) -> str:
        roll = self.rng.random()
        if roll < 0.55:
            return self._word(None, self.rng.choice("nva"))
        if roll < 0.75:
            return invented(self.rng)
        if roll < 0.85:
            return str(self.rng.randint(0, 10 ** self.rng.randint(1, 6)))
        return person(self.rng) if roll < 0.93 else code(self.rng)
