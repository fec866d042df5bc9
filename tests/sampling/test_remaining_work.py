"""What is done, what failed, what is to be made, and what must not be touched."""

import pytest

from sampling.job_plan import JobRules, plan_jobs
from sampling.manifest import Record
from sampling.remaining_work import remaining_work
from tests.sampling.prompt_lines_of import bad, line
from weights.errors import UserError
from weights.variants import VARIANTS

RULES = JobRules(variant=VARIANTS["nano"])


def plan_of(count=3, batch=1, **inputs):
    return plan_jobs([line(n, **inputs) for n in range(1, count + 1)], RULES, batch)


def record(line_number, key, error=None):
    return Record(
        line=line_number,
        prompt="",
        image=None,
        seed=1,
        settings={},
        key=key,
        file=None if error else f"{line_number:06}.mp4",
        digest=None if error else "sha256:0",
        bytes=None if error else 1,
        seconds=1.0,
        error=error,
    )


def recorded(plan, lines=(), errors=()):
    """Records of `plan` for some lines that are done and some that failed."""
    keys = {job.line: job.key for job in plan.jobs}
    return {n: record(n, keys[n], "It broke." if n in errors else None) for n in (*lines, *errors)}


def missing(work):
    return sorted(number for unit in work.units for number in unit.missing)


def files(*lines):
    return {f"{number:06}.mp4" for number in lines}


def test_at_first_everything_is_missing():
    work = remaining_work(plan_of(), {}, set())
    assert missing(work) == [1, 2, 3]
    assert not work.done
    assert not work.failed


def test_what_is_recorded_and_there_is_done():
    plan = plan_of()
    work = remaining_work(plan, recorded(plan, [1, 3]), files(1, 3))
    assert missing(work) == [2]
    assert work.done == {1, 3}


def test_a_record_without_its_file_or_a_file_without_its_record_is_not_enough():
    plan = plan_of()
    assert missing(remaining_work(plan, recorded(plan, [1]), files(2))) == [1, 2, 3]


def test_failures_stay_until_they_are_to_be_tried_again():
    plan = plan_of()
    records = recorded(plan, [1], errors=[2])
    work = remaining_work(plan, records, files(1))
    assert missing(work) == [3]
    assert work.failed == {2: "It broke."}
    again = remaining_work(plan, records, files(1), retry_failed=True)
    assert missing(again) == [2, 3]
    assert not again.failed


def test_a_failed_line_that_was_changed_is_tried():
    records = recorded(plan_of(), errors=[2])
    work = remaining_work(plan_of(num_inference_steps=9), records, set())
    assert missing(work) == [1, 2, 3]


def test_clips_made_otherwise_are_refused_and_with_overwrite_made_anew():
    before = plan_of()
    records = recorded(before, [1, 2])
    lines = [line(1), line(2, seed=0), line(3)]
    plan = plan_jobs(lines, RULES)
    with pytest.raises(UserError, match=r"Line 2: 000002\.mp4 is there already.*--overwrite"):
        remaining_work(plan, records, files(1, 2))
    work = remaining_work(plan, records, files(1, 2), overwrite=True)
    assert missing(work) == [2, 3]
    assert work.done == {1}


def test_clips_made_otherwise_whose_files_are_gone_hinder_nobody():
    records = recorded(plan_of(), [1, 2])
    assert missing(remaining_work(plan_of(seed=1), records, set())) == [1, 2, 3]


def test_a_unit_stays_whole_when_a_part_of_it_is_done():
    plan = plan_of(count=5, batch=2)
    work = remaining_work(plan, recorded(plan, [1, 3, 4]), files(1, 3, 4))
    assert [[job.line for job in unit.jobs] for unit in work.units] == [[1, 2], [5]]
    assert missing(work) == [2, 5]
    assert [unit.number for unit in work.units] == [0, 2]


def test_another_batch_makes_other_clips():
    records = recorded(plan_of(), [1])
    with pytest.raises(UserError, match="in another batch"):
        remaining_work(plan_of(batch=2), records, files(1))


def test_a_bad_line_is_recorded_once():
    plan = plan_jobs([line(1), bad(2)], RULES)
    (found,) = plan.bad_lines
    assert remaining_work(plan, {}, set()).bad_lines == (found,)
    records = {2: record(2, found.key, found.problem)}
    work = remaining_work(plan, records, set())
    assert work.bad_lines == ()
    assert work.failed == {2: found.problem}
    otherwise = {2: record(2, "another key", "Another problem.")}
    assert remaining_work(plan, otherwise, set()).bad_lines == (found,)


def test_a_bad_line_that_was_mended_is_made():
    (found,) = plan_jobs([bad(2)], RULES).bad_lines
    records = {2: record(2, found.key, found.problem)}
    assert missing(remaining_work(plan_jobs([line(2)], RULES), records, set())) == [2]


def test_a_line_that_became_bad_keeps_its_file():
    records = recorded(plan_of(), [2])
    work = remaining_work(plan_jobs([bad(2)], RULES), records, files(2))
    assert [each.line for each in work.bad_lines] == [2]
