"""Units sampled one after the other, each by a group of processes on this machine."""

import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sampling.clip_job import WorkUnit
from sampling.clip_record import failed_record
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.parallel.layouts import Layout
from sampling.parallel.rank import Broken, Group, Load, Message, Outcome, Refused, pack, run_rank
from weights.errors import OperationError, UserError

if TYPE_CHECKING:
    from sampling.manifest import Record
    from sampling.prompt_encoding import UnitEmbeddings

# Groups in succession that may break at their first unit until the run is ended: each loads the
# weights again.
_ATTEMPTS = 3
# Seconds for the other ranks to fail as one did. If they have not, they wait for it in vain.
_PATIENCE = 60.0
# Seconds that ranks have to end by themselves, once they are told to.
_LAST_WORDS = 10.0


class _BrokenGroupError(Exception):
    """The ranks are not at the same place of a computation any more."""


class ParallelExecutor:
    """Samples units on all devices of a layout at once: an `Executor`.

    Each device has a process, a rank, with all of the pipeline. Where a rank fails in the midst of
    a video the others can't go on: the video is recorded as failed, and the next one gets new
    processes. A rank that dies ends the run.
    """

    def __init__(
        self, settings: SamplerSettings, layout: Layout, *, load: Load = ClipSampler.load
    ) -> None:
        """Start nothing yet; the weights are loaded with the first unit.

        Raises:
            UserError: there are fewer GPUs, or `settings` ask for what a group can't do.
        """
        _check(settings, layout)
        self._settings = settings
        self._layout = layout
        self._load = load
        self._ranks: _Ranks | None = None

    def results(
        self, units: "Iterable[tuple[WorkUnit, UnitEmbeddings]]"
    ) -> "Iterator[list[Record]]":
        """The records of each unit, in the units' order.

        Raises:
            UserError: a rank can't use OUT or the weights.
            OperationError: there is no space left, a rank died, or groups break time and again.
        """
        broken = 0
        for unit, embeddings in units:
            if self._ranks is None:
                self._ranks = _Ranks(self._settings, self._layout, self._load)
            try:
                records = self._ranks.sample(unit, embeddings)
                broken = 0
            except _BrokenGroupError as error:
                self._ranks.end()
                self._ranks = None
                broken += 1
                if broken == _ATTEMPTS:
                    raise _hopeless(unit, str(error)) from None
                (job,) = unit.jobs
                records = [failed_record(job, str(error), None)]
            yield records

    def close(self) -> None:
        """End the ranks, whatever they are doing."""
        if self._ranks is not None:
            self._ranks.end()
            self._ranks = None


class _Ranks:
    """Running processes; their files are in a folder of their own."""

    def __init__(self, settings: SamplerSettings, layout: Layout, load: Load) -> None:
        self._layout = layout
        self._busy = True
        self._line: int | None = None
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        # Files of a rank that is killed go with it.
        self._folder = TemporaryDirectory(prefix="cogvideox-parallel-", ignore_cleanup_errors=True)
        try:
            self._start(
                dataclasses.replace(settings, scratch=settings.scratch or Path(self._folder.name)),
                Group(layout=layout, meeting_point=Path(self._folder.name) / "meeting-point"),
                load,
            )
            # Whoever comes late, say by a download, must not be waited for in a computation.
            self._answers()
            self._busy = False
        except _BrokenGroupError as error:
            self.end()
            raise _not_loaded(str(error)) from None
        except BaseException:
            self.end()
            raise

    def sample(self, unit: WorkUnit, embeddings: "UnitEmbeddings") -> "list[Record]":
        """Raises UserError, OperationError and _BrokenGroupError; then only `end` is left to do."""
        self._line = unit.jobs[0].line
        self._busy = True
        packed = pack(unit, embeddings)
        for rank, connection in enumerate(self._connections):
            try:
                connection.send_bytes(packed)
            except OSError:
                raise self._death(rank) from None
        outcomes = self._answers()
        self._busy = False
        return [record for outcome in outcomes for record in outcome.records]

    def end(self) -> None:
        """Leave no process behind: idle ones may tidy up, others are killed."""
        for connection in self._connections:
            connection.close()
        deadline = time.monotonic() + (0 if self._busy else _LAST_WORDS)
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        for process in self._processes:
            process.join()
        self._connections.clear()
        self._processes.clear()
        self._folder.cleanup()

    def _start(self, settings: SamplerSettings, group: Group, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(group.layout.devices):
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            process = context.Process(
                target=run_rank,
                args=(rank, settings, group, load, theirs),
                name=f"rank {rank}",
                daemon=True,
            )
            with _interrupts_held():
                process.start()
            self._processes.append(process)
            # Then a rank's death closes the pipe.
            theirs.close()

    def _answers(self) -> list[Outcome]:
        """One message of each rank."""
        waiting = dict(zip(self._connections, range(self._layout.devices), strict=True))
        outcomes: list[Outcome] = []
        deadline: float | None = None
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait(list(waiting), left)
            if not ready:
                raise _BrokenGroupError(_first_error(outcomes))
            for connection in ready:
                assert isinstance(connection, Connection)
                message = self._message(connection, waiting.pop(connection))
                if isinstance(message, Outcome):
                    outcomes.append(message)
                    if message.errors and deadline is None:
                        deadline = time.monotonic() + _PATIENCE
        return outcomes

    def _message(self, connection: Connection, rank: int) -> Message:
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):
            raise self._death(rank) from None
        if isinstance(message, Refused):
            raise message.kind(*message.sentences)
        if isinstance(message, Broken):
            # It may only have noticed that another one died.
            for other, process in enumerate(self._processes):
                process.join(0.2)
                if process.exitcode:
                    raise self._death(other)
            raise _BrokenGroupError(message.message)
        return message

    def _death(self, rank: int) -> OperationError:
        process = self._processes[rank]
        process.join(_LAST_WORDS)
        code = process.exitcode
        cause = f"signal {-code}" if code and code < 0 else f"exit code {code}"
        during = "while it loaded" if self._line is None else f"at line {self._line}"
        return OperationError(
            f"Process {rank + 1} of {self._layout.devices} died {during} ({cause}).",
            "A video is made by all of them together; signal 9 mostly means that the machine had "
            "not enough memory, which each process needs for a whole model.",
            "Give the same command again, it goes on; or use a smaller --parallel.",
        )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. Processes started here never see it, and this
    one, which ends them, does so a moment later.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _check(settings: SamplerSettings, layout: Layout) -> None:
    if settings.batch > 1:
        raise UserError(
            f"--batch is {settings.batch} and --parallel {layout.devices}.",
            "Devices that share a video make one at a time.",
            "Leave one of the two out.",
        )
    if settings.pipeline.compiled:
        raise UserError(
            f"COGVIDEOX_COMPILE is 1 and --parallel {layout.devices}.",
            "Blocks that are shared between devices are not compiled.",
            "Leave one of the two out.",
        )
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < layout.devices:
        raise UserError(
            f"--parallel is {layout.devices} and there {'is' if gpus == 1 else 'are'} {gpus} "
            f"GPU{'' if gpus == 1 else 's'} here.",
            "Each process needs one of its own, on this machine.",
            f"Use --parallel {gpus} or less." if gpus > 1 else "Leave --parallel out.",
        )


def _first_error(outcomes: list[Outcome]) -> str:
    return next(error for outcome in outcomes for error in outcome.errors.values())


def _not_loaded(message: str) -> OperationError:
    return OperationError(
        f"A process could not load the weights: {message}",
        "Each process holds the whole model.",
        "Sample without --parallel to see whether that loads; --debug shows where it fails.",
    )


def _hopeless(unit: WorkUnit, message: str) -> OperationError:
    return OperationError(
        f"Processes failed at {_ATTEMPTS} lines in succession, the last of which is "
        f"{unit.jobs[0].line}: {message}",
        "The weights were loaded anew after each.",
        "Ask for fewer frames, or use another --parallel; --debug shows where it fails.",
    )
