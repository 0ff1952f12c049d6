"""Text of users and models as it may be shown: keys left out, cut where it is long, control characters made visible; in
HTML escaped, and differences marked.

Everything that a report shows of a row passes through here. Keys go before anything is cut: half a key is not found.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from ft_pipeline.datasets.checks.secrets import redact

MAX_CHARS = 2000
# Below it two texts have so little in common that marks would be noise.
_MIN_LIKENESS = 0.6
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
# Other, that is control, format (bidirectional overrides, zero width), surrogate, private and unassigned; and the
# separators that break a line. U+FFFD, which stands for invalid UTF-8, is a symbol and is seen.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def show_text(text: str, most_chars: int = MAX_CHARS) -> Markup:
    """The text, safe in HTML."""
    shown, left_out = _cut(text, most_chars)
    return _escape(shown) + _note_cut(left_out)


def mark_differences(reference: str, text: str) -> Markup:
    """The text, with what the reference lacks as `<ins>` and what it lacks of the reference as `<del>`.

    A text that has little in common with the reference is one `<ins>`.
    """
    (before, _), (shown, left_out) = _cut(reference, MAX_CHARS), _cut(text, MAX_CHARS)
    old, new = _WORDS.findall(before), _WORDS.findall(shown)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.quick_ratio() < _MIN_LIKENESS or matcher.ratio() < _MIN_LIKENESS:
        return Markup('<ins class="whole">{}</ins>').format(_escape(shown)) + _note_cut(left_out)
    parts: list[Markup] = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        removed, added = _escape("".join(old[old_start:old_end])), _escape("".join(new[new_start:new_end]))
        if kind == "equal":
            parts.append(added)
            continue
        parts += [Markup("<del>{}</del>").format(removed)] if removed else []
        parts += [Markup("<ins>{}</ins>").format(added)] if added else []
    return Markup().join(parts) + _note_cut(left_out)


def show_plain(text: str, most_chars: int | None = None, keep: str = "") -> str:
    """The text as plain text: cut, and characters that cannot be seen are written out, but for those to keep."""
    shown = shorten(text, most_chars)
    return "".join(character if character in keep else _write_out(character) or character for character in shown)


def shorten(text: str, most_chars: int | None = MAX_CHARS) -> str:
    """The text for programs: without keys and cut, but with nothing written out."""
    shown, left_out = _cut(text, most_chars)
    return f"{shown} … {left_out:,} more characters" if left_out else shown


def _cut(text: str, most_chars: int | None) -> tuple[str, int]:
    """The beginning of a text without its keys, and how many characters that leaves out."""
    whole = redact(text)
    shown = whole[:most_chars]
    return shown, len(whole) - len(shown)


def _escape(text: str) -> Markup:
    if text.replace("\n", "").replace("\t", "").isprintable():
        return escape(text)
    return Markup().join(_show_character(character) for character in text)


def _show_character(character: str) -> Markup:
    shown = None if character in "\n\t" else _write_out(character)
    return escape(character) if shown is None else Markup('<span class="escape">{}</span>').format(shown)


def _write_out(character: str) -> str | None:
    """How a character that cannot be seen is written; None for one that can."""
    if unicodedata.category(character) not in _INVISIBLE:
        return None
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _note_cut(left_out: int) -> Markup:
    if not left_out:
        return Markup()
    return Markup('<span class="cut"> … {} more characters</span>').format(f"{left_out:,}")
