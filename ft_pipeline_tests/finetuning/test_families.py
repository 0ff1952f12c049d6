"""Tiny models of the real architectures through both backends, from a 4-bit and from a 16-bit base."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest

from ft_pipeline_tests.finetuning.families import FAMILIES, LLAMA_LINEAR, PHI3_LINEAR, in_own_process

pytestmark = pytest.mark.slow

BACKENDS = ["unsloth", "trl"]
_CASES = [f"{family}-{bits}" for family in FAMILIES for bits in (4, 16)]
every_case = pytest.mark.parametrize("case", _CASES)
both_backends = pytest.mark.parametrize("backend", BACKENDS)


@cache
def _probe(backend: str) -> dict[str, Any]:
    found: dict[str, Any] = in_own_process("probe_families", backend=backend, families=list(FAMILIES))
    return found


@both_backends
@every_case
def test_the_loss_of_a_packed_row_is_its_loss_alone(backend: str, case: str) -> None:
    found = _probe(backend)[case]
    assert all(math.isfinite(loss) for loss in found["alone"])
    assert found["packed"] == pytest.approx(found["alone"], rel=1e-5)


@both_backends
@every_case
def test_a_packed_row_does_not_see_the_row_before_it(backend: str, case: str) -> None:
    found = _probe(backend)[case]
    assert found["packed_beside_another"] == pytest.approx(found["packed"][1:], rel=1e-6)


@both_backends
@every_case
def test_packed_and_padded_rows_give_the_same_gradients(backend: str, case: str) -> None:
    found = _probe(backend)[case]
    assert max(found["gradient_differences"]) < 1e-4


@both_backends
@every_case
def test_all_linear_layers_but_the_output_layer_learn_in_fp32(backend: str, case: str) -> None:
    found = _probe(backend)[case]
    assert found["targets"] == (PHI3_LINEAR if case.startswith("phi3") else LLAMA_LINEAR)
    assert found["without_gradient"] == []
    assert found["dtypes"] == ["torch.float32"]


@every_case
def test_both_backends_compute_the_same_losses(case: str) -> None:
    losses = [_probe(backend)[case]["alone"] for backend in BACKENDS]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_4_bit_base_is_another_model_than_a_16_bit_one(family: str) -> None:
    found = _probe("trl")
    assert found[f"{family}-4"]["alone"] != pytest.approx(found[f"{family}-16"]["alone"], rel=1e-5)
