"""One chunk of a raw part becomes one chunk of checked rows. Nothing here looks at another chunk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.checked import CHECKED_SCHEMA, take_mended
from ft_pipeline.datasets.checks import choose_actions
from ft_pipeline.datasets.checks.extra import describe_breach, find_in_extras
from ft_pipeline.datasets.checks.prose import find_other_languages, find_refusals
from ft_pipeline.datasets.checks.text import TEXT_CHECKS, TextCheck, find_texts, mend_text
from ft_pipeline.datasets.contract import TokenContract
from ft_pipeline.datasets.conversation import Message, unpack
from ft_pipeline.datasets.findings import Findings
from ft_pipeline.datasets.parallel import without_cycle_search
from ft_pipeline.datasets.parts import write_chunk
from ft_pipeline.datasets.readers.batch import MAX_SHOWN_CHARS, show_row
from ft_pipeline.datasets.schema import find_breaches, row_schema, state_facts
from ft_pipeline.datasets.shingles import Shingler, shingle_texts
from ft_pipeline.datasets.signatures import SIGNATURE, sign
from ft_pipeline.datasets.split import conversation_keys, describe_rows, split_hashes
from ft_pipeline.datasets.tokenizer import Tokenizer
from ft_pipeline.datasets.turns import Turns
from ft_pipeline.recipe import DatasetSection

# Python's lists of tokens are in memory for so many rows.
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class CheckPiece:
    """A raw chunk, and where its checked one goes."""

    raw: Path
    checked: Path


@dataclass(frozen=True)
class CheckedChunk:
    """A checked chunk that is written."""

    path: Path
    sha256: str
    rows: int


class ChunkChecker:
    """Checks, mends, tokenizes and hashes the rows of one chunk after the other.

    Args:
        settings: The recipe's words.
        tokenizer: The base's; None: tokens are left out.
    """

    def __init__(self, settings: DatasetSection, tokenizer: Tokenizer | None) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._actions = choose_actions(settings.checks)

    def __call__(self, piece: CheckPiece) -> CheckedChunk:
        """Write the checked chunk of a raw one."""
        raw = pl.read_parquet(piece.raw, glob=False).with_row_index("at")
        with without_cycle_search():
            rows = self._check(raw.filter(pl.col("reason").is_null()))
            broken = raw.filter(pl.col("reason").is_not_null())
            if broken.height:
                rows = pl.concat([rows, _restate(broken)], how="diagonal").sort("at")
            table = rows.select(CHECKED_SCHEMA.names()).to_arrow(compat_level=pl.CompatLevel.oldest())
        return CheckedChunk(piece.checked, write_chunk(table, piece.checked), raw.height)

    @cached_property
    def contract(self) -> TokenContract | None:
        """The token contract of the recipe and its base. A process makes its own."""
        if self._tokenizer is None:
            return None
        return TokenContract(
            self._tokenizer,
            loss_on=self._settings.loss_on,
            max_row_tokens=self._settings.max_row_tokens,
            truncate=self._actions["too_many_tokens"] == "fix",
        )

    @cached_property
    def _schema(self) -> Any:
        return row_schema(self._settings.max_message_chars)

    @cached_property
    def _shingler(self) -> Shingler:
        return Shingler(self._settings.near_duplicates.shingle_words)

    def _check(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.is_empty():
            return pl.DataFrame(schema={"at": frame.schema["at"], **CHECKED_SCHEMA})
        findings = Findings()
        turns, found = self._look_at_texts(Turns.read(frame["messages"], frame["extra"]), findings)
        self._look_at_extras(frame["extra"], found, findings)
        for row, code in find_breaches(state_facts(turns, found), self._schema):
            findings.breach(row, code, self._actions[code])
        mended = turns.pack(sorted(findings.fixes))
        messages = take_mended(mended, frame["messages"])
        if self.contract:
            self._tokenize(self.contract, messages, frame["extra"], findings)
        columns = [
            frame["at"],
            frame["line"],
            mended.alias("mended"),
            *self._hash(turns, frame),
            *findings.to_columns(frame.height, lambda row: _show(messages[row].to_list(), frame["extra"][row])),
        ]
        return pl.DataFrame(columns)

    def _look_at_texts(self, turns: Turns, findings: Findings) -> tuple[Turns, dict[str, dict[int, int]]]:
        """Mend what is to be mended, and count what is left by reason code and conversation."""
        found: dict[str, dict[int, int]] = {}
        actions, language = self._actions, self._settings.language
        rows = turns.frame["row"]
        # What is out for its length is not searched for minutes.
        limit = self._settings.max_message_chars if actions["message_too_long"] == "quarantine" else None
        is_out = None if limit is None else turns.frame["content"].str.len_chars() > limit
        for code, check in TEXT_CHECKS.items():
            if actions[code] == "off" or not (hits := find_texts(turns.frame, check, is_out)):
                continue
            if actions[code] == "fix":
                turns, mended = _mend(turns, hits, check)
                for row in sorted({rows[hit] for hit in mended}):
                    findings.fixes[row].append(code)
                hits = [hit for hit in hits if hit not in mended]
            found[code] = _count(rows, hits)
        if actions["refusal"] != "off":
            found["refusal"] = _count(rows, find_refusals(turns.frame))
        if language and actions["wrong_language"] != "off":
            found["wrong_language"] = _count(rows, find_other_languages(turns.frame, language))
        return turns, found

    def _look_at_extras(self, extras: pl.Series, found: dict[str, dict[int, int]], findings: Findings) -> None:
        """Note breaches in tools and tool calls, of conversations that have none of the kind in their messages."""
        checks = {code: check for code, check in TEXT_CHECKS.items() if self._actions[code] != "off"}
        for code, rows in find_in_extras(extras, checks, self._settings.max_message_chars).items():
            for row in rows:
                if row not in found.get(code, {}):
                    findings.breach(row, code, self._actions[code], describe_breach(code))

    def _tokenize(self, contract: TokenContract, messages: pl.Series, extras: pl.Series, findings: Findings) -> None:
        """Tokens of the rows that have no breach so far."""
        rows = [row for row in range(len(messages)) if row not in findings.reasons]
        for some in _in_batches(rows, _ROWS_AT_ONCE):
            conversations = zip(messages.gather(some).to_list(), extras.gather(some), strict=True)
            for row, tokens in zip(some, contract.tokenize(list(conversations)), strict=True):
                for code, detail in tokens.faults:
                    findings.breach(row, code, self._actions[code], detail)
                if tokens.truncated:
                    findings.fixes[row].append("too_many_tokens")
                findings.tokens[row] = tokens

    def _hash(self, turns: Turns, frame: pl.DataFrame) -> list[pl.Series]:
        """What the passes over all rows go by."""
        described = describe_rows(turns)
        asked, context = described["asked"], described["context"]
        sides = pl.select(pl.coalesce(pl.lit("group\x00") + frame["group"], asked)).to_series()
        prompts, positions = split_hashes(sides, self._settings.split_salt)
        if not (context == sides).all():
            prompts, _ = split_hashes(context, self._settings.split_salt)
        signatures: Any = [None] * frame.height
        if self._settings.near_duplicates.enabled:
            signatures = sign(shingle_texts(turns.say()), self._shingler)
        return [
            pl.Series("key", conversation_keys(described["text"], frame["extra"]), pl.Binary),
            pl.Series("prompt", prompts, pl.UInt64),
            pl.Series("position", positions, pl.Float64),
            pl.Series("signature", signatures, pl.Array(pl.UInt16, SIGNATURE)),
        ]


def _mend(turns: Turns, hits: list[int], check: TextCheck) -> tuple[Turns, set[int]]:
    """The turns with some contents mended, and the places of those where that was enough."""
    texts = zip(hits, turns.frame["content"].gather(hits), strict=True)
    mended = {hit: text for hit, before in texts if (text := mend_text(before, check)) is not None}
    return (turns.replace(list(mended), list(mended.values())) if mended else turns), set(mended)


def _count(rows: pl.Series, hits: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = defaultdict(int)
    for hit in hits:
        counts[rows[hit]] += 1
    return counts


def _restate(broken: pl.DataFrame) -> pl.DataFrame:
    """Rows that are no conversation, as a checked chunk has them."""
    return broken.select(
        "at",
        "line",
        "column",
        reasons=pl.concat_list("reason"),
        detail="detail",
        text="text",
        fixes=pl.lit([], pl.List(pl.String)),
        warnings=pl.lit([], pl.List(pl.String)),
    )


def _show(messages: list[Message], extra: str | None) -> str:
    turns, tools = unpack(messages, extra)
    return show_row({"messages": turns} | ({"tools": tools} if tools else {}))[:MAX_SHOWN_CHARS]


def _in_batches(rows: list[int], size: int) -> Iterator[list[int]]:
    yield from (rows[at : at + size] for at in range(0, len(rows), size))
