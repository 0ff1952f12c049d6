from __future__ import annotations

import json
import random
import re
from itertools import chain
from pathlib import Path

import pytest
from demo_tickets import phrases, phrases_unseen, vocabulary
from demo_tickets.dirty import DIRTY_ROWS
from demo_tickets.files import tickets_jsonl, unseen_phrasings_jsonl
from pretrain_base import corpus, lexicon

from ft_pipeline.base_model import open_base, read_config, size_of_weights
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.recipe import BaseModelSection


def test_the_generator_writes_the_tracked_files(project: Path) -> None:
    assert (project / "data/raw/tickets.jsonl").read_text(encoding="utf-8") == tickets_jsonl()
    assert (project / "data/test_sets/unseen_phrasings.jsonl").read_text(encoding="utf-8") == unseen_phrasings_jsonl()


def test_another_seed_writes_other_rows() -> None:
    assert tickets_jsonl(1) != tickets_jsonl(2)


def test_the_card_says_how_many_dirty_rows_there_are(project: Path) -> None:
    card = (project / "data/raw/README.md").read_text(encoding="utf-8")
    found = [int(count) for count in re.findall(r"^\| [^|]+\| (\d+) \|", card.split("## Dirty rows")[1], re.MULTILINE)]
    assert sorted(found) == sorted(DIRTY_ROWS.values())


def _templates(module: object) -> set[str]:
    groups = chain(module.CATEGORY.values(), module.URGENCY.values())  # type: ignore[attr-defined]
    return set(chain(module.OPENINGS, *groups))  # type: ignore[attr-defined]


def test_unseen_phrasings_share_no_template_with_the_training_rows() -> None:
    assert not _templates(phrases) & _templates(phrases_unseen)


DEMO_WORDS = {
    *vocabulary.KEYS,
    *vocabulary.CATEGORIES,
    *vocabulary.URGENCIES,
    *vocabulary.PRODUCTS,
    *vocabulary.PRODUCTS.values(),
}


@pytest.fixture(scope="module")
def pretraining_text() -> str:
    rng = random.Random(0)
    return "\n".join(corpus.document(rng) for _ in range(4000)).casefold()


def test_no_product_key_or_label_of_the_demo_is_in_the_pretraining_text(pretraining_text: str) -> None:
    found = [word for word in DEMO_WORDS if re.search(rf"\b{re.escape(word)}\b", pretraining_text)]
    assert found == []


def test_no_word_list_of_the_pretraining_holds_a_product_key_or_label_of_the_demo() -> None:
    assert not DEMO_WORDS & set(lexicon.all_words())
    assert not DEMO_WORDS & set(lexicon.all_nouns())


def test_no_sentence_template_of_the_demo_is_in_the_pretraining_text(pretraining_text: str) -> None:
    for template in _templates(phrases) | _templates(phrases_unseen):
        fixed = max(re.split(r"\{\w+\}", template), key=len).strip(" .,!?").casefold()
        assert len(fixed.split()) < 4 or fixed not in pretraining_text, template


def test_the_base_is_small_16_bit_and_quantizable(project: Path) -> None:
    folder = project / "data/base_model"
    open_base(BaseModelSection(source="data/base_model"), project)
    architecture = read_architecture(read_config(folder))
    parameters = architecture.total_parameters
    assert 3e6 <= parameters <= 8e6
    assert abs(size_of_weights(folder) - 2 * parameters) < 10_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16e6
    assert all(columns % 256 == 0 for _, columns in architecture.linears.values())
    assert not [path for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_the_template_writes_one_bos_and_ends_every_turn(project: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(project / "data/base_model")
    for line in (project / "data/test_sets/unseen_phrasings.jsonl").read_text(encoding="utf-8").splitlines()[:50]:
        messages = json.loads(line)["messages"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert text.startswith("<s>")
        assert text.count("<s>") == 1
        assert text.count("<|im_end|>") == len(messages)
