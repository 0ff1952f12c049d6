"""Near duplicates, compared with what all pairs of texts say one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ft_pipeline.datasets import near_duplicates
from ft_pipeline.datasets.near_duplicates import Nearest, find_nearest, jaccard
from ft_pipeline.datasets.set_join import find_alike
from ft_pipeline.datasets.shingles import Shingler
from ft_pipeline.datasets.signatures import sign
from ft_pipeline.recipe import NearDuplicatesSection

SETTINGS = NearDuplicatesSection()
SPARE_WORDS = [f"word{number}" for number in range(4000)]


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))}


def _index(left: str, right: str) -> float:
    a, b = _shingles(left), _shingles(right)
    return len(a & b) / len(a | b)


def _nearest(texts: Sequence[str], fixed: int = 0) -> Nearest:
    raw = [text.encode() for text in texts]

    def read(numbers: NDArray[np.int64]) -> dict[int, bytes]:
        return {number: raw[number] for number in numbers.tolist()}

    return find_nearest(sign(raw, Shingler(5)), fixed, read, SETTINGS)


def _edit(text: str, draw: random.Random, edits: int = 1) -> str:
    words = text.split()
    for _ in range(edits):
        words[draw.randrange(len(words))] = draw.choice(SPARE_WORDS)
    return " ".join(words)


def _families(shared: int, own: int, count: int, draw: random.Random) -> list[str]:
    """Texts that all begin with the same words; each third is one before it but for a word."""
    prefix = draw.sample(SPARE_WORDS, shared)
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 2:
            texts.append(_edit(draw.choice(texts), draw))
        else:
            texts.append(" ".join([*prefix, *draw.sample(SPARE_WORDS, own)]))
    return texts


@pytest.mark.parametrize(("shared", "own"), [(0, 60), (80, 20), (200, 40), (100, 20), (30, 90)])
def test_no_row_that_stays_is_near_to_another_however_much_all_of_them_share(shared: int, own: int) -> None:
    texts = _families(shared, own, 330, random.Random(shared))
    nearest = _nearest(texts)
    stays = [row for row in range(len(texts)) if nearest.of[row] == row]
    near = [(a, b) for a, b in combinations(stays, 2) if _index(texts[a], texts[b]) >= SETTINGS.threshold]
    assert near == []
    assert 200 <= len(stays) < 330


def _prefixes(count: int, draw: random.Random) -> list[str]:
    """Beginnings of one text, so that each is near to the next and far from most."""
    words = draw.sample(SPARE_WORDS, 400)
    return [" ".join(words[: draw.randrange(60, 400)]) for _ in range(count)]


@pytest.mark.parametrize("fixed", [0, 60])
@pytest.mark.parametrize("kind", ["shared", "prefixes"])
@pytest.mark.parametrize("joins", [1, 12])
def test_no_row_that_stays_is_near_to_a_fixed_one_in_a_crowd(
    kind: str, fixed: int, joins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_MOST_JOINS", joins)
    draw = random.Random(11)
    texts = _families(80, 20, 300, draw) if kind == "shared" else _prefixes(300, draw)
    draw.shuffle(texts)
    nearest = _nearest(texts, fixed)
    stays = [row for row in range(len(texts)) if nearest.of[row] == row]
    near = [(a, b) for a, b in combinations(stays, 2) if b >= fixed and _index(texts[a], texts[b]) >= 0.8]
    assert near == []
    assert stays[:fixed] == list(range(fixed))


def test_a_row_goes_only_for_one_that_stays_and_is_near_to_it() -> None:
    draw = random.Random(5)
    chain = [" ".join(draw.sample(SPARE_WORDS, 100))]
    for _ in range(12):
        chain.append(_edit(chain[-1], draw, 2))
    nearest = _nearest(chain)
    gone = [row for row in range(len(chain)) if nearest.of[row] != row]
    assert gone
    for row in gone:
        of = int(nearest.of[row])
        assert nearest.of[of] == of < row
        assert nearest.similarity[row] == pytest.approx(_index(chain[row], chain[of]))
        assert nearest.similarity[row] >= SETTINGS.threshold
    assert _index(chain[0], chain[-1]) < SETTINGS.threshold
    assert len(gone) < len(chain) - 1


def test_many_copies_of_one_text_cost_no_square_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(6)
    text = " ".join(draw.sample(SPARE_WORDS, 120))
    texts = [text, *(_edit(text, draw) for _ in range(3000))]
    compared: list[int] = []
    plain = near_duplicates._Search.compare

    def count(search: near_duplicates._Search, pairs: NDArray[np.int64]) -> None:
        compared.append(len(pairs))
        plain(search, pairs)

    monkeypatch.setattr(near_duplicates._Search, "compare", count)
    nearest = _nearest(texts)
    assert (nearest.of == 0).sum() > 2900
    assert sum(compared) < 30 * len(texts)


def test_fixed_rows_stay_whatever_they_are_near_to() -> None:
    draw = random.Random(7)
    text = " ".join(draw.sample(SPARE_WORDS, 80))
    nearest = _nearest([text, _edit(text, draw), _edit(text, draw)], fixed=2)
    assert nearest.of.tolist() == [0, 1, 0]


WIDE = [
    "数据集训练模型的方法很重要，需要认真检查每一行内容",
    "ข้อมูลฝึกสอนแบบจำลองต้องตรวจสอบทุกแถวอย่างละเอียด",
    "データを検査することはとても大切です。毎日すべて確認します",
]


@pytest.mark.parametrize("text", WIDE)
def test_scripts_without_blanks_have_words_too(text: str) -> None:
    long = text * 2 + text[::-1] * 2
    changed = long[:40] + "字" + long[41:]
    assert _nearest([long, changed, text[::-1] * 4 + "別"]).of.tolist() == [0, 0, 2]


def test_operators_tell_formulas_apart() -> None:
    formulas = [f"is x {sign} y and then z {sign} w of it" for sign in "<>=+-*/"]
    assert _nearest(formulas).of.tolist() == list(range(7))
    assert _nearest(["What, is it? Say so now!", "what is it say so NOW"]).of.tolist() == [0, 0]


_words = st.lists(st.sampled_from(["a", "b", "c", "<", "é", "日", "x1"]), min_size=1, max_size=14).map(" ".join)


@given(st.lists(_words, min_size=2, max_size=12), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@settings(max_examples=150)
def test_the_join_finds_all_pairs_that_reach_the_threshold(texts: list[str], threshold: float) -> None:
    rows = np.arange(len(texts)) * 7 + 3
    by_row = dict(zip(rows.tolist(), texts, strict=True))
    found = find_alike(
        rows, lambda numbers: {n: by_row[n].encode() for n in numbers.tolist()}, Shingler(5), threshold, slab=5
    )
    assert {(a, b) for a, b in combinations(rows.tolist(), 2) if _index(by_row[a], by_row[b]) >= threshold} <= set(
        map(tuple, found.tolist())
    )
    assert all(a < b for a, b in found.tolist())


@given(st.lists(_words, min_size=2, max_size=8))
def test_the_index_is_that_of_the_sets(texts: list[str]) -> None:
    pairs = np.array(list(combinations(range(len(texts)), 2)))
    expected = [_index(texts[a], texts[b]) for a, b in pairs.tolist()]
    assert jaccard(pairs, {n: text.encode() for n, text in enumerate(texts)}, SETTINGS).tolist() == pytest.approx(
        expected
    )


def test_of_no_rows_there_are_none() -> None:
    assert _nearest([]).of.tolist() == []
