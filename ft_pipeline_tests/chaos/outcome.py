"""What came of an event."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Outcome:
    """One disturbance and what it left.

    Attributes:
        kind: Such as `kill`.
        what: In words.
        stage: The asset under way, or START or END.
        process: Of a kill, which kind of process it met.
        facts: Figures of this kind of event.
        faults: What did not hold; empty: it was survived.
    """

    kind: str
    what: str
    stage: str = ""
    process: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def is_survived(self) -> bool:
        """Nothing is lost."""
        return not self.faults

    def to_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"survived": self.is_survived}
