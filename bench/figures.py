"""What a benchmark writes down: figures, and how each case of it ended."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["done", "skipped", "failed", "out of memory", "interrupted"]
# "computed" is arithmetic on measured figures, "predicted" is what `cogvideox plan` says.
Origin = Literal["measured", "computed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and what it is to be held against.

    `target` is what it should not exceed; `predicted` is what was expected of it, in the same unit.
    Where there is no `value`, `note` says why.
    """

    name: str
    value: float | None
    unit: str = ""
    origin: Origin = "measured"
    target: float | None = None
    predicted: float | None = None
    note: str = ""

    @property
    def reaches_target(self) -> bool | None:
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target

    @property
    def off_by(self) -> float | None:
        """How far it lies from the prediction, as a share of the prediction: 0.1 is 10 % above."""
        if self.value is None or self.predicted is None:
            return None
        return self.value / self.predicted - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one case ended. `reason` says why, where it is not done; a note, where it is."""

    case: str
    status: Status
    seconds: float
    figures: tuple[Figure, ...] = ()
    reason: str = ""
