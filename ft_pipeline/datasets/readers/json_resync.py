"""Where the next row of a JSON document begins, behind one that is broken."""

from __future__ import annotations

import json
import re
from typing import Any

from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES

# A text without its end stops at the line break, which no text may hold. One that no mark follows has its quotes wrong.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\[^\n])*+("(?=\s*(?:[:,\]}]|\Z)))?|[\[\]{},]|\n')
_LINE = re.compile(r"\n([ \t]*)(?:,[ \t]*)?([{\]])")
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\\n]|\\[^\n])*+)"\s*:')
_LAST_BRACKET = re.compile(r"\]\s*(?:\Z|[\[{])")
_INSIDE = re.compile(r"[:\[]\s*\Z")
_LEAST_REACH = 4096
_ANY_INDENT = 1 << 30
_MOST_LINES_CHARS = 1 << 20
_loose = json.JSONDecoder()
_loosest = json.JSONDecoder(strict=False)


class _Nesting:
    """Which brackets are open."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._comma: int | None = None
        self.opened: list[str] = []

    def take(self, sign: str, at: int, has_end: bool) -> bool:
        """Whether a mark can stand where it does; else some quote or bracket before it is wrong."""
        if sign == "\n":
            return True
        comma, self._comma = self._comma, at if sign == "," else None
        if sign == '"':
            return has_end
        if sign in "[{":
            # In an object, a key stands behind a comma.
            is_row = comma is not None and self.opened[-1:] == ["{"] and not self._text[comma + 1 : at].strip()
            self.opened.append(sign)
            return not is_row
        if sign in "]}" and self.opened:
            return self.opened.pop() + sign in ("[]", "{}")
        return True


class Resync:
    """Finds the end of broken rows. What it costs is bounded by the size of the text, however many are broken.

    Attributes:
        is_spent: It has looked as far ahead as it may, so whoever reads rows must do with `guess_end`.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._ahead_chars = 4 * len(text)
        self._first_keys: set[str] = set()
        self._keys: set[str] = set()
        self._decoded_keys: set[str] = set()
        self._line = (0, -1)

    @property
    def is_spent(self) -> bool:
        return self._ahead_chars <= 0

    def note_row(self, at: int, value: Any) -> None:
        """Know a sound row: others have the same keys."""
        if not isinstance(value, dict) or not (key := next(iter(value), "")):
            return
        self._keys.update(value)
        if key not in self._decoded_keys and (written := _FIRST_KEY.match(self._text, at)):
            self._decoded_keys.add(key)
            self._first_keys.add(written[1])

    def pay(self, chars: int) -> None:
        """Count text that was read in vain."""
        self._ahead_chars -= max(0, chars)

    def find_end(self, at: int, is_array: bool) -> int:
        """The end of the broken row that begins at `at`, or of what stands there and is no row.

        It may be JSON but for a number, a key or a character. Else its brackets say the end, unless a line begins as a
        row does: that is taken for one, since a bracket may be missing.
        """
        if self.is_spent:
            return self.guess_end(at)
        end, failed = self._decode_loosely(at)
        if end is not None:
            return end
        end, reached = self._match_brackets(at, is_array)
        if end is None:
            end = self.guess_end(at)
        self.pay(max(failed, reached) - end)
        return end

    def guess_end(self, at: int) -> int:
        """The next place that looks like a row's beginning, or the end of the text.

        It is the next line that begins as a row does, unless one begins before in the broken row's own line, or none
        does for long.
        """
        text, indent, own = self._text, self._measure_indent(at), _FIRST_KEY.match(self._text, at)
        line_end = self._find_line_end(at)
        begin = self._begins_row(line_end, indent, own)
        if begin is not None:
            return begin
        within = self._find_key(at + 1, len(text), own)
        if within < line_end:
            return within
        stop = min(len(text), within + min(_MOST_LINES_CHARS, max(_LEAST_REACH, self._ahead_chars)))
        while begin is None and line_end < stop:
            line_end = self._find_line_end(line_end + 1)
            begin = self._begins_row(line_end, indent, own)
        end = within if begin is None else begin
        self.pay(max(line_end, within) - end)
        return end

    def _decode_loosely(self, at: int) -> tuple[int | None, int]:
        """The end of what is JSON but for some rule that hides no brackets; or None, and how far it was read."""
        try:
            return _loose.raw_decode(self._text, at)[1], at
        except json.JSONDecodeError as err:
            failed, is_control = err.pos, self._text[at] in "{[" and err.msg.startswith("Invalid control")
        except RecursionError:
            # How far it was read is not known: that of the brackets that may be open.
            self.pay(len(self._text) // 16 + 1)
            return None, at
        except ValueError:
            return None, at
        if is_control:
            try:
                return _loosest.raw_decode(self._text, at)[1], at
            except json.JSONDecodeError as err:
                failed = max(failed, err.pos)
            except (RecursionError, ValueError):
                pass
        return None, failed

    def _find_key(self, at: int, stop: int, own: re.Match[str] | None) -> int:
        """Where an object begins as a row does, and does not stand inside another; or `stop`."""
        for key in _FIRST_KEY.finditer(self._text, at, stop):
            begin = key.start()
            if self._is_known(key[1], own) and not _INSIDE.search(self._text, max(at, begin - 9), begin):
                return begin
        return stop

    def _match_brackets(self, at: int, is_array: bool) -> tuple[int | None, int]:
        """The end that brackets say, or None if they or the quotes say none; and how far they were read."""
        text, indent, here = self._text, self._measure_indent(at), at
        own, nesting = _FIRST_KEY.match(text, at), _Nesting(text)
        reach = at + min(MAX_ROW_BYTES, max(_LEAST_REACH, self._ahead_chars))
        for token in _TOKEN.finditer(text, at, reach):
            here, sign = token.start(), token[0][0]
            if nesting.opened:
                if sign == "\n" and (begin := self._begins_row(here, indent, own)) is not None:
                    return begin, begin
            elif here > at and (sign in "\n[{," or (sign == "]" and is_array)):
                return here, here
            was_open = bool(nesting.opened)
            if not nesting.take(sign, here, has_end=token[1] is not None):
                return None, here
            if was_open and not nesting.opened:
                return token.end(), here
        return (len(text) if not nesting.opened and reach >= len(text) else None), here

    def _begins_row(self, line_break: int, indent: int, own: re.Match[str] | None) -> int | None:
        """Where a row, or the bracket behind the last one, begins in the line behind a line break; None if none does.

        It stands no deeper than the broken row, so it is none of its turns where those are indented.
        """
        line = _LINE.match(self._text, line_break)
        if not line or len(line[1]) > indent:
            return None
        begin = line.start(2)
        if line[2] == "]":
            return begin if _LAST_BRACKET.match(self._text, begin) else None
        key = _FIRST_KEY.match(self._text, begin)
        return begin if key and (self._is_known(key[1], own) or self._is_like_rows(begin, own)) else None

    def _is_known(self, key: str, own: re.Match[str] | None) -> bool:
        """Whether rows begin with a key: as sound ones do, or the broken row itself; any may if nothing is known."""
        return key in self._first_keys or (own is not None and own[1] == key) or not (own or self._first_keys)

    def _is_like_rows(self, begin: int, own: re.Match[str] | None) -> bool:
        """Whether a whole row stands on a line, its keys in another order."""
        line = self._text[begin : self._find_line_end(begin)]
        try:
            value, end = _loose.raw_decode(line)
        except (RecursionError, ValueError):
            return False
        is_known = not self._keys.isdisjoint(value) or (own is not None and own[1] in value)
        return is_known and line[end:].strip() in ("", ",")

    def _measure_indent(self, at: int) -> int:
        """How deep the line is that a row begins in; behind the array's own bracket, nothing is known of the others."""
        begin = str.rfind(self._text, "\n", max(0, at - _LEAST_REACH), at) + 1
        before = self._text[begin:at] if begin or at < _LEAST_REACH else ""
        return _ANY_INDENT if before.rstrip().endswith("[") else len(before) - len(before.lstrip(" \t"))

    def _find_line_end(self, at: int) -> int:
        """The next line break, or the end of the text; kept, as a line may hold many rows."""
        if not self._line[0] <= at <= self._line[1]:
            end = self._text.find("\n", at)
            self._line = (at, len(self._text) if end < 0 else end)
        return self._line[1]
