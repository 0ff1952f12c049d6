"""What a stage has to say about its artifact, for the manifest and for Dagster's metadata."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str | None


class Check(BaseModel):
    """One promise about an artifact, with the value that was found and its limit.

    Attributes:
        blocking: What comes after this artifact must not run when the check has failed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    passed: bool
    blocking: bool
    value: Scalar = None
    limit: Scalar = None
    detail: str = ""


class Summary(BaseModel):
    """Figures, tables and plots of one artifact.

    Attributes:
        figures: Named values; the unit is in the name (`wall_seconds`, `size_bytes`).
        tables: Named lists of rows; all rows of a table have the same keys.
        plots: Title to the name of a PNG file inside the artifact.
        files: Label to the name of a file inside the artifact that a person would open.
        checks: What was promised of the artifact and whether it holds.
        sha256: By file name, what a stage has hashed while it wrote; other files are read again for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    figures: dict[str, Scalar] = {}
    tables: dict[str, list[dict[str, Scalar]]] = {}
    plots: dict[str, str] = {}
    files: dict[str, str] = {}
    checks: list[Check] = []
    sha256: dict[str, str] = {}

    @property
    def failed(self) -> list[Check]:
        """The blocking checks that did not pass."""
        return [check for check in self.checks if check.blocking and not check.passed]
