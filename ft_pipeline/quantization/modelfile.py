"""The Ollama Modelfile: TEMPLATE, stops, context and SYSTEM, made from the trained chat template, not a model's name.

Syntax: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx and docs/template.mdx (Go's text/template); what
Ollama makes of the two: parser/parser.go and template/template.go there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.turns import AFTER_SYSTEM, SystemFormat, Trim, TurnFormat

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Ollama's parser drops what is not printable, but for these.
_KEPT = " \t\n\r"
_ENDS_EARLY = re.compile(r'"""\s*[\r\n]')
_BEGIN = """\
{{- $system := "" }}{{- $given := false }}{{- $asked := false }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
"""
# By these tags Ollama finds the reasoning in an answer, and hands it over apart from then on: thinking/template.go.
_THOUGHTS = "{{- if and $last .Thinking }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}\n"


def write_modelfile(
    gguf_files: str | Sequence[str],
    turns: TurnFormat,
    stops: Sequence[str],
    context_tokens: int,
    *,
    adds_bos: bool,
    system: str | None = None,
) -> str:
    """The text of a Modelfile.

    Args:
        gguf_files: Name of the GGUF beside it, or of all the files that it was split into.
        turns: The trained template.
        stops: Texts that end an answer.
        context_tokens: Ollama's num_ctx.
        adds_bos: llama.cpp puts BOS in front by itself, so that TEMPLATE must not.
        system: The system message of a conversation that brings none; None: what the template makes of that.

    Raises:
        ConversionError: the template takes no system message, or a Modelfile cannot hold the system message or a stop.
    """
    template = write_go_template(turns, adds_bos=adds_bos)
    names = [gguf_files] if isinstance(gguf_files, str) else gguf_files
    lines = [f"FROM ./{name}" for name in names]
    lines.append(f"TEMPLATE {_quote(template, 'the chat template')}")
    if system:
        if turns.system is None:
            raise ConversionError(
                "quantization.system must be null for a chat template that takes no system message, as the trained "
                "one. Remove it, or train with another template."
            )
        lines.append(f"SYSTEM {_quote(system, 'quantization.system')}")
    lines += [f"PARAMETER stop {_quote(stop, 'a stop token')}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {context_tokens}")
    return "\n".join(lines) + "\n"


def write_go_template(turns: TurnFormat, *, adds_bos: bool) -> str:
    """A chat template in Ollama's syntax; all of its own text stands in Go's string literals, so no blank is lost.

    Where the trained template would fail, so does this one, with an error that says why. Ollama shortens a conversation
    that does not fit from its front: an answer that has lost its question is left out.
    """
    bos = turns.bos if adds_bos else ""
    text = "".join(_go_define_trim(f"trim {number}", trim) for number, trim in enumerate(_distinct_trims(turns)))
    text += _BEGIN
    text += f'{{{{- if eq .Role "system" }}}}{_go_take_system(turns)}\n'
    text += f'{{{{- else if eq .Role "user" }}}}{_go_ask(turns, bos)}{{{{- $asked = true }}}}\n'
    text += f"{{{{- if $last }}}}{_go(turns.end)}{{{{- else }}}}{_go(turns.user_to_assistant)}{{{{- end }}}}\n"
    text += '{{- else if ne .Role "assistant" }}'
    text += _go_fail("the chat template is written for the roles system, user and assistant") + "\n"
    text += "{{- else if $asked }}\n"
    text += _THOUGHTS if turns.forgets_thoughts else ""
    return text + _go_text(".Content", "assistant", turns) + "\n{{- end }}\n{{- end }}"


def find_stops(turns: TurnFormat, special_tokens: Sequence[str], eos: str) -> list[str]:
    """The special tokens of a template's turns, the one that ends an answer first, and EOS; never BOS or a blank.

    Nor are those among them that the model has to write before its answer: it would be stopped before its first word.

    Args:
        turns: The trained template.
        special_tokens: Those that no answer may hold. Line breaks are tokens of their own for some models, and stop
            nothing.
        eos: The EOS token's text.
    """
    texts = [turns.assistant_to_user, turns.start, turns.user_to_assistant]
    if turns.system:
        texts += [turns.system.prefix, turns.system.suffix]
    found = [token for text in texts for token in _in_order(text, special_tokens)]
    found = [token for token in found if not any(token in opening for opening in turns.openings)]
    return [stop for stop in dict.fromkeys([*found, eos]) if stop.strip() and stop != turns.bos]


def _in_order(text: str, tokens: Sequence[str]) -> list[str]:
    present = [token for token in tokens if token and token in text]
    return sorted(present, key=text.index)


def _quote(text: str, what: str) -> str:
    """A value as Ollama's parser reads it: it knows no escapes, and ends at quotes before a line break."""
    lost = sorted({f"U+{ord(char):04X}" for char in text if not char.isprintable() and char not in _KEPT})
    if lost:
        raise ConversionError(
            f"a Modelfile holds printable characters alone, {what} {text!r} has {', '.join(lost)}: Ollama would drop "
            "them. Remove them, or set quantization.ollama: false."
        )
    if '"' not in text:
        return f'"{text}"'
    if _ENDS_EARLY.search(text):
        raise ConversionError(
            f'a Modelfile ends a value at """ before a line break, and {what} {text!r} has one. Change it, or set '
            "quantization.ollama: false."
        )
    return f'"""{text}"""'


def _go_take_system(turns: TurnFormat) -> str:
    if turns.system is None:
        return "" if turns.drops_system else _go_fail("the chat template takes no system message")
    late = _go_fail("the chat template takes a system message in front alone")
    given = '(ne .Content "")' if turns.system.ignores_empty else "true"
    return f"{{{{- if $asked }}}}{late}{{{{- end }}}}{{{{- $system = .Content }}}}{{{{- $given = {given} }}}}"


def _go_ask(turns: TurnFormat, bos: str) -> str:
    start, again = _go(turns.start.removeprefix(bos)), _go(turns.assistant_to_user)
    ask = f"{{{{- if $asked }}}}{again}{{{{- else }}}}{start}{{{{- end }}}}{_go_text('.Content', 'user', turns)}"
    if turns.system is None:
        return ask
    told = _go_ask_with_system(turns.system, turns, bos)
    when = "(not $asked)" if turns.system.after_answer is None else "$last"
    return f"\n{{{{- if and $given {when} }}}}{told}\n{{{{- else }}}}{ask}{{{{- end }}}}"


def _go_ask_with_system(system: SystemFormat, turns: TurnFormat, bos: str) -> str:
    text = _go(system.prefix.removeprefix(bos))
    if system.after_answer is not None:
        text = f"{{{{- if $asked }}}}{_go(system.after_answer)}{{{{- else }}}}{text}{{{{- end }}}}"
    text += _go_text("$system", "system", turns)
    return text + _go(system.suffix) + _go_text(".Content", AFTER_SYSTEM, turns)


def _go_text(value: str, role: str, turns: TurnFormat) -> str:
    if role not in turns.trims:
        return f"{{{{- {value} }}}}"
    return f'{{{{- template "trim {_distinct_trims(turns).index(turns.trims[role])}" {value} }}}}'


def _distinct_trims(turns: TurnFormat) -> list[Trim]:
    return list(dict.fromkeys(turns.trims.values()))


def _go_fail(reason: str) -> str:
    # No such template is defined, which Go reports by its name. Ollama's own walk over templates wants an argument.
    return f'{{{{- template "{reason}" . }}}}'


def _go_define_trim(name: str, trim: Trim) -> str:
    """Templates that take blanks away one by one, by calling themselves: Go's templates have no function for it."""
    end = f"{name} end"
    left = _go_cases(trim.left, "slice . 0 {size}", name, "slice . {size}", f'{{{{- template "{end}" . }}}}')
    last = "(len (slice . {size}))"
    right = _go_cases(trim.right, f"slice . {last}", end, f"slice . 0 {last}", "{{- . }}")
    return f'{{{{- define "{end}" }}}}{right}{{{{- end }}}}\n{{{{- define "{name}" }}}}{left}{{{{- end }}}}\n'


def _go_cases(blanks: str, part: str, name: str, rest: str, otherwise: str) -> str:
    text = ""
    # Go slices a string by bytes, and there are blanks of one to three of them.
    for size in (1, 2, 3):
        kinds = " ".join(_go_literal(blank) for blank in blanks if len(blank.encode()) == size)
        if kinds:
            test = f"and (ge (len .) {size}) (eq ({part.format(size=size)}) {kinds})"
            text += f"{{{{- {'else ' if text else ''}if {test} }}}}"
            text += f'{{{{- template "{name}" ({rest.format(size=size)}) }}}}\n'
    return f"{text}{{{{- else }}}}{otherwise}{{{{- end }}}}" if text else otherwise


def _go(text: str) -> str:
    return f"{{{{- {_go_literal(text)} }}}}" if text else ""


def _go_literal(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(char) or _go_character(char) for char in text) + '"'


def _go_character(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
