"""Reads a Modelfile as Ollama's parser does: parser/parser.go there, its states, quotes and what it drops."""

from __future__ import annotations

_COMMANDS = {"from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "message", "requires"}
_NEWLINES, _BLANKS = "\r\n", " \t"


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """The commands of a Modelfile, a parameter by its own name.

    Raises:
        ValueError: Ollama would refuse it.
    """
    commands: list[tuple[str, str]] = []
    state, name, held = "nil", "", ""
    for char in text:
        after, kept = _step(state, char)
        if after != state:
            if state == "name":
                if held.lower() == "parameter":
                    after = "parameter"
                elif held.lower() not in _COMMANDS:
                    raise ValueError(f"no command: {held!r}")
                name = held.lower()
            elif state == "parameter":
                name = held
            elif state == "value":
                value = _unquote(held.strip())
                if value is None or char in _BLANKS:
                    held += char
                    continue
                commands.append((name, value))
            held, state = "", after
        held += kept if kept == " " or kept.isprintable() else ""
    if state == "value":
        value = _unquote(held.strip())
        if value is None:
            raise ValueError(f"a value without an end: {held!r}")
        commands.append((name, value))
    elif state not in ("nil", "comment"):
        raise ValueError("a command without a value")
    if not any(command == "from" for command, _ in commands):
        raise ValueError("no FROM line")
    return commands


def _step(state: str, char: str) -> tuple[str, str]:
    if state == "comment":
        return ("nil" if char in _NEWLINES else "comment"), ""
    if state == "nil":
        if char == "#":
            return "comment", ""
        return ("nil", "") if char in _BLANKS + _NEWLINES else ("name", char)
    if state == "value":
        return ("nil" if char in _BLANKS + _NEWLINES else "value"), char
    if char in _BLANKS:
        return "value", ""
    if not (char.isascii() and (char.isalpha() or (state == "parameter" and (char.isdigit() or char == "_")))):
        raise ValueError(f"{char!r} in a name")
    return state, char


def _unquote(text: str) -> str | None:
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            is_closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if is_closed else None
    return text
