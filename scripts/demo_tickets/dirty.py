"""Rows that a pipeline must catch: what people's exports look like before anybody has cleaned them."""

import copy
import json
import random

from demo_tickets import phrases
from demo_tickets.tickets import Row, random_answer, ticket_text

# Kind -> how many lines of `tickets.jsonl` are of it.
DIRTY_ROWS: dict[str, int] = {
    "duplicate": 15,
    "empty_user": 5,
    "empty_assistant": 5,
    "broken_json": 8,
    "assistant_first": 4,
    "two_users": 4,
    "unknown_role": 4,
    "too_long": 8,
    "fake_aws_key": 4,
    "fake_private_key": 3,
}

# Put together from pieces, so that secret scanners report the data file alone and not this one.
FAKE_AWS_KEY = "AKIA" + "FAKEDEMO0NOTAKEY"
FAKE_PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nFAKE+DEMO+NOT+A+KEY\n-----END RSA " + "PRIVATE KEY-----"


def _turn(row: Row, role: str) -> dict[str, str]:
    found: dict[str, str] = next(m for m in row["messages"] if m["role"] == role)
    return found


def _long_text(rng: random.Random, row: Row) -> str:
    text = str(_turn(row, "user")["content"])
    while len(text.split()) < 700:
        text += " " + ticket_text(rng, random_answer(rng), phrases)
    return text


def _spoil(rng: random.Random, kind: str, row: Row) -> None:
    """Change the fresh row in place into one of `kind`."""
    user, assistant = _turn(row, "user"), _turn(row, "assistant")
    if kind == "empty_user":
        user["content"] = rng.choice(("", "  "))
    elif kind == "empty_assistant":
        assistant["content"] = ""
    elif kind == "assistant_first":
        row["messages"].remove(assistant)
        row["messages"].insert(row["messages"].index(user), assistant)
    elif kind == "two_users":
        row["messages"].insert(row["messages"].index(user), {"role": "user", "content": "Hello?"})
    elif kind == "unknown_role":
        assistant["role"] = "bot"
    elif kind == "too_long":
        user["content"] = _long_text(rng, row)
    elif kind == "fake_aws_key":
        user["content"] += f" My login for your shop is {FAKE_AWS_KEY}."
    elif kind == "fake_private_key":
        user["content"] += f"\nI pasted what the installer showed:\n{FAKE_PRIVATE_KEY}"


def dirty_lines(rng: random.Random, clean: list[Row], fresh: list[Row]) -> list[str]:
    """One line for each dirty row: duplicates of `clean`, everything else made from rows of `fresh`."""
    lines: list[str] = []
    source = iter(fresh)
    for kind, count in DIRTY_ROWS.items():
        for original in rng.sample(clean, count) if kind == "duplicate" else [next(source) for _ in range(count)]:
            row = copy.deepcopy(original)
            _spoil(rng, kind, row)
            line = json.dumps(row, ensure_ascii=False)
            lines.append(line[: rng.randrange(30, len(line) - 5)] if kind == "broken_json" else line)
    return lines
