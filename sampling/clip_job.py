"""One line of a prompt file as work to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from predictors.request import Request

SatSampler = Literal["dpmpp2m", "ddim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipJob:
    """A clip to sample: what a line asks for, checked against the variant's rules.

    `sat_sampler` takes the place of the request's scheduler: None for that one. `key` says by a
    digest whether an existing clip was made of the same.
    """

    line: int
    request: Request
    image: Path | None
    sat_sampler: SatSampler | None
    key: str

    @property
    def name(self) -> str:
        """The clip's file name in OUT."""
        return f"{self.line:06}.{self.request.output_format}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """Clips that are sampled as one batch: always all of them, so that the bytes are the same.

    `missing` are the lines whose files are to be written.
    """

    number: int
    jobs: tuple[ClipJob, ...]
    missing: frozenset[int]
