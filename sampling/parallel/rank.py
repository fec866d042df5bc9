"""One of the processes that make a video together."""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampling.clip_job import WorkUnit
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.parallel.layouts import Layout
from sampling.parallel.parallelize import parallelize
from weights.errors import UserError

if TYPE_CHECKING:
    from sampling.manifest import Record
    from sampling.prompt_encoding import UnitEmbeddings

Load = Callable[[SamplerSettings], ClipSampler]

_ENVIRONMENT = {
    # All ranks are on this machine: nothing of theirs is to be reached from outside.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What a rank has to know of the others: `meeting_point` is a file that is not there yet."""

    layout: Layout
    meeting_point: Path


@dataclass(frozen=True, slots=True)
class Ready:
    """The weights are loaded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A unit is through: its records, of rank 0 only, and what went wrong, by line."""

    records: "tuple[Record, ...]"
    errors: dict[int, str]


@dataclass(frozen=True, slots=True)
class Broken:
    """This rank left a computation that the others are in: the group is of no use any more."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An error that ends the run: the sentences of a UserError and its kind."""

    kind: type[UserError]
    sentences: tuple[str, str, str]


Message = Ready | Outcome | Broken | Refused


class _OutOfStep(BaseException):
    """The transformer is called again after a call that failed; other ranks may be in that one.

    Not an Exception: whoever tries a failed video again must not catch it. What the ranks exchange
    would no longer belong together, and no error would tell.
    """


def run_rank(
    rank: int, settings: SamplerSettings, group: Group, load: Load, connection: Connection
) -> None:
    """Load the weights, then sample along with the other ranks what comes through `connection`.

    Sends a `Message` when loaded and for each unit. Ends when `connection` is closed, after a
    `Broken` or `Refused`, and with the process that started it, however that ended.
    """
    _detach(rank, debug=settings.debug)
    try:
        sampler = load(settings)
        connection.send(Ready())
        try:
            _sample_along(rank, sampler, group, connection)
        finally:
            sampler.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        sentences = (error.given, error.expected, error.remedy)
        connection.send(Refused(type(error), sentences))
    except (Exception, _OutOfStep) as error:
        connection.send(Broken(f"{type(error).__name__}: {error}"))


def pack(unit: WorkUnit, embeddings: "UnitEmbeddings") -> bytes:
    """A unit as it is sent to ranks. Not by `Connection.send`: torch would put the tensors into
    shared memory, of which containers have little.
    """
    return pickle.dumps((unit, embeddings))


def _detach(rank: int, *, debug: bool) -> None:
    """Keep to one GPU, away from standard output, and not alive when the parent is not."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # To be set before torch asks for GPUs: what says "cuda" anywhere then means this rank's.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = str(rank) if visible is None else visible.split(",")[rank : rank + 1]
    os.environ["CUDA_VISIBLE_DEVICES"] = "".join(own)
    # Standard output is the command's own, and one rank's messages are enough.
    silence = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stdout = silence if rank else sys.stderr
    if rank and not debug:
        sys.stderr = silence


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # A rank may be waiting for one that is gone already, in code that no exception reaches.
        os.kill(os.getpid(), signal.SIGKILL)


def _sample_along(rank: int, sampler: ClipSampler, group: Group, connection: Connection) -> None:
    work = connection.recv()
    with _joined(rank, group):
        parallelize(sampler.pipe, group.layout)
        in_step = _watch(sampler.pipe.transformer)
        while work is not None:
            outcome = _outcome(rank, sampler, *work)
            if not in_step():
                connection.send(Broken("; ".join(outcome.errors.values())))
                return
            connection.send(outcome)
            work = _next(connection)


def _next(connection: Connection) -> "tuple[WorkUnit, UnitEmbeddings] | None":
    try:
        return connection.recv()  # type: ignore[no-any-return]
    except EOFError:
        return None


@contextmanager
def _joined(rank: int, group: Group) -> Iterator[None]:
    """Meet the others, at a file: a port could be taken, and would be open to others."""
    import torch
    import torch.distributed as dist

    # Sizes of parts are exchanged on the CPU: asked of a GPU, they would make it wait.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        init_method=group.meeting_point.as_uri(),
        rank=rank,
        world_size=group.layout.devices,
    )
    yield
    # Not after an error: it would wait for the others.
    dist.destroy_process_group()


def _outcome(
    rank: int, sampler: ClipSampler, unit: WorkUnit, embeddings: "UnitEmbeddings"
) -> Outcome:
    if rank:
        _, errors = sampler.denoised(unit, embeddings)
        return Outcome((), errors)
    records = sampler.sample(unit, embeddings)
    return Outcome(
        tuple(records), {record.line: record.error for record in records if record.error}
    )


def _watch(transformer: Any) -> Callable[[], bool]:
    """Whether all calls of `transformer` came to their end."""
    inside = False

    def enter(_transformer: Any, _inputs: Any) -> None:
        nonlocal inside
        if inside:
            raise _OutOfStep("a call of the transformer failed")
        inside = True

    def leave(_transformer: Any, _inputs: Any, _output: Any) -> None:
        nonlocal inside
        inside = False

    transformer.register_forward_pre_hook(enter, prepend=True)
    transformer.register_forward_hook(leave)
    return lambda: not inside
