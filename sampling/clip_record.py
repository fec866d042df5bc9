"""What the manifest says of a line: that its video is there, or why not."""

from dataclasses import replace
from pathlib import Path

from sampling.clip_job import ClipJob
from sampling.clip_key import file_digest
from sampling.job_plan import BadLine, settings_of
from sampling.manifest import Record


def done_record(job: ClipJob, video: Path, seconds: float) -> Record:
    """The record of `job`, whose video is in the file `video` and goes to OUT as it is."""
    return replace(
        _record(job, seconds),
        file=job.name,
        digest=file_digest(video),
        bytes=video.stat().st_size,
    )


def failed_record(job: ClipJob, error: str, seconds: float | None) -> Record:
    """The record of `job`, which has no video."""
    return replace(_record(job, seconds), error=error)


def _record(job: ClipJob, seconds: float | None) -> Record:
    return Record(
        line=job.line,
        prompt=job.request.prompt,
        image=str(job.image) if job.image else None,
        seed=job.request.seed,
        settings=settings_of(job),
        key=job.key,
        file=None,
        digest=None,
        bytes=None,
        seconds=None if seconds is None else round(seconds, 3),
        error=None,
    )


def bad_line_record(bad: BadLine) -> Record:
    """The record of a line that asks for nothing that can be made."""
    return Record(
        line=bad.line,
        prompt=bad.prompt,
        image=None,
        seed=None,
        settings={},
        key=bad.key,
        file=None,
        digest=None,
        bytes=None,
        seconds=None,
        error=bad.problem,
    )
