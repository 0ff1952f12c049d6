"""validated_dataset: rows that keep the contract, tokenized and split; the others in quarantine with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.contract import TokenContract, TokenizedRow
from ft_pipeline.datasets.formats import FORMATS, RowFault
from ft_pipeline.datasets.schema import MESSAGES, conversation_schema, find_breaches, token_schema
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.split import conversation_key, prompt_of, split_position
from ft_pipeline.datasets.validated import (
    EVALUATION_FILE,
    HELD_OUT,
    QUARANTINE_FILE,
    TRAIN_FILE,
    ValidateRequest,
)
from ft_pipeline.errors import DatasetError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Check, Scalar, Summary

_ORIGIN = ("set", "source_file", "source_line")


def validate_dataset(request: ValidateRequest, reporter: Reporter) -> Summary:
    """Parse, check, deduplicate, tokenize and split the raw rows.

    Writes `train.parquet` (messages, input_ids, labels), `evaluation.parquet` (held-out rows and test sets)
    and `quarantine.parquet` (text, reason, detail), each with source file and line.

    Raises:
        BaseModelError: the base has no usable tokenizer or chat template.
        DatasetError: no row is left to train on, or none is held out.
    """
    settings = request.settings
    contract = TokenContract(request.base)
    raw = pl.read_parquet(request.raw_rows).with_row_index("row")
    parsed, faults = _parse(raw)
    kept, breaches = _apply(parsed, conversation_schema(settings.max_message_chars))
    kept, duplicates = _drop_duplicates(kept)
    tokenized, template_faults = _tokenize(kept, contract)
    clean, token_breaches = _apply(tokenized, token_schema(settings.max_row_tokens, contract.expected_bos))
    quarantine = _join_quarantine(raw, [faults, breaches, template_faults, token_breaches])
    clean = _assign_sets(clean, settings)
    _count_all(raw, clean, duplicates, quarantine)
    _write(request.out_dir, clean, quarantine)
    _require_rows(clean, raw, quarantine, settings)
    reporter.info(
        f"{raw.height} rows: {clean.height} kept, {quarantine.height} quarantined, {duplicates.height} duplicates"
    )
    return _summarize(raw, clean, duplicates, quarantine, settings, contract)


def _fault_frame(faults: Iterable[tuple[int, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(list(faults), schema={"row": pl.UInt32, "reason": pl.String, "detail": pl.String}, orient="row")


def _parse(raw: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    parse = FORMATS["chat_messages"]
    rows: list[int] = []
    messages: list[Any] = []
    faults: list[tuple[int, str, str]] = []
    for row, text, fault in raw.select("row", "text", "fault").iter_rows():
        if fault:
            faults.append((row, fault, "the line is no UTF-8 text of a sane length"))
            continue
        try:
            messages.append(parse(text))
            rows.append(row)
        except RowFault as err:
            faults.append((row, err.code, str(err)))
    parsed = pl.DataFrame({"row": rows, "messages": messages}, schema={"row": pl.UInt32, "messages": MESSAGES})
    return parsed.join(raw.select("row", *_ORIGIN), on="row", maintain_order="left"), _fault_frame(faults)


def _apply(frame: pl.DataFrame, schema: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a frame into rows that keep a schema and the breaches of the others."""
    breaches = find_breaches(frame, schema)
    rows = frame["row"].gather(breaches["index"])
    faults = pl.DataFrame({"row": rows, "reason": breaches["reason"], "detail": breaches["detail"]})
    return frame.filter(~pl.col("row").is_in(rows.implode())), faults


def _drop_duplicates(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the first of equal conversations within a set, and no training row whose prompt a test set asks."""
    keys = [conversation_key(messages) for messages in frame["messages"]]
    prompts = [prompt_of(messages) for messages in frame["messages"]]
    frame = frame.with_columns(pl.Series("key", keys, pl.String), pl.Series("prompt", prompts, pl.String))
    tested = frame.filter(pl.col("set") != TRAINING_SET)["prompt"].unique().implode()
    repeated = ~pl.struct("set", "key").is_first_distinct()
    leaked = (pl.col("set") == TRAINING_SET) & pl.col("prompt").is_in(tested)
    dropped = repeated | leaked
    return frame.filter(~dropped).drop("key"), frame.filter(dropped)


def _tokenize(frame: pl.DataFrame, contract: TokenContract) -> tuple[pl.DataFrame, pl.DataFrame]:
    from jinja2 import TemplateError

    rows: list[int] = []
    tokenized: list[TokenizedRow] = []
    faults: list[tuple[int, str, str]] = []
    for row, messages in frame.select("row", "messages").iter_rows():
        try:
            tokenized.append(contract.tokenize(messages))
            rows.append(row)
        except TemplateError as err:
            faults.append((row, "template_refuses", f"the chat template does not render it: {err}"))
    columns = pl.DataFrame(
        {
            "row": pl.Series(rows, dtype=pl.UInt32),
            "input_ids": pl.Series([t.input_ids for t in tokenized], dtype=pl.List(pl.Int32)),
            "labels": pl.Series([t.labels for t in tokenized], dtype=pl.List(pl.Int32)),
            "prefix_holds": pl.Series([t.prefix_holds for t in tokenized], dtype=pl.Boolean),
            "bos_tokens": pl.Series([t.bos_tokens for t in tokenized], dtype=pl.Int64),
            "ends_turn": pl.Series([t.ends_turn for t in tokenized], dtype=pl.Boolean),
            "completion_tokens": pl.Series([t.completion_tokens for t in tokenized], dtype=pl.Int64),
            "tokens": pl.Series([len(t.input_ids) for t in tokenized], dtype=pl.Int64),
        }
    )
    return frame.join(columns, on="row", maintain_order="left"), _fault_frame(faults)


def _join_quarantine(raw: pl.DataFrame, faults: list[pl.DataFrame]) -> pl.DataFrame:
    """One row for each raw row that is out, with all its reasons."""
    every = pl.concat([frame.with_columns(pl.col("row").cast(pl.UInt32)) for frame in faults])
    reasons = every.group_by("row", maintain_order=True).agg("reason", pl.col("detail").str.join("; "))
    return raw.join(reasons, on="row", maintain_order="left").drop("fault")


def _assign_sets(frame: pl.DataFrame, settings: DatasetSection) -> pl.DataFrame:
    positions = [split_position(prompt, settings.split_salt) for prompt in frame["prompt"]]
    is_held_out = (pl.col("set") == TRAINING_SET) & (pl.col("position") < settings.held_out_share)
    return frame.with_columns(pl.Series("position", positions, pl.Float64)).with_columns(
        pl.when(is_held_out).then(pl.lit(HELD_OUT)).otherwise(pl.col("set")).alias("set")
    )


def _count_all(raw: pl.DataFrame, clean: pl.DataFrame, duplicates: pl.DataFrame, quarantine: pl.DataFrame) -> None:
    accounted = clean.height + duplicates.height + quarantine.height
    if accounted != raw.height:
        raise DatasetError(
            f"rows were lost: {raw.height} came in, {accounted} are accounted for. This is a bug; report it."
        )


def _write(out_dir: Path, clean: pl.DataFrame, quarantine: pl.DataFrame) -> None:
    columns = [*_ORIGIN, "messages", "input_ids", "labels"]
    clean.filter(pl.col("set") == TRAINING_SET).select(columns).write_parquet(out_dir / TRAIN_FILE)
    evaluation = clean.filter(pl.col("set") != TRAINING_SET).sort("set", "position", "row")
    evaluation.select(columns).write_parquet(out_dir / EVALUATION_FILE)
    quarantine.select(*_ORIGIN, "reason", "detail", "text").write_parquet(out_dir / QUARANTINE_FILE)


def _require_rows(clean: pl.DataFrame, raw: pl.DataFrame, quarantine: pl.DataFrame, settings: DatasetSection) -> None:
    for name, share in ((TRAINING_SET, 1 - settings.held_out_share), (HELD_OUT, settings.held_out_share)):
        if clean.filter(pl.col("set") == name).is_empty():
            top = "; ".join(f"{reason['reason']}: {reason['rows']}" for reason in _count_reasons(quarantine)[:3])
            raise DatasetError(
                f"the {name} split must have at least one row; of {raw.height} rows {clean.height} are clean and "
                f"{share:.0%} belong there. Reasons of quarantine: {top or 'none'}. "
                "Add rows or change dataset.held_out_share."
            )


def _count_reasons(quarantine: pl.DataFrame) -> list[dict[str, Scalar]]:
    exploded = quarantine.explode("reason")
    first = exploded.group_by("reason").agg(
        pl.len().alias("rows"),
        pl.format("{}:{}", pl.col("source_file").first(), pl.col("source_line").first()).alias("first"),
        pl.col("detail").first().str.slice(0, 200).alias("detail"),
    )
    return first.sort("rows", "reason", descending=[True, False]).to_dicts()


def _summarize(
    raw: pl.DataFrame,
    clean: pl.DataFrame,
    duplicates: pl.DataFrame,
    quarantine: pl.DataFrame,
    settings: DatasetSection,
    contract: TokenContract,
) -> Summary:
    share = quarantine.height / raw.height
    reasons = _count_reasons(quarantine)
    training = clean.filter(pl.col("set") == TRAINING_SET)
    sets = clean.group_by("set").agg(
        pl.len().alias("rows"),
        pl.col("tokens").mean().round(1).alias("mean_tokens"),
        pl.col("tokens").max().alias("max_tokens"),
        pl.col("completion_tokens").mean().round(1).alias("mean_completion_tokens"),
    )
    top = ", ".join(f"{reason['reason']} {reason['rows']}" for reason in reasons[:3])
    return Summary(
        figures={
            "rows": raw.height,
            "training_rows": training.height,
            "training_tokens": int(training["tokens"].sum()),
            "max_row_tokens": int(training["tokens"].max()),  # type: ignore[arg-type]
            "quarantined_rows": quarantine.height,
            "duplicate_rows": duplicates.height,
            "bos_tokens": contract.expected_bos,
            "end_of_turn_id": contract.end_of_turn_id,
        },
        tables={"sets": sets.sort("set").to_dicts(), "quarantine": reasons},
        checks=[
            Check(
                name="quarantined_share",
                passed=share <= settings.max_quarantined_share,
                blocking=True,
                value=round(share, 4),
                limit=settings.max_quarantined_share,
                detail=f"{quarantine.height} of {raw.height} rows; most often: {top or 'none'}",
            )
        ],
    )
