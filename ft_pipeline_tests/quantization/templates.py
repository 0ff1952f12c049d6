"""Families of chat templates with their tokens, and templates that Ollama cannot express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ft_pipeline.quantization.turns import Render, TurnFormat, derive_turn_format
from ft_pipeline_tests.quantization.template_sources import (
    ALPACA,
    CHATML,
    DEEPSEEK_CODER,
    DEEPSEEK_R1,
    DEMO,
    GEMMA2,
    GEMMA3,
    HARMONY,
    LLAMA2,
    LLAMA3,
    LLAMA31,
    MISTRAL_BARE,
    MISTRAL_NEMO,
    MISTRAL_SMALL,
    MISTRAL_V0,
    MISTRAL_V1,
    MISTRAL_V3,
    PHI3,
    PHI3_FIRST,
    PHI4,
    QWEN3,
    QWEN25,
    QWQ,
    SMOLLM3,
    VICUNA,
    ZEPHYR,
)


@dataclass(frozen=True)
class Family:
    """A chat template and the tokens it writes."""

    source: str
    bos: str = "<s>"
    eos: str = "</s>"
    takes_system: bool = True

    def renderer(self) -> Render:
        """Renders as transformers does."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        compiled = _compile_jinja_template(self.source)

        def render(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
            text: str = compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos,
                eos_token=self.eos,
                strftime_now=lambda _format: "01 Jan 2025",
            )
            return text

        return render

    def turns(self) -> TurnFormat:
        """The template's shape."""
        return derive_turn_format(self.renderer(), self.bos)


FAMILIES = {
    "ChatML": Family(CHATML, bos="", eos="<|im_end|>"),
    "demo base": Family(DEMO),
    "Qwen2.5": Family(QWEN25, bos="", eos="<|im_end|>"),
    "Qwen3": Family(QWEN3, bos="", eos="<|im_end|>"),
    "QwQ": Family(QWQ, bos="", eos="<|im_end|>"),
    "Llama 2": Family(LLAMA2),
    "Llama 3": Family(LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "Llama 3.1": Family(LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    "Mistral v0.1": Family(MISTRAL_V0, takes_system=False),
    "Mistral v0.2": Family(MISTRAL_V1),
    "Mistral v0.3": Family(MISTRAL_V3),
    "Mistral Nemo": Family(MISTRAL_NEMO),
    "Mistral, bare": Family(MISTRAL_BARE),
    "Mistral Small 3": Family(MISTRAL_SMALL),
    "Gemma 2": Family(GEMMA2, "<bos>", "<eos>", takes_system=False),
    "Gemma 3": Family(GEMMA3, "<bos>", "<eos>"),
    "Phi-3": Family(PHI3, eos="<|endoftext|>"),
    "Phi-3, the first": Family(PHI3_FIRST, eos="<|endoftext|>", takes_system=False),
    "Phi-4": Family(PHI4, "<|endoftext|>", "<|im_end|>"),
    "Zephyr": Family(ZEPHYR),
    "Vicuna": Family(VICUNA),
    "Alpaca": Family(ALPACA),
    "DeepSeek Coder": Family(DEEPSEEK_CODER, "<｜begin▁of▁sentence｜>", "<|EOT|>"),
    "DeepSeek R1": Family(DEEPSEEK_R1, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "SmolLM3": Family(SMOLLM3, bos="", eos="<|im_end|>"),
    "gpt-oss": Family(HARMONY, bos="", eos="<|return|>"),
}

# What no fixed texts between the messages can say, and why.
REFUSED = {
    "numbers its turns": (
        CHATML.replace("'\n' + m['content']", "' ' + loop.index|string + '\n' + m['content']"),
        "it renders a conversation of system, user, assistant, user otherwise than with fixed texts in between",
    ),
    "shortens answers before the last": (
        CHATML.replace("m['content']", "(m['content'] if m['role'] != 'assistant' else m['content'][:2])"),
        "it leaves a message out",
    ),
    "writes the number of messages first": (
        "{{ messages|length|string + '\n' }}" + CHATML,
        "it begins differently when a conversation has more turns",
    ),
    "asks otherwise the second time": (
        CHATML.replace(
            "{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>' + ('again' if messages[2:] else 'once') }}"
        ),
        "it ends differently when a conversation has more turns",
    ),
    "changes capital letters": (
        CHATML.replace("m['content']", "(m['content'] | lower)"),
        "it renders a conversation of user, assistant, user, assistant, user otherwise than with fixed texts",
    ),
    "marks reasoning": (
        CHATML.replace("m['content']", "m['content'].replace('<think>', '[think]')"),
        "it rewrites the <think> blocks of earlier answers",
    ),
    "knows no empty system message": (
        CHATML.replace("m['content']", "(m['content'] or 'none')"),
        "it writes an empty system message otherwise than one with a text",
    ),
    "writes BOS only without a system message": (
        "{% if messages[0]['role'] != 'system' %}{{ bos_token }}{% endif %}" + CHATML,
        "it writes BOS only with a system message, or only without one",
    ),
    "takes no answers": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no answers') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}",
        "it does not render a plain conversation: no answers",
    ),
    "looks for a word": (
        CHATML.replace("m['content']", "m['content'][m['content'].index('Q: '):]"),
        "it does not render a plain conversation: substring not found",
    ),
    "divides by nothing": (
        CHATML.replace("m['content']", "m['content'] * (1 // (loop.length - 1))"),
        "it does not render a plain conversation: .* by zero",
    ),
}
