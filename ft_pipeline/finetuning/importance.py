"""How much each input column of a linear layer matters: its mean square over tokens that the trained model reads.

It is llama.cpp's importance matrix (tools/imatrix/imatrix.cpp), taken while the model is in memory anyway. As in that
tool all tokens of a row count, not only those that are learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.finetuning.schedule import Rows
from ft_pipeline.finetuning.step_runner import Batches, StepRunner

IMPORTANCE_FILE = "importance.safetensors"
# The entry of its header that says over how much.
MEASURED = "measured"
# What PEFT puts around a module that it adapts or trains whole, and what lies there beside that module.
_WRAPPER = re.compile(r"\.base_layer|\.modules_to_save\.default")
_BESIDE = re.compile(r"\.lora_|\.original_module")
_IN_LAYER = re.compile(r"\.\d+\.")
# Copies of a layer's inputs in fp32 stay small beside what the layer itself takes.
_TOKENS_AT_ONCE = 512
_SHOWN = 3


@dataclass(frozen=True)
class Importance:
    """What one pass over some rows has found.

    Attributes:
        values: float32 [columns] of each matrix, by the name of its tensor in the merged model.
        tokens: Tokens that were read.
        rows: Rows that they are from.
    """

    values: Mapping[str, npt.NDArray[np.float32]]
    tokens: int
    rows: int


def measure_importance(
    model: Any,
    runner: StepRunner,
    loss_of: Callable[[dict[str, Any], int], Any],
    tokens: int,
    tell: Callable[[str], None],
) -> Importance:
    """Let the model read the first training rows once more, dropout off, and look at what its linear layers are given.

    A stop may end it anywhere: no weight changes, and the last step's checkpoint is written before.

    Args:
        model: A PEFT model.
        runner: Knows the rows and the layout.
        loss_of: A micro-batch's share of the loss: what has just gone through the device also goes through it now.
        tokens: Rows are read until they are so many.
        tell: Told of matrices that the hooks do not see.

    Raises:
        MemoryBudgetError: the smallest micro-batch does not fit.
    """
    import torch

    lengths = runner.batches.table.lengths
    rows, watched = choose_rows(lengths, tokens), find_matrices(model)
    model.eval()
    try:
        with torch.no_grad(), runner.batches.backend.plain_layers(model):
            squares = runner.with_less_until_it_fits(model, lambda: _read_rows(runner, rows, watched, loss_of))
    finally:
        model.train()
    values = squares.means()
    _tell_of_missing(sorted({*watched.linear, *watched.others, watched.head} - set(values)), tell)
    return Importance(values, int(sum(lengths[row] for row in rows)), len(rows))


def write_importance(folder: Path, importance: Importance) -> None:
    """Write it beside the adapter."""
    from safetensors.numpy import save_file

    # One entry: safetensors writes several in an order that is another one each time.
    measured = json.dumps({"tokens": importance.tokens, "rows": importance.rows})
    save_file(dict(importance.values), folder / IMPORTANCE_FILE, metadata={MEASURED: measured})


def choose_rows(lengths: Sequence[int] | npt.NDArray[np.int64], tokens: int) -> Rows:
    """The first rows that are at least so many tokens, or all."""
    ends = np.cumsum(np.asarray(lengths, np.int64))
    return tuple(range(min(len(ends), int(np.searchsorted(ends, tokens)) + 1)))


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model that are quantized, by the names of their tensors in the merged model.

    Attributes:
        linear: The linear layers of the decoder layers.
        others: Names of matrices that are no linear layer, such as experts that lie in one tensor.
        decoder: All up to the output head, which is given what this returns: fused losses do not call the head.
        head: The output head's name.
    """

    linear: Mapping[str, Any]
    others: frozenset[str]
    decoder: Any
    head: str


def find_matrices(model: Any) -> Matrices:
    """Look through a model of transformers, with an adapter of PEFT on it or without."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, output = base.get_decoder(), base.get_output_embeddings()
    # The text's part of a base that also reads images.
    inside = next(name for name, module in base.named_modules() if module is decoder)
    linear, others, head = {}, set(), ""
    for path, module in base.named_modules():
        name = _WRAPPER.sub("", path)
        if module is output:
            head = f"{name}.weight"
        if not path.startswith(inside) or not _IN_LAYER.search(path) or _BESIDE.search(path):
            continue
        if isinstance(module, torch.nn.Linear):
            linear[f"{name}.weight"] = module
        else:
            own = module.named_parameters(recurse=False)
            others |= {f"{name}.{kind}" for kind, weight in own if weight.ndim > 1}
    return Matrices(linear, frozenset(others), decoder, head)


@dataclass
class Squares:
    """Squares of inputs, added up in fp64.

    Attributes:
        lengths: Tokens of each row of the micro-batch under way; padding lies behind them.
        sums: [columns] of each matrix.
        tokens: How many were added to each.
    """

    lengths: list[int] = field(default_factory=list)
    sums: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, states: Any) -> None:
        """States: [rows, tokens, columns]. What is laid out otherwise is left out, and told of at the end."""
        if states.ndim != 3 or states.shape[0] != len(self.lengths) or states.shape[1] < max(self.lengths):
            return
        for row, length in enumerate(self.lengths):
            for part in states[row, :length].split(_TOKENS_AT_ONCE):
                self.sums[name] = self.sums.get(name, 0) + part.float().square().sum(dim=0).double()
        self.tokens[name] = self.tokens.get(name, 0) + sum(self.lengths)

    def means(self) -> dict[str, npt.NDArray[np.float32]]:
        """Mean squares, but for matrices that were given something that is no number."""
        means = {name: (total / self.tokens[name]).float().cpu().numpy() for name, total in self.sums.items()}
        return {name: values for name, values in means.items() if np.isfinite(values).all()}


@contextmanager
def listening(matrices: Matrices) -> Iterator[Squares]:
    """While it lasts, what goes through the model is added to what this gives."""
    squares = Squares()

    def hear_input(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda _module, inputs: squares.add(name, inputs[0])

    hooks = [module.register_forward_pre_hook(hear_input(name)) for name, module in matrices.linear.items()]
    hooks.append(
        matrices.decoder.register_forward_hook(lambda _module, _inputs, out: squares.add(matrices.head, out[0]))
    )
    try:
        yield squares
    finally:
        for hook in hooks:
            hook.remove()


def _read_rows(
    runner: StepRunner, rows: Rows, watched: Matrices, loss_of: Callable[[dict[str, Any], int], Any]
) -> Squares:
    batches, layout = runner.batches, runner.layout
    with listening(watched) as squares:
        for part in batches.slice(rows, layout):
            squares.lengths = _real_lengths(batches, part, is_packed=layout.packing)
            loss_of(batches.load(part, layout), batches.count_targets(part))
    return squares


def _real_lengths(batches: Batches, part: Rows, *, is_packed: bool) -> list[int]:
    lengths = [int(batches.table.lengths[row]) for row in part]
    return [sum(lengths)] if is_packed else lengths


def _tell_of_missing(missing: list[str], tell: Callable[[str], None]) -> None:
    if missing:
        more = ", ..." if len(missing) > _SHOWN else ""
        tell(
            f"{len(missing)} matrices have no importance, because they are no linear layers of their own or were not "
            f"given finite numbers: {', '.join(missing[:_SHOWN])}{more}. They are quantized without it; types that "
            "llama.cpp refuses to make so, such as those of 2 bits, must not be in quantization.types."
        )
