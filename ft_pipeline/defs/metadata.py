"""From an artifact's summary to what Dagster's UI shows."""

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.artifact import Artifact
from ft_pipeline.errors import PipelineError
from ft_pipeline.publishing.publication import Publication
from ft_pipeline.summary import Check, Scalar


def to_result(
    artifact: Artifact, specs: Sequence[dg.AssetCheckSpec] = (), report: Artifact | None = None
) -> dg.MaterializeResult:
    """The materialization of an artifact: figures, tables, plots, checks, and its fingerprint as data version.

    Args:
        artifact: What was made.
        specs: The checks that the asset has promised.
        report: An artifact that describes it; what that shows is shown here.
    """
    manifest = artifact.manifest
    metadata: dict[str, dg.MetadataValue[Any]] = {
        "path": dg.MetadataValue.path(artifact.path),
        "reused": dg.MetadataValue.bool(artifact.reused),
        "size": dg.MetadataValue.int(artifact.size_bytes),
        "wall_seconds": dg.MetadataValue.float(manifest.wall_seconds),
        "built_at": dg.MetadataValue.timestamp(manifest.created_at),
    }
    if manifest.peak_rss_bytes:
        metadata["peak_rss_bytes"] = dg.MetadataValue.int(manifest.peak_rss_bytes)
    metadata |= _show(artifact)
    if report:
        metadata = _show(report) | metadata
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(manifest.fingerprint),
        check_results=list(_to_checks(manifest.summary.checks, specs)),
    )


def _show(artifact: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    summary, path = artifact.manifest.summary, artifact.path
    shown = {name: _to_value(value) for name, value in summary.figures.items()}
    shown |= {f"table: {name}": _to_table(rows) for name, rows in summary.tables.items() if rows}
    shown |= {f"plot: {name}": _to_plot(path / file) for name, file in summary.plots.items()}
    return shown | {name: dg.MetadataValue.path(path / file) for name, file in summary.files.items()}


def publication_to_result(publication: Publication) -> dg.MaterializeResult:
    """What publishing did; the data version is the champion's fingerprint, so a champion that stays is no change."""
    champion = publication.champion
    metadata: dict[str, dg.MetadataValue[Any]] = {
        "published": dg.MetadataValue.bool(publication.published),
        "reason": dg.MetadataValue.text(publication.reason),
        "score": _to_value(publication.score),
        "previous_score": _to_value(publication.previous_score),
        "deliveries": dg.MetadataValue.text("\n".join(publication.deliveries) or "none"),
        "removed_artifacts": dg.MetadataValue.int(len(publication.removed)),
        "freed_bytes": dg.MetadataValue.int(publication.freed_bytes),
    }
    if champion:
        metadata |= {
            "champion": dg.MetadataValue.text(champion.gguf_model),
            "champion_since": dg.MetadataValue.timestamp(champion.since),
            "champion_score": _to_value(champion.score),
        }
    places = {"published_folder": publication.folder, "gguf": publication.gguf, "modelfile": publication.modelfile}
    metadata |= {name: dg.MetadataValue.path(path) for name, path in places.items() if path}
    if publication.history:
        metadata["table: history"] = _to_table(list(publication.history))
    return dg.MaterializeResult(
        metadata=metadata, data_version=dg.DataVersion(champion.gguf_model if champion else "none")
    )


def to_check(examine: Callable[[], Artifact]) -> dg.AssetCheckResult:
    """The result of a check that is an artifact of its own; what it raises for people is why it failed."""
    try:
        artifact = examine()
    except PipelineError as err:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.ERROR, description=str(err))
    return dg.AssetCheckResult(passed=True, metadata=_show(artifact))


def _to_value(value: Scalar) -> dg.MetadataValue[Any]:
    match value:
        case None:
            return dg.MetadataValue.null()
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
    return dg.MetadataValue.text(value)


def _to_table(rows: list[dict[str, Scalar]]) -> dg.MetadataValue[Any]:
    records = [dg.TableRecord({key: "" if value is None else value for key, value in row.items()}) for row in rows]
    return dg.MetadataValue.table(records, schema=dg.TableSchema([dg.TableColumn(name) for name in rows[0]]))


def _to_plot(path: Path) -> dg.MetadataValue[Any]:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{encoded})")


def _to_checks(checks: list[Check], specs: Sequence[dg.AssetCheckSpec]) -> Iterator[dg.AssetCheckResult]:
    found = {check.name: check for check in checks}
    for name in (spec.name for spec in specs):
        check = found.get(name)
        if check is None:
            yield dg.AssetCheckResult(check_name=name, passed=True, description="The recipe has no such rule.")
            continue
        yield dg.AssetCheckResult(
            check_name=name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
            description=check.detail,
            metadata={"value": _to_value(check.value), "limit": _to_value(check.limit)},
        )
