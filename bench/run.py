"""A whole benchmark: every case of every variant, written down as it goes."""

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from bench.budget import Budget
from bench.case import Case, run_cases
from bench.figures import Outcome
from bench.machine import machine
from bench.report import Report, VariantReport
from bench.session import Session
from weights.variants import Variant


def bench(
    variants: Sequence[Variant],
    cases: Sequence[Case],
    *,
    steps: int,
    budget_seconds: float,
    folder: Path,
) -> Report:
    """Run `cases` on each of `variants` and keep bench.json and bench.md in `folder` up to date.

    Says on stderr what comes next. A Ctrl-C ends it with what there is.

    Args:
        steps: how many are sampled to time one.
        budget_seconds: what each variant may take.
    """
    report = Report(date=date.today().isoformat(), machine=machine())
    for variant in variants:
        session = Session(variant, steps, Budget(budget_seconds))
        section = VariantReport(
            variant=variant.name, dtype=session.dtype, request=_request(session)
        )
        report.variants.append(section)
        for outcome in run_cases(cases, session):
            section.outcomes.append(outcome)
            report.write(folder)
            _say(variant, outcome)
        session.discard_model()
        if section.outcomes and section.outcomes[-1].status == "interrupted":
            break
    return report


def _request(session: Session) -> str:
    video = session.video
    return f"{video.frames} frames of {video.width}×{video.height}, with guidance"


def _say(variant: Variant, outcome: Outcome) -> None:
    reason = f": {outcome.reason}" if outcome.reason else ""
    took = f" in {outcome.seconds:.1f} s" if outcome.seconds else ""
    print(f"{variant.name}, {outcome.case}: {outcome.status}{took}{reason}", file=sys.stderr)
