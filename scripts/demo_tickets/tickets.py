"""Clean tickets: a random answer first, then a text that says it."""

import json
import random
from dataclasses import dataclass
from types import ModuleType

from demo_tickets import vocabulary as vocab
from demo_tickets.noise import add_noise

# Names the keys; what the labels mean is left to the training.
SYSTEM_PROMPT = f"Keys: {', '.join(vocab.KEYS)}."


Row = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Answer:
    """What the ticket says, in the order of the JSON keys."""

    product: str
    order: str
    quantity: int
    category: str
    urgency: str

    def as_json(self) -> str:
        """The assistant's turn."""
        values = (self.product, self.order, self.quantity, self.category, self.urgency)
        return json.dumps(dict(zip(vocab.KEYS, values, strict=True)))


def order_code(rng: random.Random) -> str:
    """A code in one of the shop's shapes, such as `D24472`."""
    shape = rng.choice(vocab.ORDER_SHAPES)
    if shape.startswith(("ORD", "WEB")):
        return shape[:3] + "".join(rng.choice("0123456789") if c == "9" else c for c in shape[3:])
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    return "".join(rng.choice("0123456789") if c == "9" else rng.choice(letters) if c == "A" else c for c in shape)


def random_answer(rng: random.Random) -> Answer:
    """Products, categories and urgencies are uniform, small quantities more frequent."""
    return Answer(
        product=rng.choice(list(vocab.PRODUCTS)),
        order=order_code(rng),
        quantity=rng.choice((1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)),
        category=rng.choice(vocab.CATEGORIES),
        urgency=rng.choice(vocab.URGENCIES),
    )


def _slots(rng: random.Random, a: Answer) -> dict[str, str]:
    one = a.quantity == 1
    noun = a.product if one else vocab.PRODUCTS[a.product]
    count = vocab.NUMBER_WORDS[a.quantity] if rng.random() < 0.4 else str(a.quantity)
    article = "an" if noun[0] in "aeiou" else "a"
    return {
        "qp": f"{article} {noun}" if one and rng.random() < 0.5 else f"{count} {noun}",
        "qp0": f"{count} {noun}",
        "p": a.product,
        "n": str(a.quantity),
        "o": a.order,
        "name": rng.choice(vocab.FIRST_NAMES),
        "it": "it" if one else "them",
        "They": "It" if one else "They",
        "they": "it" if one else "they",
        "is": "is" if one else "are",
        "has": "has" if one else "have",
        "does": "does" if one else "do",
    }


def _arrange(rng: random.Random, opening: str, request: str, urgency: str) -> list[str]:
    if rng.random() < 0.7:
        return [opening, request, urgency]
    return rng.choice(([opening, urgency, request], [urgency, opening, request], [request, opening, urgency]))


def _uncapitalized(sentence: str) -> str:
    """`sentence` as it goes on after "Hello,"."""
    first = sentence.split()[0]
    return (
        sentence[0].lower() + sentence[1:] if len(first) > 1 and first.isalpha() and first[1:].islower() else sentence
    )


def ticket_text(rng: random.Random, a: Answer, phrases: ModuleType) -> str:
    """A ticket that says `a` in the templates of `phrases` (`demo_tickets.phrases` or `phrases_unseen`)."""
    urgency = rng.choice(phrases.URGENCY[a.urgency])
    if a.urgency == "normal" and rng.random() < 0.35:
        urgency = ""
    parts = _arrange(rng, rng.choice(phrases.OPENINGS), rng.choice(phrases.CATEGORY[a.category]), urgency)
    parts = [part for part in parts if part]
    if rng.random() < 0.35:
        parts = [rng.choice(phrases.GREETINGS), _uncapitalized(parts[0]), *parts[1:]]
    if rng.random() < 0.25:
        parts.append(rng.choice(phrases.SIGN_OFFS))
    separator = "\n" if rng.random() < 0.06 else " "
    text = separator.join(parts).format(**_slots(rng, a))
    text = text[0].upper() + text[1:] if not text.startswith(a.order) else text
    protected = frozenset([*a.product.split(), *vocab.PRODUCTS[a.product].split(), *vocab.NUMBER_WORDS])
    return add_noise(rng, text, a.order, protected)


def messages(user: str, assistant: str) -> list[dict[str, str]]:
    """The turns of one row."""
    contents = {"system": SYSTEM_PROMPT, "user": user, "assistant": assistant}
    return [{"role": role, "content": content} for role, content in contents.items()]


def clean_rows(rng: random.Random, n: int, phrases: ModuleType) -> list[Row]:
    """`n` rows, no two with the same ticket."""
    seen: set[str] = set()
    rows: list[Row] = []
    while len(rows) < n:
        answer = random_answer(rng)
        text = ticket_text(rng, answer, phrases)
        if text.lower() not in seen:
            seen.add(text.lower())
            rows.append({"messages": messages(text, answer.as_json())})
    return rows
