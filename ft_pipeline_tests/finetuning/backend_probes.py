"""What a backend does with tiny models, found out in a process of its own.

A function's arguments come as JSON by stdin; the JSON of what it finds is the last line of stdout.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.batches import count_targets, lay_flat, pad_rows
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.neftune import EmbeddingNoise
from ft_pipeline_tests.finetuning.families import make_family, make_job

_PAD = 2
_LENGTHS = (21, 34, 13)


def probe_families(backend: str, families: list[str]) -> dict[str, Any]:
    """Losses and gradients of rows packed, padded and alone, for each family, from a 4-bit and a 16-bit base."""
    found: dict[str, Any] = {}
    for family in families:
        for load_in_4bit in (True, False):
            with _open(backend, family, load_in_4bit=load_in_4bit, lora={"target_modules": "all-linear"}) as trained:
                found[f"{family}-{4 if load_in_4bit else 16}"] = trained.compare_layouts()
    return found


def probe_options(backend: str) -> dict[str, Any]:
    """What each option of the recipe does to a Llama."""
    found: dict[str, Any] = {}
    with _open(backend, lora={"rank": 4, "alpha": 8, "dropout": 0.0}) as plain:
        found["plain"] = plain.describe()
        found["checkpointing"] = plain.compare_checkpointing()
        found["evaluation_between"] = plain.evaluate_between()
        found["neftune"] = plain.compare_neftune()
    variants: dict[str, dict[str, Any]] = {
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
        "dropout": {"dropout": 0.5},
        "few_targets": {"target_modules": ["q_proj", "down_proj"]},
    }
    for name, variant in variants.items():
        with _open(backend, lora={"rank": 4, "alpha": 8, **variant}) as trained:
            found[name] = trained.describe()
    with _open(backend, lora={"rank": 4, "alpha": 8}, seed=7) as reseeded:
        found["other_seed"] = reseeded.describe()
    return found


def probe_gpu(backend: str) -> dict[str, Any]:
    """A Llama on the GPU: layers computed twice as planned, and then as told, and rows packed against rows alone."""
    with _open(backend, layout={"device": "auto", "checkpointed_layers": 1}) as trained:
        flags = [trained.count_checkpointed()]
        for layers in (0, 1, 2):
            trained.backend.set_checkpointed_layers(trained.model, layers)
            flags.append(trained.count_checkpointed())
        return {"checkpointed": flags, **trained.compare_layouts()}


def probe_recompute(backend: str, family: str) -> dict[str, Any]:
    """On the GPU: whether a family's layers leave a product out, and what all layers computed twice do to gradients."""
    from ft_pipeline.finetuning.backends.lean_recompute import skip_unread_products

    with _open(backend, family, layout={"device": "auto", "checkpointed_layers": 2}) as trained:
        trained.randomize()
        return {"is_lean": skip_unread_products(trained.model), **trained.compare_checkpointing()}


def save_adapters(backend: str, folder: str, variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A base, adapters on it as this backend saves them, and the logits that the model had with each."""
    import torch

    ids = torch.arange(5, 65).unsqueeze(0)
    logits = {}
    for name, lora in variants.items():
        with _open(backend, load_in_4bit=False, lora={"rank": 4, "alpha": 8, **lora}) as trained:
            trained.randomize()
            trained.model.save_pretrained(f"{folder}/{name}")
            shutil.copytree(trained.job.base, f"{folder}/base", dirs_exist_ok=True)
            trained.model.eval()
            with torch.no_grad():
                logits[name] = trained.model(input_ids=ids).logits[0].tolist()
    return logits


@contextmanager
def _open(
    backend: str, family: str = "llama", layout: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Trained]:
    with tempfile.TemporaryDirectory() as folder:
        trained = Trained(Path(folder), backend, family, settings, **(layout or {}))
        yield trained
        del trained
        gc.collect()


class Trained:
    """A tiny model in a backend's hands, behind TRL's trainer as in a real training."""

    def __init__(self, folder: Path, backend: str, family: str, settings: dict[str, Any], **layout: Any) -> None:
        base = folder / "base"
        self.backend = BACKENDS[backend]
        self.job = make_job(base, folder / "scratch", {"backend": backend, **settings}, **layout)
        self.backend.prepare_environment(self.job)
        if backend == "unsloth":
            import unsloth  # noqa: F401 - first
        make_family(base, family)
        self.model, self.tokenizer = self.backend.load(self.job)
        self.trainer = _make_trainer(self.model, self.tokenizer, self.job.device, folder)
        self.backend.settle(self.model, self.job)
        self.model.train()

    def randomize(self) -> None:
        """No part of the adapter is any more as it starts: B at zero, the rest a copy of the base."""
        import torch

        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
                elif parameter.requires_grad and ".lora_A." not in name:
                    parameter.mul_(1 + 0.1 * torch.rand_like(parameter))

    def loss(self, batch: dict[str, Any], targets: int | None = None) -> Any:
        """Mean loss of a micro-batch."""
        import torch

        count = torch.tensor(targets or count_targets(batch), device=self.model.device)
        adapted = self.backend.adapt(batch, self.job.device)
        with self.trainer.compute_loss_context_manager():
            return self.trainer.compute_loss(self.model, adapted, num_items_in_batch=count)

    def gradients(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Of each trained parameter."""
        self.model.zero_grad()
        self.loss(batch).backward()
        named = self.model.named_parameters()
        return {name: parameter.grad.clone() for name, parameter in named if parameter.requires_grad}

    def describe(self) -> dict[str, Any]:
        """What is trained, how it is scaled, and two losses of the same rows."""
        self.randomize()
        batch = pad_rows(_make_rows(len(self.tokenizer)), _PAD)
        grads = self.gradients(batch)
        scales = {m.scaling["default"] for m in self.model.modules() if isinstance(getattr(m, "scaling", None), dict)}
        first_a = next(p for name, p in self.model.named_parameters() if ".lora_A." in name)
        return {
            "scales": sorted(scales),
            "trained": sorted({name.replace("base_model.model.", "") for name in grads}),
            "without_gradient": [name for name, grad in grads.items() if not grad.any()],
            "dtypes": sorted({str(p.dtype) for p in self.model.parameters() if p.requires_grad}),
            "losses": [self.loss(batch).item() for _ in range(2)],
            "first_a": first_a.flatten()[:4].tolist(),
        }

    def count_checkpointed(self) -> int:
        """Decoder layers that are computed twice."""
        return sum(bool(layer.gradient_checkpointing) for layer in self.model.get_base_model().model.layers)

    def compare_checkpointing(self) -> dict[str, Any]:
        """Gradients with all layers computed twice against none."""
        batch = pad_rows(_make_rows(len(self.tokenizer)), _PAD)
        flags, grads = [], []
        for layers in (0, 2, 0):
            self.backend.set_checkpointed_layers(self.model, layers)
            flags.append(self.count_checkpointed())
            grads.append(self.gradients(batch))
        return {
            "checkpointed": flags,
            "gradient_differences": [
                float((grads[1][name] - grad).norm() / grad.norm().clamp(min=1e-12)) for name, grad in grads[0].items()
            ],
        }

    def evaluate_between(self) -> dict[str, Any]:
        """Gradients before an evaluation against those after."""
        import torch

        batch = pad_rows(_make_rows(len(self.tokenizer)), _PAD)
        before = self.gradients(batch)
        self.model.eval()
        with torch.no_grad():
            loss = self.loss(batch).item()
        self.model.train()
        after = self.gradients(batch)
        difference = max(float((after[name] - grad).abs().max()) for name, grad in before.items())
        return {"gradient_difference": difference, "loss": loss}

    def compare_neftune(self) -> dict[str, Any]:
        """Losses of the same rows with noise, packed, padded and alone; of another step; and of no step."""
        rows = _make_rows(len(self.tokenizer))
        noise = EmbeddingNoise(10.0, seed=1)
        noise.install(self.model)

        def noisy_loss(step: int, indices: tuple[int, ...], lay: Any) -> float:
            targets = count_targets(pad_rows(rows, _PAD))
            with noise.on_rows(step, indices, _LENGTHS):
                return float(self.loss(lay([rows[index] for index in indices], _PAD), targets))

        return {
            "packed": noisy_loss(0, (0, 1, 2), lay_flat),
            "padded": noisy_loss(0, (2, 1, 0), pad_rows),
            "alone": sum(noisy_loss(0, (index,), pad_rows) for index in range(3)),
            "other_step": noisy_loss(1, (0, 1, 2), lay_flat),
            "no_step": float(self.loss(pad_rows(rows, _PAD))),
        }

    def compare_layouts(self) -> dict[str, Any]:
        """Rows packed against rows padded and alone."""
        self.randomize()
        rows = _make_rows(len(self.tokenizer))
        alone = [self.loss(pad_rows([row], _PAD)).item() for row in rows]
        packed = [self.loss(lay_flat(_only(rows, index), _PAD)).item() for index in range(len(rows))]
        others = [_make_rows(len(self.tokenizer), seed=9)[0], *rows[1:]]
        changed = [self.loss(lay_flat(_only(others, index), _PAD)).item() for index in (1, 2)]
        of_padded, of_packed = self.gradients(pad_rows(rows, _PAD)), self.gradients(lay_flat(rows, _PAD))
        return {
            "alone": alone,
            "packed": packed,
            "packed_beside_another": changed,
            "gradient_differences": [
                float((of_packed[name] - grad).norm() / grad.norm()) for name, grad in of_padded.items()
            ],
            "without_gradient": [name for name, grad in of_padded.items() if not grad.any()],
            "targets": sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in of_padded}),
            "dtypes": sorted({str(p.dtype) for p in self.model.parameters() if p.requires_grad}),
        }


def _make_trainer(model: Any, tokenizer: Any, device: Device, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(folder / "trainer"),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        gradient_checkpointing=False,
        bf16=device.is_gpu,
        report_to="none",
        disable_tqdm=True,
    )
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"step": [0]}),
        args=config,
        data_collator=lambda entries: {"step": entries[0]["step"]},
    )


def _make_rows(vocabulary: int, seed: int = 1) -> list[tuple[Any, Any]]:
    """Random tokens; the first third of each row is a prompt."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in _LENGTHS:
        ids = rng.integers(5, vocabulary, length)
        labels = ids.copy()
        labels[: length // 3] = -100
        rows.append((ids, labels))
    return rows


def _only(rows: list[tuple[Any, Any]], index: int) -> list[tuple[Any, Any]]:
    """The same rows; only one of them is learned."""
    return [(ids, labels if at == index else np.full_like(labels, -100)) for at, (ids, labels) in enumerate(rows)]


if __name__ == "__main__":
    found = globals()[sys.argv[1]](**json.loads(sys.stdin.read()))
    print(json.dumps(found))  # noqa: T201 - the way back
