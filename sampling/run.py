"""A prompt file becomes videos: what is to do goes to an executor, what comes back is recorded."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sampling.clip_job import WorkUnit
from sampling.clip_record import bad_line_record
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.interruption import interruptible
from sampling.manifest import Manifest, Record
from sampling.output_store import MANIFEST, OutputStore
from sampling.progress import ClipProgress, Progress
from sampling.prompt_encoding import EncodedPrompts, encode_prompts, needed_batches, text_batches
from sampling.scratch_folder import scratch_folder
from weights.urls import shown_url

if TYPE_CHECKING:
    from sampling.prepared_run import PreparedRun
    from sampling.prompt_encoding import UnitEmbeddings

_SHOWN_DROPPED = 5


class Executor(Protocol):
    """Who samples units: this process, several on this machine, or several machines.

    Made before prompts are encoded, so that what is wrong shows early; it takes memory of a GPU
    only from `results` on.
    """

    def results(
        self, units: "Iterable[tuple[WorkUnit, UnitEmbeddings]]"
    ) -> "Iterator[list[Record]]":
        """The records of each unit, in any order, as they come.

        Takes from `units` only what will soon be sampled, a few per worker: the embeddings of all
        would not fit in memory. An error that concerns one line is in its record; one that ends the
        run (no space, a lost cluster) is raised.
        """
        ...

    def close(self) -> None:
        """End the workers, also after an interruption in the middle of `results`."""
        ...


MakeExecutor = Callable[["PreparedRun"], Executor]


class SequentialExecutor:
    """Samples one unit after the other in this process; loads the weights with the first."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._settings = settings
        self._sampler: ClipSampler | None = None

    def results(
        self, units: "Iterable[tuple[WorkUnit, UnitEmbeddings]]"
    ) -> "Iterator[list[Record]]":
        for unit, embeddings in units:
            if self._sampler is None:
                self._sampler = ClipSampler.load(self._settings)
            yield self._sampler.sample(unit, embeddings)

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run came to. `kept`: clips that were there before; `failed`: errors by line, also
    those of earlier runs that were not tried again.
    """

    manifest: str
    lines: int
    kept: int
    made: int
    failed: Mapping[int, str]
    seconds: float

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "manifest": self.manifest,
            "lines": self.lines,
            "kept": self.kept,
            "made": self.made,
            "failed": len(self.failed),
            "failures": [{"line": n, "error": self.failed[n]} for n in sorted(self.failed)],
            "seconds": round(self.seconds, 3),
        }


def sequential(prepared: "PreparedRun") -> Executor:
    """The executor of this process alone."""
    return SequentialExecutor(prepared.settings)


def sample_prompts(prepared: "PreparedRun", make_executor: MakeExecutor = sequential) -> Summary:
    """Do all that is missing. Nothing is printed on stdout.

    Raises:
        UserError: the executor can't be made, or the weights are damaged.
        OperationError: there is no space left, or OUT, the GPU or the cluster is gone.
        KeyboardInterrupt: Ctrl-C or SIGTERM; OUT and the manifest are in order.
    """
    started = time.monotonic()
    work = prepared.work
    failed = dict(work.failed)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(interruptible())
        manifest = Manifest(prepared.store)
        stack.callback(manifest.close)
        bar = Progress("clips", prepared.lines, before=len(work.done), failed=len(work.failed))
        progress = ClipProgress(bar)
        stack.callback(bar.close)
        bad_records = [bad_line_record(bad) for bad in work.bad_lines]
        for record in bad_records:
            manifest.append(record)
        progress.add(bad_records)
        new = {record.line: record.error for record in bad_records}
        if work.units:
            executor = make_executor(prepared)
            stack.callback(executor.close)
            # Some executors bring handlers of their own.
            check = stack.enter_context(interruptible())
            prompts = _encoded(prepared, stack.enter_context(scratch_folder()), check)
            bar.start()
            new |= run_sampling(work.units, prompts, executor, manifest, progress, check)
    failed |= {line: error for line, error in new.items() if error is not None}
    return Summary(
        manifest=manifest_url(prepared.store),
        lines=prepared.lines,
        kept=len(work.done),
        made=sum(error is None for error in new.values()),
        failed=failed,
        seconds=time.monotonic() - started,
    )


def run_sampling(
    units: Iterable[WorkUnit],
    prompts: EncodedPrompts,
    executor: Executor,
    manifest: Manifest,
    progress: ClipProgress,
    check: Callable[[], object],
) -> dict[int, str | None]:
    """Have `units` sampled and recorded; gives what went wrong, or None, by line.

    A video is put in OUT before its record is added: one without a record is made again.
    """
    came: dict[int, str | None] = {}
    for records in executor.results((unit, prompts.of(unit)) for unit in units):
        for record in records:
            manifest.append(record)
            came[record.line] = record.error
        progress.add(records)
        check()
    return came


def manifest_url(store: OutputStore) -> str:
    """Where the manifest is, in words."""
    # A folder's name may have all that is left out of a URL.
    place = store.url if store.url.startswith("/") else shown_url(store.url)
    return f"{place.rstrip('/')}/{MANIFEST}"


def _encoded(prepared: "PreparedRun", folder: Path, check: Callable[[], object]) -> EncodedPrompts:
    """The embeddings of all texts that the units need, in `folder`; what is cut off is told."""
    batches = needed_batches(text_batches(prepared.plan.jobs), prepared.work.units)
    progress = Progress("prompts", sum(map(len, batches)))
    too_long = 0

    def tell_dropped(text: str, dropped: str) -> None:
        nonlocal too_long
        too_long += 1
        if too_long <= _SHOWN_DROPPED:
            # Quoted and escaped: a prompt with line breaks could else forge lines of the log.
            shown = repr(dropped) if prepared.log_prompts else f"{len(dropped)} characters"
            progress.tell(f"A prompt is too long; the model does not see: {shown}")

    def advance(count: int) -> None:
        progress.advance(count)
        check()

    progress.start()
    try:
        encoded = encode_prompts(
            prepared.weights,
            prepared.settings.pipeline,
            batches,
            folder,
            advance=advance,
            tell_dropped=tell_dropped,
        )
        if too_long:
            tokens = prepared.weights.variant.text_tokens
            progress.tell(f"{too_long} of the texts have more than {tokens} tokens.")
    finally:
        progress.close()
    return encoded
