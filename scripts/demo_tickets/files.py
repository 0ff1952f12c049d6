"""The two files of the demo task, as text."""

import json
import random

from demo_tickets import phrases, phrases_unseen
from demo_tickets.dirty import DIRTY_ROWS, dirty_lines
from demo_tickets.tickets import clean_rows

SEED = 20251
CLEAN_ROWS = 2440
UNSEEN_ROWS = 200


def tickets_jsonl(seed: int = SEED) -> str:
    """`tickets.jsonl`: clean rows with the dirty ones scattered among them; a duplicate comes after its original."""
    rng = random.Random(seed)
    rows = clean_rows(rng, CLEAN_ROWS + sum(DIRTY_ROWS.values()), phrases)
    clean, fresh = rows[:CLEAN_ROWS], rows[CLEAN_ROWS:]
    lines = [json.dumps(row, ensure_ascii=False) for row in clean]
    for line in dirty_lines(rng, clean, fresh):
        first = lines.index(line) + 1 if line in lines else 0
        lines.insert(rng.randrange(first, len(lines) + 1), line)
    return "".join(line + "\n" for line in lines)


def unseen_phrasings_jsonl(seed: int = SEED) -> str:
    """`unseen_phrasings.jsonl`: clean rows in templates that `tickets.jsonl` never uses."""
    rng = random.Random(seed + 1)
    rows = clean_rows(rng, UNSEEN_ROWS, phrases_unseen)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
