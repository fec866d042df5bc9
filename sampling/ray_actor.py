"""What runs in a process of its own on a Ray cluster: a sampler that answers calls.

The package must be installed on every machine of the cluster; Ray finds this class there by its
name.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sampling.clip_job import WorkUnit
from sampling.clip_sampler import SamplerSettings
from sampling.out_probe import check_probe
from weights.errors import OperationError, UserError

if TYPE_CHECKING:
    from sampling.manifest import Record
    from sampling.prompt_encoding import UnitEmbeddings


class Sampler(Protocol):
    """What `ClipSampler` is to an actor."""

    def sample(self, unit: WorkUnit, embeddings: "UnitEmbeddings") -> "list[Record]": ...

    def close(self) -> None: ...


Load = Callable[[SamplerSettings], Sampler]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A UserError on its way to the driver: pickled, the exception would lose its parts."""

    host: str
    given: str
    expected: str
    remedy: str
    exit_code: int

    def error(self) -> UserError:
        kind = OperationError if self.exit_code == OperationError.exit_code else UserError
        return kind(f"On {self.host}: {self.given}", self.expected, self.remedy)


class PipelineActor:
    """A sampler in a process of its own."""

    _sampler: Sampler

    def load(self, load: Load, settings: SamplerSettings, probe: Path | None) -> Refusal | None:
        """Become a sampler. None: it is ready.

        Of actors on one machine that start from a lock one installs the weights, and the others
        wait for it: `weights.caching.use` locks the cache's entry.

        Args:
            load: makes the sampler.
            settings: of it.
            probe: of `probe_in`, in OUT.
        """
        try:
            check_probe(probe)
            self._sampler = load(settings)
        except UserError as error:
            return _refusal(error)
        return None

    def sample(
        self, unit: WorkUnit, embeddings: "UnitEmbeddings"
    ) -> "tuple[Record, ...] | Refusal":
        """The records of `unit`, whose videos are then in OUT, or what ends the run."""
        try:
            return tuple(self._sampler.sample(unit, embeddings))
        except UserError as error:
            return _refusal(error)

    def close(self) -> None:
        """Remove the sampler's scratch files."""
        self._sampler.close()


def _refusal(error: UserError) -> Refusal:
    return Refusal(socket.gethostname(), error.given, error.expected, error.remedy, error.exit_code)
