"""Text of users and models as HTML: escaped, control characters made visible, keys left out, cut where it is long,
differences marked.

Everything that the report shows of a row passes through here or through Jinja's autoescape.
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


def show_text(text: str) -> Markup:
    """The text as it is, safe in HTML."""
    return _escape(redact(text[:MAX_CHARS])) + _note_cut(text)


def mark_differences(reference: str, text: str) -> Markup:
    """The text, with what the reference lacks as `<ins>` and what it lacks of the reference as `<del>`.

    A text that has little in common with the reference is one `<ins>`.
    """
    old, new = (_WORDS.findall(redact(part[:MAX_CHARS])) for part in (reference, text))
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.quick_ratio() < _MIN_LIKENESS or matcher.ratio() < _MIN_LIKENESS:
        return Markup('<ins class="whole">{}</ins>').format(_escape("".join(new))) + _note_cut(text)
    parts: list[Markup] = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        removed, added = _escape("".join(old[old_start:old_end])), _escape("".join(new[new_start:new_end]))
        if kind == "equal":
            parts.append(added)
            continue
        parts += [Markup("<del>{}</del>").format(removed)] if removed else []
        parts += [Markup("<ins>{}</ins>").format(added)] if added else []
    return Markup().join(parts) + _note_cut(text)


def show_plain(text: str, keep: str = "") -> str:
    """The text as plain text: characters that cannot be seen are written out, but for those to keep."""
    return "".join(character if character in keep else _write_out(character) or character for character in text)


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


def _note_cut(text: str) -> Markup:
    if len(text) <= MAX_CHARS:
        return Markup()
    return Markup('<span class="cut"> … {} more characters</span>').format(f"{len(text) - MAX_CHARS:,}")
