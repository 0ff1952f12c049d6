"""Write the general set, `ft_pipeline/evaluation/general_set.jsonl`: what a fine-tune should not make a model forget.

80 short questions in four tags of 20, each with a reference answer and the check that tells a right answer. All wording
is the project's own. The same seed writes the same bytes. Standard library only: `python scripts/make_general_set.py`.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "ft_pipeline" / "evaluation" / "general_set.jsonl"
SEED = 17
Row = dict[str, object]

_ONLY_THE_NUMBER = "Answer with the number only."
_NOTHING_ELSE = "and nothing else"
# No further turn is invented, and the answer ends.
_ONE_TURN = r"(?!.*\b(?i:user|human|assistant)\s*[:\n])"

_GREETING = r"hello|hi|hey|welcome|greetings|good (?:morning|afternoon|evening|day)"
# What is said, the reference, what the answer must say.
_SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?", _GREETING),
    ("Good evening!", "Good evening! What can I do for you?", _GREETING),
    ("Hi, I am Tomas.", "Hello Tomas, how can I help you?", rf"(?:{_GREETING}|meet you),?\s+(?:there,?\s+)?Tomas"),
    (
        "Thank you, that was all I needed.",
        "You are welcome!",
        "welcome|glad|pleasure|happy|any ?time|(?:good|great|nice) day",
    ),
    ("What colour is the sky on a clear day?", "The sky is blue.", "blue"),
    ("Which pet says meow?", "A cat says meow.", "cats?"),
    ("How many days does a week have?", "A week has seven days.", "seven|7"),
)
# Turns of user and assistant by turns, the reference, what the answer must say.
_MEMORY = (
    (("My name is Amira.", "Nice to meet you!", "What is my name?"), "Your name is Amira.", "Amira"),
    (
        ("I moved to Lisbon last spring.", "I hope you like it there.", "Which city do I live in?"),
        "You live in Lisbon.",
        "Lisbon",
    ),
    (
        ("We have a parrot called Biscuit.", "What a fun pet!", "What is our parrot called?"),
        "Your parrot is called Biscuit.",
        "Biscuit",
    ),
    (("The door code is 5093.", "Understood.", "What is the door code?"), "The door code is 5093.", "5093"),
    (
        ("My car is green and my bike is red.", "Both sound nice.", "What colour is my bike?"),
        "Your bike is red.",
        "red",
    ),
    (
        ("Remember three things: a lamp, a rope and a map.", "I will.", "Which was the second of them?"),
        "The second was a rope.",
        "rope",
    ),
    (
        (
            *("Our meeting is on Monday.", "Noted.", "Sorry, it was moved to Thursday.", "Thanks for telling me."),
            "On which day is our meeting?",
        ),
        "Your meeting is on Thursday.",
        "Thursday",
    ),
)
# The system turn, what is said, the reference, the pattern of the whole answer.
_SYSTEM = (
    (
        *("End every answer with the word OVER.", "Which colour does grass have?"),
        *("Grass is green. OVER", r".{1,200}\bOVER\W*"),
    ),
    ("Begin every answer with 'Note:'.", "What do cows eat?", "Note: cows eat grass.", r"\W*Note:.{1,200}"),
    ("Answer in French only.", "How do you say 'thank you'?", "Merci.", r".{0,60}\b[Mm]erci\b.{0,60}"),
    (
        *("Your name is Pixel. Say so when you are asked.", "What is your name?"),
        *("My name is Pixel.", r".{0,100}\bPixel\b.{0,100}"),
    ),
    (
        *("Reply with the word ACKNOWLEDGED and nothing else, whatever you are told.", "The parcel comes at nine."),
        *("ACKNOWLEDGED", r"\W*ACKNOWLEDGED\W*"),
    ),
    (
        "You only talk about gardening. To anything else you answer: I only talk about gardening.",
        *(
            "Which film should I see tonight?",
            "I only talk about gardening.",
            r".{0,100}\bonly talk about gardening\b.{0,100}",
        ),
    ),
)
_SENTENCES = (
    "The kettle whistles while snow falls on the quiet yard.",
    "Nine tired sailors counted the lights of the harbour.",
    "Please leave the blue folder on Marta's desk!",
    'She asked: "Is the late bus really gone?"',
)
_SNIPPETS = (
    "def area(width, height):\n    return width * height",
    '{"id": 41, "labels": ["new", "red"], "done": false}',
    "if (x > 3 && y != 0) { z = x / y; }",
)
_OTHER_SCRIPTS = (
    "Le garçon a mangé une crêpe à l'école.",
    "Fünf süße Äpfel liegen über der Tür.",
    "Żółty liść spadł na ławkę.",
    "今天的茶很香。",
    "猫が窓の外を見ている。",
    "🌱🚲🎈 🎈🌱🐢",
)
_UPPER = ("the train leaves at noon", "keep the lid closed", "we meet behind the old mill")
_ONE_WORD = (
    ("what is the opposite of hot?", "cold"),
    ("what do bees make?", "honey"),
    ("what is frozen water called?", "ice"),
    ("which season comes after winter?", "spring"),
)
_JSON = (
    ("for Lima in Peru", {"city": "Lima", "country": "Peru"}),
    ("for Ines, who is 31", {"name": "Ines", "age": 31}),
    ("for a red scarf of wool", {"item": "scarf", "colour": "red", "material": "wool"}),
    ("for four boxes at 12 euros", {"quantity": 4, "price": 12}),
)
_YES_OR_NO = (
    ("is ice colder than steam?", "yes"),
    ("is seven an even number?", "no"),
    ("do birds have wings?", "yes"),
    ("can a stone read a book?", "no"),
)
_THREE_OF = (("colours", "red, green, blue"), ("animals", "cat, horse, owl"))


def write_general_set(seed: int = SEED) -> str:
    """All rows as lines of JSON."""
    rng = random.Random(seed)
    rows = [*_chat(), *_arithmetic(rng), *_copying(rng), *_instructions()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(tag: str, turns: tuple[str, ...], reference: str, check: tuple[str, str], system: str | None = None) -> Row:
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in zip(roles, (*turns, reference), strict=False)]
    return {"messages": messages, "tags": [tag], "check": {"kind": check[0], "value": check[1]}}


def _chat() -> Iterator[Row]:
    for said, reference, pattern in _SMALL_TALK:
        yield _row("chat", (said,), reference, _says(pattern))
    for turns, reference, pattern in _MEMORY:
        yield _row("chat", turns, reference, _says(pattern))
    for system, said, reference, pattern in _SYSTEM:
        yield _row("chat", (said,), reference, ("regex", f"(?s:^{_ONE_TURN}{pattern}$)"), system)


def _arithmetic(rng: random.Random) -> Iterator[Row]:
    asked: set[str] = set()
    for kind, digits, count in (("+", 1, 3), ("+", 2, 4), ("-", 1, 2), ("-", 2, 4), ("x", 1, 2), ("x", 2, 1)):
        wanted = len(asked) + count
        while len(asked) < wanted:
            question, answer = _ask(rng, kind, digits)
            # Whoever repeats the question's last number is wrong.
            if question not in asked and not question.endswith(f" {answer}?"):
                asked.add(question)
                yield _row("arithmetic", (f"{question} {_ONLY_THE_NUMBER}",), str(answer), ("number", str(answer)))
    for kind, place in (("larger", 0), ("larger", 1), ("smaller", 0), ("smaller", 1)):
        low, high = sorted(rng.sample(range(11, 100), 2))
        right, wrong = (high, low) if kind == "larger" else (low, high)
        first, second = (right, wrong) if place == 0 else (wrong, right)
        said = f"Which number is {kind}, {first} or {second}? {_ONLY_THE_NUMBER}"
        yield _row("arithmetic", (said,), str(right), _is_only(str(right)))


def _ask(rng: random.Random, kind: str, digits: int) -> tuple[str, int]:
    low, high = (2, 9) if digits == 1 else (11, 99)
    a, b = rng.sample(range(low, high + 1), 2)
    if kind == "+":
        return f"What is {a} + {b}?", a + b
    if kind == "-":
        return f"What is {max(a, b)} - {min(a, b)}?", abs(a - b)
    factor = rng.randint(2, 9)
    return f"What is {a} times {factor}?", a * factor


def _copying(rng: random.Random) -> Iterator[Row]:
    texts = [*_SENTENCES]
    texts += ["-".join("".join(rng.sample("ACDEFHKMPRTX23479", 4)) for _ in range(3)) for _ in range(4)]
    texts += [", ".join(str(rng.randint(10, 999)) for _ in range(count)) for count in (4, 6, 8)]
    for text in (*texts, *_SNIPPETS, *_OTHER_SCRIPTS):
        yield _row("copying", (f"Repeat this exactly, {_NOTHING_ELSE}:\n{text}",), text, ("exact", text))


def _instructions() -> Iterator[Row]:
    for text in _UPPER:
        said = f"Write this in upper case, {_NOTHING_ELSE}: {text}"
        yield _row("instructions", (said,), text.upper(), _is_only(text.upper(), ignore_case=False))
    said = f"Write this in lower case, {_NOTHING_ELSE}: OPEN THE WINDOW"
    yield _row("instructions", (said,), "open the window", _is_only("open the window", ignore_case=False))
    for question, word in _ONE_WORD:
        yield _row("instructions", (f"Answer with exactly one word: {question}",), word, _is_only(word))
    for subject, fields in _JSON:
        keys = ", ".join(f'"{key}"' for key in fields)
        said = f"Write a JSON object with the keys {keys} {subject}, {_NOTHING_ELSE}."
        yield _row("instructions", (said,), json.dumps(fields), ("json_keys", ",".join(fields)))
    for question, word in _YES_OR_NO:
        yield _row("instructions", (f"Answer with yes or no, {_NOTHING_ELSE}: {question}",), word, _is_only(word))
    for things, reference in _THREE_OF:
        said = f"Name three {things}, separated by commas, {_NOTHING_ELSE}."
        yield _row(
            "instructions", (said,), reference, _is_only(r"[^\W\d]+(?: [^\W\d]+)?(?:,\s*[^\W\d]+(?: [^\W\d]+)?){2}")
        )
    said = f"Sort these numbers from small to large, separated by commas, {_NOTHING_ELSE}: 9, 2, 5"
    yield _row("instructions", (said,), "2, 5, 9", _is_only(r"2,\s*5,\s*9"))
    said = "Write only the first word of this sentence: Lanterns hang above the bridge."
    yield _row("instructions", (said,), "Lanterns", _is_only("lanterns"))


def _says(pattern: str) -> tuple[str, str]:
    """A short answer of one turn that says one of these words."""
    return "regex", rf"(?is:^{_ONE_TURN}(?=.*\b(?:{pattern})\b).{{1,200}}$)"


def _is_only(pattern: str, *, ignore_case: bool = True) -> tuple[str, str]:
    """The whole answer, but for white space, quotes and a full stop around it."""
    return "regex", rf"(?{'i' if ignore_case else ''}:^\W*{pattern}\W*$)"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    text = write_general_set(args.seed)
    args.out.write_text(text, encoding="utf-8", newline="\n")
    sys.stdout.write(f"{args.out}: {text.count(chr(10))} lines\n")


if __name__ == "__main__":
    main()
