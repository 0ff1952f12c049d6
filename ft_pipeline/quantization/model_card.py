"""The model card: what a model is, where it comes from, and how to run it, as Hugging Face's README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ft_pipeline.quantization.metadata import Provenance
from ft_pipeline.summary import Scalar

# Of Markdown: all that means something inside a line, in GitHub's kind too, where addresses become links by themselves.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>|#!~&:@]|(?<=www)\.)", re.IGNORECASE)
# Where a list or a rule would begin.
_BLOCK = re.compile(r"^(\d+(?=\.(?:\s|$))|(?=[-+]))")
# Of the recipe: what makes the model, and holds no paths.
_SECTIONS = ("training", "merging", "quantization")
# What the training says of itself that a user of the model would ask for.
_TRAINING = {
    "held_out_loss": "loss on held-out rows (nats per token)",
    "final_loss": "loss at the end of training",
    "steps": "optimizer steps",
    "trained_tokens": "trained tokens",
    "trainable_parameters": "trained parameters",
    "importance_tokens": "tokens behind the importance matrix",
}
_FILES = {
    "type": "type",
    "file": "file",
    "parts": "parts",
    "size_bytes": "bytes",
    "predicted_bytes": "predicted",
    "bits_per_weight": "bits per weight",
    "importance_matrix": "importance matrix",
}


def write_model_card(provenance: Provenance, files: Sequence[Mapping[str, Scalar]], lora: str | None) -> str:
    """The text of the card.

    Args:
        provenance: Where the model comes from.
        files: A row for each quantization type: `type`, `file` (the first of its parts), `parts`, `size_bytes` (of
            all), ...; the first is the published one.
        lora: Name of the adapter's own GGUF, if there is one.
    """
    method = "QLoRA" if provenance.recipe.get("training", {}).get("load_in_4bit", True) else "LoRA"
    parts = [
        f"---\n{_front_matter(provenance)}\n---",
        f"# {_plain(provenance.name)}",
        _plain(provenance.description),
        f"A language model fine-tuned with {method}, merged, and quantized to GGUF by ft_pipeline.",
        "## Files",
        _table(_FILES.values(), [[row.get(key) for key in _FILES] for row in files]),
        _describe_parts(files),
        f"`{lora}` is the adapter alone, to be loaded on top of the base's own GGUF." if lora else "",
        "## How to run it",
        _describe_use(files[0], provenance.recipe.get("quantization", {}).get("ollama", False)),
        "## Where it comes from",
        _table(["what", "which"], _lineage(provenance)),
        "## Training",
        _table(["figure", "value"], _figures(provenance)),
        _describe_recipe(provenance.recipe),
        "## Limits",
        "It was trained for the task of its data and knows no more than its base beyond that. Quantizing costs some "
        "accuracy: scores of these files, beside the base's, are in the evaluation report of the run that made them.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(provenance: Provenance) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=provenance.hub_base,
        base_model_relation="finetune" if provenance.hub_base else None,  # the Hub takes a GGUF for "quantized"
        library_name="gguf",
        pipeline_tag="text-generation",
        tags=["ft_pipeline", "lora"],
    )
    return str(data.to_yaml())


def _lineage(provenance: Provenance) -> list[list[Scalar]]:
    rows: list[list[Scalar]] = [["recipe", provenance.name], ["base", provenance.base_label]]
    if provenance.base_revision:
        rows.append(["revision of the base", provenance.base_revision])
    return [
        *rows,
        ["bytes of the base", provenance.base_identity],
        ["data (fingerprint)", provenance.data_fingerprint],
        ["adapter (fingerprint)", provenance.adapter_fingerprint],
    ]


def _figures(provenance: Provenance) -> list[list[Scalar]]:
    rows: list[list[Scalar]] = []
    for key, words in _TRAINING.items():
        value = provenance.figures.get(key)
        if value is not None:
            rows.append([words, f"{value:.4f}" if isinstance(value, float) else value])
    training = provenance.recipe.get("training", {})
    lora = training.get("lora", {})
    rows += [["LoRA rank, alpha", f"{lora.get('rank')}, {lora.get('alpha')}"], ["epochs", training.get("epochs")]]
    return rows


def _describe_recipe(recipe: Mapping[str, Any]) -> str:
    said = {name: recipe[name] for name in _SECTIONS if name in recipe}
    # In JSON no line begins with backticks, which would end the block.
    return f"```json\n{json.dumps(said, indent=2)}\n```" if said else ""


def _describe_parts(files: Sequence[Mapping[str, Scalar]]) -> str:
    if all(row.get("parts") == 1 for row in files):
        return ""
    return (
        "Of a type in several parts the first is named; all of them must lie in one folder, and programs are given the "
        "first."
    )


def _describe_use(published: Mapping[str, Scalar], has_modelfile: bool) -> str:
    file = str(published["file"])
    is_one = published.get("parts") == 1
    studio = f"`lms import {file}`" if is_one else "copy all parts to `~/.lmstudio/models/NAME/MODEL/`"
    lines = [
        "| runtime | command |",
        "| --- | --- |",
        f"| llama.cpp | `llama-server -m {file} --jinja` |",
        f"| LM Studio | {studio} |",
        f'| llama-cpp-python | `Llama(model_path="{file}").create_chat_completion(messages)` |',
    ]
    if has_modelfile:
        lines.insert(2, "| Ollama | `ollama create NAME -f Modelfile`, then `ollama run NAME` |")
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[Scalar]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_plain(_say(value)) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _say(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(text: str) -> str:
    """One line of text in which nothing is Markdown or HTML."""
    return _BLOCK.sub(r"\1\\", _MARKDOWN.sub(r"\\\1", " ".join(text.split())))
