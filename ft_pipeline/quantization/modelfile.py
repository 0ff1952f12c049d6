"""The Ollama Modelfile: TEMPLATE, stops and context, made from the trained chat template and not from a model's name.

Syntax: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx and docs/template.mdx (Go's text/template).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ft_pipeline.quantization.turns import TurnFormat

_RANGE = "{{- range $i, $_ := .Messages }}\n{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"


def write_modelfile(
    gguf_file: str, turns: TurnFormat | None, stops: Sequence[str], context_tokens: int, *, adds_bos: bool
) -> str:
    """The text of a Modelfile.

    Args:
        gguf_file: Name of the GGUF beside it.
        turns: The trained template; None leaves TEMPLATE out.
        stops: Texts that end an answer.
        context_tokens: Ollama's num_ctx.
        adds_bos: llama.cpp puts BOS in front by itself, so that TEMPLATE must not.
    """
    lines = [f"FROM ./{gguf_file}"]
    if turns is not None:
        lines.append(f'TEMPLATE """{write_go_template(turns, adds_bos=adds_bos)}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines.append(f"PARAMETER num_ctx {context_tokens}")
    return "\n".join(lines) + "\n"


def write_go_template(turns: TurnFormat, *, adds_bos: bool) -> str:
    """A chat template in Ollama's syntax; all of its own text stands in Go string literals, so no blank is lost."""
    text = "" if adds_bos else _go(turns.bos)
    if turns.system is None:
        text += '{{- $system := "" }}'
    text += _RANGE
    if turns.preamble:
        text += f'{{{{- if and (eq $i 0) (ne .Role "system") }}}}{_go(turns.preamble)}{{{{- end }}}}\n'
    text += _go_system(turns)
    text += f'{{{{- else if eq .Role "user" }}}}{_go(turns.user.prefix)}{_go_pending(turns)}'
    text += f"{{{{- .Content }}}}{_go(turns.user.suffix)}\n"
    text += f'{{{{- else if eq .Role "assistant" }}}}{_go(turns.assistant.prefix)}{{{{- .Content }}}}'
    text += f"{{{{- if not $last }}}}{_go(turns.assistant.suffix)}{{{{- end }}}}\n"
    text += "{{- end }}\n"
    text += f'{{{{- if and $last (ne .Role "assistant") }}}}{_go(turns.generation_prompt)}{{{{- end }}}}\n'
    return text + "{{- end }}"


def find_stops(turns: TurnFormat, special_tokens: Sequence[str], eos: str) -> list[str]:
    """The special tokens of a template's turns, the one that ends an answer first, and EOS; never BOS."""
    texts = [turns.assistant.suffix, turns.user.prefix, turns.user.suffix, turns.generation_prompt]
    if turns.system:
        texts += [turns.system.prefix, turns.system.suffix]
    found = [token for text in texts for token in _in_order(text, special_tokens)]
    return [stop for stop in dict.fromkeys([*found, eos]) if stop and stop != turns.bos]


def _in_order(text: str, tokens: Sequence[str]) -> list[str]:
    present = [token for token in tokens if token and token in text]
    return sorted(present, key=text.index)


def _go_system(turns: TurnFormat) -> str:
    if turns.system:
        around = _go(turns.system.prefix), _go(turns.system.suffix)
        return f'{{{{- if eq .Role "system" }}}}{around[0]}{{{{- .Content }}}}{around[1]}\n'
    return '{{- if eq .Role "system" }}{{- $system = .Content }}\n'


def _go_pending(turns: TurnFormat) -> str:
    if turns.system or turns.system_separator is None:
        return ""
    return f'{{{{- if $system }}}}{{{{- $system }}}}{_go(turns.system_separator)}{{{{- $system = "" }}}}{{{{- end }}}}'


def _go(text: str) -> str:
    # JSON's escapes are a subset of those of a Go string literal, and none of them is three quotes in a row.
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
