"""Free text -> JSON with arbitrary keys; labels are defined in the prompt or to be learned from examples."""

import json
import random
from dataclasses import dataclass
from functools import cache

from pretrain_base.grammar import Cue, Speaker
from pretrain_base.keys import KINDS_IN_WORDS, is_plain, key_name
from pretrain_base.labels import Labels, describe_labels, fixed_labels, random_labels
from pretrain_base.layouts import Facts, random_facts, text_of
from pretrain_base.lexicon import invented

Turns = list[tuple[str, str]]
FORMS = 120


@dataclass(frozen=True)
class Schema:
    """What a record holds: (key, kind) in the sequence of the JSON, and the label sets by key."""

    columns: tuple[tuple[str, str], ...]
    labels: dict[str, Labels]

    def kinds(self) -> set[str]:
        """The kinds of value that the text must say."""
        return {kind for _, kind in self.columns}


def random_schema(rng: random.Random, label_sets: int, fixed_share: float = 0.3) -> Schema:
    """Two to five plain columns and `label_sets` label columns; `fixed_share` of these are the ones known by heart."""
    kinds = rng.sample(["thing", "count", "code"], rng.choice((2, 3, 3, 3)))
    kinds += rng.sample(["person", "place", "day"], rng.choice((0, 0, 0, 1, 2)))
    columns: dict[str, str] = {}
    labels: dict[str, Labels] = {}
    for kind in kinds + ["label"] * label_sets:
        fresh = rng.choice(fixed_labels()) if rng.random() < fixed_share else random_labels(rng)
        key = fresh.key if kind == "label" else key_name(rng, kind)
        while key in columns:
            key = key_name(rng, kind)
            fresh = random_labels(rng)
        columns[key] = kind
        if kind == "label":
            labels[key] = fresh
    items = list(columns.items())
    rng.shuffle(items)
    return Schema(tuple(items), labels)


@cache
def forms() -> dict[str, Schema]:
    """Schemas known by heart, by the name of the form: what an instruction would say, the model has to remember."""
    rng = random.Random(4711)
    return {invented(rng): random_schema(rng, rng.choice((1, 2, 2)), fixed_share=0.5) for _ in range(FORMS)}


def describe(rng: random.Random, schema: Schema) -> str:
    """The instruction that names the keys, with what they mean where the name does not say it."""
    named = []
    for key, kind in schema.columns:
        plain = kind == "label" or (is_plain(key, kind) and rng.random() < 0.8)
        named.append(key if plain else f"{key} ({rng.choice(KINDS_IN_WORDS[kind])})")
    keys = ", ".join(named)
    head = rng.choice((
        f"Answer in JSON: {keys}.", f"Keys: {keys}.", f"Read the note and write JSON with {keys}.", f"Make a record of {keys}.",
        f"Fill in {keys}.", f"JSON with the keys {keys}.", f"From the text take {keys}.", f"Write down {keys} as JSON.",
        "Form: {" + ", ".join(f'"{n}": ...' for n in named) + "}", f"You turn notes into JSON. Keys: {keys}.",
    ))  # fmt: skip
    return " ".join(
        [head, *(describe_labels(rng, k, labels) for k, labels in schema.labels.items() if not labels.fixed)]
    )


def example(rng: random.Random, schema: Schema) -> tuple[str, str]:
    """A text and its record."""
    drawn = {key: labels.draw(rng) for key, labels in schema.labels.items()}
    facts = random_facts(rng, [cue for _, cue in drawn.values()])
    record = {k: drawn[k][0] if kind == "label" else _value(facts, kind) for k, kind in schema.columns}
    return text_of(rng, facts, schema.kinds()), json.dumps(record, ensure_ascii=False)


def _value(facts: Facts, kind: str) -> str | int:
    value: str | int = getattr(facts, kind)
    return value


def described_record(rng: random.Random) -> tuple[str, Turns]:
    """One to two texts under an instruction. Returns the system turn ("" for none) and the turns."""
    schema = random_schema(rng, rng.choice((0, 1, 1, 2)))
    instruction = describe(rng, schema)
    turns = [example(rng, schema) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.5:
        return instruction, turns
    first, rest = turns[0], turns[1:]
    asked = f"{instruction}\n{first[0]}" if rng.random() < 0.6 else f"{first[0]}\n{instruction}"
    return "", [(asked, first[1]), *rest]


def shown_records(rng: random.Random) -> tuple[str, Turns]:
    """Three to five texts with their records and no instruction: the schema is to be learned from the first ones."""
    schema = random_schema(rng, rng.choice((0, 1, 1, 2)))
    schema = Schema(schema.columns, {k: random_labels(rng, 3) for k in schema.labels})
    return "", [example(rng, schema) for _ in range(rng.randint(3, 5))]


def named_form(rng: random.Random) -> tuple[str, Turns]:
    """A text under the bare name of a form: columns and labels are known by heart."""
    name = rng.choice(list(forms()))
    schema = forms()[name]
    turns = [example(rng, schema) for _ in range(rng.choice((1, 1, 1, 2)))]
    if rng.random() < 0.5:
        return rng.choice((f"Form {name}.", name, f"Use the form {name}.")), turns
    return "", [(f"{name}: {turns[0][0]}", turns[0][1]), *turns[1:]]


def label_only(rng: random.Random) -> tuple[str, Turns]:
    """Bare classification: by a definition in the prompt, or by the key of a label set known by heart."""
    labels = rng.choice(fixed_labels()) if rng.random() < 0.5 else random_labels(rng)
    rule = f"{labels.key}?" if labels.fixed else describe_labels(rng, labels.key, labels)
    turns = []
    for _ in range(rng.randint(1, 4)):
        label, cue = labels.draw(rng)
        facts = random_facts(rng, [cue])
        turns.append((text_of(rng, facts, set()) if rng.random() < 0.4 else _bare_text(rng, cue), label))
    return rule, turns


def _bare_text(rng: random.Random, cue: Cue | None) -> str:
    say = Speaker(rng)
    if cue is None:
        return rng.choice(("Well.", "Hm, so what.", "Yes.", "So it goes."))
    return " ".join(say.about(cue) for _ in range(rng.randint(1, 2)))
