"""Cases run one after the other, whatever becomes of the one before."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.budget import OutOfTimeError
from bench.figures import Figure, Outcome, Status
from bench.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    `run` gives its figures as it takes them: those before a failure count.
    """

    name: str
    shows: str
    run: Callable[[Session], Iterator[Figure]]
    # From what was measured before, in seconds; 0 where nothing is known yet.
    expected_seconds: Callable[[Session], float]
    # Why it can't be measured on this machine or with this variant; empty where it can.
    obstacle: Callable[[Session], str] = lambda _session: ""


def run_cases(cases: Iterable[Case], session: Session) -> Iterator[Outcome]:
    """Run `cases` in their order and give the outcome of each as soon as it is there.

    A Ctrl-C ends the case that runs; it is the last outcome then.
    """
    for case in cases:
        reason = case.obstacle(session) or session.budget.refusal(case.expected_seconds(session))
        if reason:
            yield Outcome(case=case.name, status="skipped", seconds=0, reason=reason)
            continue
        outcome = _outcome(case, session)
        if outcome.status != "done":
            # What is left of a failed case may hold memory or hooks.
            session.discard_model()
        yield outcome
        if outcome.status == "interrupted":
            return


def _outcome(case: Case, session: Session) -> Outcome:
    figures: list[Figure] = []
    started = time.monotonic()
    status, reason = _taken(case, session, figures)
    return Outcome(
        case=case.name,
        status=status,
        seconds=time.monotonic() - started,
        figures=tuple(figures),
        reason=reason,
    )


def _taken(case: Case, session: Session, into: list[Figure]) -> tuple[Status, str]:
    """How the case ended, after all its figures went `into` the list.

    The error itself ends here: its traceback holds every tensor of the frames it came through.
    """
    import torch

    try:
        for figure in case.run(session):
            into.append(figure)
    except torch.OutOfMemoryError as error:
        return "out of memory", str(error).splitlines()[0]
    except OutOfTimeError:
        return "skipped", "the time was up before it ended"
    except KeyboardInterrupt:
        return "interrupted", "Ctrl-C"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    return "done", ""
