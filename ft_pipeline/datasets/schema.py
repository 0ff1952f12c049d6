"""The contract of a row, as two pandera schemas on polars; the name of a check is the reason code of a breach.

`CONVERSATION` holds before tokens are counted, `TOKENS` after. The limits of the recipe are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandera.errors
import pandera.polars as pa
import polars as pl

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))

# What must never be in a training row: a model repeats it to whoever asks.
_SECRET = "|".join(
    (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS access key id
        r"\bgh[pousr]_[0-9A-Za-z]{36}\b",  # GitHub token
        r"\bsk-[0-9A-Za-z_-]{32,}",  # OpenAI and Anthropic keys
        r"\bxox[abprs]-[0-9A-Za-z-]{10,}",  # Slack token
        r"\bAIza[0-9A-Za-z_-]{35}",  # Google API key
        r"\bhf_[0-9A-Za-z]{34}\b",  # Hugging Face token
    )
)
_CONTENTS = pl.element().struct.field("content")
_ROLES = pl.col("messages").list.eval(pl.element().struct.field("role"))
_TEXT = pl.col("messages").list.eval(_CONTENTS).list.join("\n")


def _check(code: str, holds: pl.Expr, rule: str) -> pa.Check:
    return pa.Check(lambda data: data.lazyframe.select(holds), name=code, description=rule)


def conversation_schema(max_message_chars: int) -> pa.DataFrameSchema:
    """Roles, their order, empty turns, length in characters, secrets."""
    checks = [
        _check("unknown_role", _ROLES.list.eval(pl.element().is_in(["system", "user", "assistant"])).list.all(),
               "roles must be system, user or assistant"),
        _check("role_order", _ROLES.list.join(",").str.contains(r"^(system,)?user,assistant(,user,assistant)*$"),
               "a system turn may come first, then user and assistant must alternate and the last be an assistant's"),
        _check("empty_turn", pl.col("messages").list.eval(_CONTENTS.str.strip_chars().str.len_chars() > 0).list.all(),
               "every turn must have text"),
        _check("message_too_long",
               pl.col("messages").list.eval(_CONTENTS.str.len_chars() <= max_message_chars).list.all(),
               f"a message must have at most {max_message_chars} characters (dataset.max_message_chars)"),
        _check("control_character", ~_TEXT.str.contains(r"[\x00-\x08\x0b\x0c\x0e-\x1f]"),
               "text must be free of control characters"),
        _check("secret", ~_TEXT.str.contains(_SECRET), "text must be free of keys and tokens"),
    ]  # fmt: skip
    return pa.DataFrameSchema({"messages": pa.Column(MESSAGES, checks=checks)})


def token_schema(max_row_tokens: int, expected_bos: int) -> pa.DataFrameSchema:
    """The token contract: see `contract.py` for what the columns hold."""
    column: Callable[[str], pl.Expr] = pl.col
    return pa.DataFrameSchema(
        {
            "prefix_holds": pa.Column(bool, checks=[
                _check("template_prefix", column("prefix_holds"),
                       "the template's rendering of the prompt must begin that of the whole conversation")]),
            "bos_tokens": pa.Column(pl.Int64, checks=[
                _check("bos_count", column("bos_tokens") == expected_bos,
                       f"a row must have {expected_bos} BOS tokens, text that looks like one counts")]),
            "ends_turn": pa.Column(bool, checks=[
                _check("no_end_of_turn", column("ends_turn"), "the completion must end with the end-of-turn token")]),
            "completion_tokens": pa.Column(pl.Int64, checks=[
                _check("nothing_to_learn", column("completion_tokens") > 1, "the completion must have tokens")]),
            "tokens": pa.Column(pl.Int64, checks=[
                _check("too_many_tokens", column("tokens") <= max_row_tokens,
                       f"a row must have at most {max_row_tokens} tokens (dataset.max_row_tokens)")]),
        }
    )  # fmt: skip


def find_breaches(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> pl.DataFrame:
    """All breaches of a schema.

    Returns:
        A frame with `index` (position in `frame`), `reason` (code) and `detail` (the rule), one row a breach.
    """
    empty = pl.DataFrame(schema={"index": pl.Int64, "reason": pl.String, "detail": pl.String})
    if frame.is_empty():
        return empty
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as err:
        rules = {check.name: check.description for column in schema.columns.values() for check in column.checks}
        return _to_breaches(err.failure_cases, rules)
    return empty


def _to_breaches(cases: Any, rules: dict[str | None, str | None]) -> pl.DataFrame:
    breaches: pl.DataFrame = cases.select(
        pl.col("index").cast(pl.Int64),
        pl.col("check").alias("reason"),
        pl.col("check").replace_strict(rules, default=pl.col("check")).alias("detail"),
    )
    return breaches
