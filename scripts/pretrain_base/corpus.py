"""The mixture: chat documents of all tasks, and plain text."""

import random
from collections.abc import Callable

from pretrain_base import drills, records
from pretrain_base.grammar import Speaker

Task = Callable[[random.Random], tuple[str, records.Turns]]
# Task -> share of the documents; the rest is plain text.
MIXTURE: dict[Task, float] = {
    records.described_record: 0.26,
    records.named_form: 0.20,
    records.shown_records: 0.09,
    records.label_only: 0.10,
    drills.repeat: 0.04,
    drills.find_code: 0.04,
    drills.look_up: 0.03,
    drills.pairs_to_json: 0.03,
    drills.from_json: 0.02,
    drills.singular: 0.04,
    drills.number_words: 0.02,
    drills.same_field: 0.03,
    drills.verb_forms: 0.01,
    drills.next_word: 0.02,
}
BOS, END = "<s>", "<|im_end|>"


def as_chat(system: str, turns: records.Turns) -> str:
    """The document as the chat template writes it."""
    text = BOS + (f"<|im_start|>system\n{system}{END}" if system else "")
    for user, assistant in turns:
        text += f"<|im_start|>user\n{user}{END}<|im_start|>assistant\n{assistant}{END}"
    return text


def sample_chat(rng: random.Random) -> tuple[str, records.Turns]:
    """One conversation of a random task."""
    task = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    return task(rng)


def document(rng: random.Random) -> str:
    """One training document, special tokens included."""
    if rng.random() < sum(MIXTURE.values()):
        return as_chat(*sample_chat(rng))
    return BOS + Speaker(rng).paragraph(rng.randint(3, 9)) + "</s>"
