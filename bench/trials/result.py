"""What a trial ends with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """`value` is in the trial's unit; `details` are further figures, by name."""

    value: float
    details: dict[str, float] = field(default_factory=dict)
    errors: int = 0
