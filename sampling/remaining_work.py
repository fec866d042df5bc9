"""What of a plan is still to be done, by what the manifest and OUT say."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sampling.clip_job import ClipJob, WorkUnit
from sampling.job_plan import BadLine, JobPlan
from weights.errors import UserError

if TYPE_CHECKING:
    from sampling.manifest import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingWork:
    """Units with something missing, bad lines that the manifest does not know yet, and by line what
    stays: clips that are done, and failures that are not tried again.
    """

    units: tuple[WorkUnit, ...]
    bad_lines: tuple[BadLine, ...]
    done: frozenset[int]
    failed: Mapping[int, str]


def remaining_work(
    plan: JobPlan,
    records: "Mapping[int, Record]",
    names: Collection[str],
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> RemainingWork:
    """Compare what is asked for with what is there.

    Args:
        records: the last record of each line.
        names: the files in OUT.
        overwrite: make clips anew that were made otherwise, instead of refusing.
        retry_failed: try again what failed.

    Raises:
        UserError: OUT has a clip of one of the lines, made otherwise.
    """
    done: set[int] = set()
    failed: dict[int, str] = {}
    missing: set[int] = set()
    for job in plan.jobs:
        record = records.get(job.line)
        if record is None or (record.error is None and record.file not in names):
            missing.add(job.line)
        elif record.key != job.key:
            if record.error is None and not overwrite:
                raise _made_otherwise(job, record)
            missing.add(job.line)
        elif record.error is None:
            done.add(job.line)
        elif retry_failed:
            missing.add(job.line)
        else:
            failed[job.line] = record.error
    known = {b.line for b in plan.bad_lines if _is_known(b, records.get(b.line))}
    failed |= {bad.line: bad.problem for bad in plan.bad_lines if bad.line in known}
    units = (
        replace(unit, missing=frozenset(job.line for job in unit.jobs) & missing)
        for unit in plan.units
    )
    return RemainingWork(
        units=tuple(unit for unit in units if unit.missing),
        bad_lines=tuple(bad for bad in plan.bad_lines if bad.line not in known),
        done=frozenset(done),
        failed=failed,
    )


def _is_known(bad: BadLine, record: "Record | None") -> bool:
    return record is not None and record.error is not None and record.key == bad.key


def _made_otherwise(job: ClipJob, record: "Record") -> UserError:
    return UserError(
        f"Line {job.line}: {record.file} is there already, and was made otherwise: with other "
        "settings, another image, other weights or in another batch.",
        "OUT takes the clips of one prompt file, all made alike.",
        "Choose another OUT, or give --overwrite to make such clips anew.",
    )
