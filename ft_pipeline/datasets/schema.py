"""The contract of a row as a pandera schema on polars; the name of a check is the reason code of its breach.

It is a schema of facts, one row for each conversation: what was counted in its turns and found in its texts. So a
breach costs the same however long the text is, and the whole contract stands in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.checks import CHECKS
from ft_pipeline.datasets.checks.text import IS_BLANK, TEXT_CHECKS
from ft_pipeline.datasets.conversation import ROLES, TEXT_ROLE
from ft_pipeline.datasets.turns import Turns

if TYPE_CHECKING:
    import pandera.polars as pa  # takes half a second: only where rows are checked

_ANSWER = "assistant(,(tool,)+assistant)*"
_ORDER = rf"^(?:{TEXT_ROLE}|(?:system,)?user,{_ANSWER}(?:,user,{_ANSWER})*)$"
# Found in texts, one column of counts each; a column is there only if something was found.
FOUND = (*TEXT_CHECKS, "refusal", "wrong_language")


def row_schema(max_message_chars: int) -> pa.DataFrameSchema:
    """All checks that need no tokenizer.

    Args:
        max_message_chars: The recipe's limit.
    """
    import pandera.polars as pa

    columns = {
        "unknown_roles": pa.Column(pl.UInt32, checks=[_check("unknown_role", pl.col("unknown_roles") == 0)]),
        "roles": pa.Column(str, checks=[_check("role_order", pl.col("roles").str.contains(_ORDER))]),
        "empty_turns": pa.Column(pl.UInt32, checks=[_check("empty_turn", pl.col("empty_turns") == 0)]),
        "longest_chars": pa.Column(
            pl.UInt32, checks=[_check("message_too_long", pl.col("longest_chars") <= max_message_chars)]
        ),
    }
    found = {code: pa.Column(pl.UInt32, _check(code, pl.col(code) == 0), required=False) for code in FOUND}
    return pa.DataFrameSchema(columns | found)


def find_breaches(facts: pl.DataFrame, schema: pa.DataFrameSchema) -> list[tuple[int, str]]:
    """All breaches of a schema.

    Returns:
        Position in the frame and reason code of each.
    """
    from pandera.errors import SchemaErrors

    if facts.is_empty():
        return []
    try:
        schema.validate(facts, lazy=True)
    except SchemaErrors as err:
        cases: Any = err.failure_cases
        return sorted({(int(index), str(check)) for index, check in cases.select("index", "check").iter_rows()})
    return []


def state_facts(turns: Turns, found: Mapping[str, Mapping[int, int]]) -> pl.DataFrame:
    """One row of facts for each conversation.

    Args:
        turns: All turns of a chunk.
        found: By reason code, how many texts of a conversation break a check.
    """
    frame, starts = turns.frame, turns.starts[:-1]
    is_empty = frame.select(IS_BLANK & ~pl.col("may_be_empty")).to_series()
    chars = frame["content"].str.len_chars().to_numpy()
    columns = [
        _count(_find_unknown_roles(turns), starts).alias("unknown_roles"),
        turns.join(frame["role"], ",").alias("roles"),
        _count(is_empty, starts).alias("empty_turns"),
        pl.Series("longest_chars", np.maximum.reduceat(chars, starts).astype(np.uint32)),
    ]
    for code, counts in found.items():
        if counts:
            values = np.zeros(len(starts), np.uint32)
            values[list(counts)] = list(counts.values())
            columns.append(pl.Series(code, values))
    return pl.DataFrame(columns)


def _find_unknown_roles(turns: Turns) -> pl.Series:
    """Which turns have a role that nobody knows. Plain text is of one turn: beside others its role is unknown too."""
    is_alone = pl.Series(np.repeat(np.diff(turns.starts) == 1, np.diff(turns.starts)))
    roles = turns.frame["role"]
    return ~(roles.is_in(ROLES) | ((roles == TEXT_ROLE) & is_alone))


def _count(is_hit: pl.Series, starts: NDArray[np.int64]) -> pl.Series:
    """How many turns of each conversation are hit."""
    return pl.Series(np.add.reduceat(is_hit.to_numpy().astype(np.uint32), starts).astype(np.uint32))


def _check(code: str, holds: pl.Expr) -> pa.Check:
    import pandera.polars as pa

    return pa.Check(lambda data: data.lazyframe.select(holds), name=code, description=CHECKS[code].rule)
