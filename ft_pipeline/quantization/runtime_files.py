"""What lies beside the GGUFs for the program that runs them: Ollama's Modelfile, the adapter alone, the model card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.adversarial import list_texts
from ft_pipeline.quantization.convert import default_converter
from ft_pipeline.quantization.lora import LoraNotExpressible, convert_adapter
from ft_pipeline.quantization.metadata import Provenance
from ft_pipeline.quantization.model_card import write_model_card
from ft_pipeline.quantization.modelfile import find_stops, write_modelfile
from ft_pipeline.quantization.trained_tokenizer import Conversation, TrainedTokenizer
from ft_pipeline.quantization.turns import Messages, TemplateShapeError, derive_turn_format
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Scalar

MODELFILE, MODEL_CARD = "Modelfile", "README.md"


def describe_for_ollama(
    trained: TrainedTokenizer,
    settings: QuantizationSection,
    gguf_files: Sequence[str],
    conversations: Iterable[Conversation] = (),
    *,
    adds_bos: bool,
) -> str:
    """The Modelfile of one GGUF.

    Args:
        trained: Tokenizer and chat template.
        settings: System message and context.
        gguf_files: Names of the file, or of its parts.
        conversations: The data set's own: a template may look at what they say. Built-in ones are tried besides.
        adds_bos: llama.cpp puts BOS in front by itself.

    Raises:
        ConversionError: Ollama's TEMPLATE cannot express the chat template.
    """
    try:
        turns = derive_turn_format(trained.render, trained.bos, _list_prompts(trained, conversations, settings.system))
    except TemplateShapeError as err:
        raise ConversionError(
            f"a Modelfile's TEMPLATE must give the prompts of the trained chat template, and cannot: {err}. Set "
            "quantization.ollama: false and use a runtime that reads the GGUF's own template, or train with another "
            "template."
        ) from err
    stops = find_stops(turns, trained.stop_candidates, trained.eos)
    return write_modelfile(gguf_files, turns, stops, settings.context_tokens, adds_bos=adds_bos, system=settings.system)


def warn_of_context(settings: QuantizationSection, base_context_tokens: int, reporter: Reporter) -> None:
    """Tell when the Modelfile asks for more context than the base was made for.

    Args:
        settings: The recipe's.
        base_context_tokens: Of the base; 0: its configuration does not say.
        reporter: Told of it.
    """
    if settings.ollama and 0 < base_context_tokens < settings.context_tokens:
        reporter.warning(
            f"the base was made for {base_context_tokens:,} tokens of context, and the Modelfile will ask for "
            f"{settings.context_tokens:,}: answers get worse beyond the base's. Set quantization.context_tokens to "
            f"{base_context_tokens} or less"
        )


def write_lora(
    adapter: Path, base: Path, outfile: Path, provenance: Provenance | None, converter: Path | None, reporter: Reporter
) -> bool:
    """Write the adapter alone as a GGUF, to be loaded on top of the base's.

    Returns:
        Whether there is one: llama.cpp's format does not hold every adapter, which is told and costs nothing else.

    Raises:
        ConversionError: the converter was killed, or failed for a reason that is not the adapter's.
        DiskSpaceError: the disk became full.
    """
    try:
        convert_adapter(adapter, base, outfile, converter or default_converter(), provenance)
    except LoraNotExpressible as err:
        reporter.warning(f"the adapter alone is not shipped as a GGUF: {err}")
        return False
    except ConversionError as err:
        raise ConversionError(
            f"{err}\nRun again; quantization.lora_gguf: false ships the model without its adapter."
        ) from err
    return True


def write_card(out_dir: Path, provenance: Provenance, files: Sequence[Mapping[str, Scalar]], lora: str | None) -> None:
    """Write the model card."""
    (out_dir / MODEL_CARD).write_text(write_model_card(provenance, files, lora), encoding="utf-8")


def _list_prompts(
    trained: TrainedTokenizer, conversations: Iterable[Conversation], system: str | None
) -> Iterator[Messages]:
    """Conversations up to the answer that is asked for, as given and as the Modelfile's SYSTEM makes them."""
    for messages in [*conversations, *_built_in(trained)]:
        prompt = [(message["role"], message["content"]) for message in messages]
        if prompt[-1][0] == "assistant":
            prompt.pop()
        if not prompt:
            continue
        yield prompt
        if system and prompt[0][0] != "system":
            yield [("system", system), *prompt]


def _built_in(trained: TrainedTokenizer) -> Iterator[Conversation]:
    for text in list_texts(trained.special_tokens):
        for roles in (("user",), ("user", "assistant", "user"), ("system", "user")):
            conversation = [{"role": role, "content": text} for role in roles]
            if trained.accepts(conversation):
                yield conversation
