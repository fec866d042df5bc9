"""What is begun is finished before anything else begins, whenever a request is cancelled."""

import itertools
import threading
import weakref

import pytest
from cog import CancelationException

from predictors.uninterrupted import uninterrupted
from tests.predictors.interrupting import cancel, interrupted_at_line


def test_a_request_that_is_cancelled_meanwhile_ends_after_its_work():
    request, steps = threading.current_thread(), []

    def work():
        steps.append("begun")
        cancel(request)
        steps.append("ended")

    with pytest.raises(CancelationException):
        uninterrupted(work)
    assert steps == ["begun", "ended"]


def test_wherever_a_request_is_cancelled_its_work_is_done_wholly_before_the_next_or_not_at_all():
    begun = 0
    for number in itertools.count():
        steps = []

        def work(steps=steps):
            steps.append("begun")
            steps.append("ended")

        struck = interrupted_at_line(
            number, lambda work=work: uninterrupted(work), "predictors/uninterrupted.py"
        )
        uninterrupted(lambda steps=steps: steps.append("next"))
        assert steps in (["next"], ["begun", "ended", "next"])
        begun += struck and len(steps) == 3
        if not struck:
            break
    assert number > 2
    assert begun, "no cancellation struck while the work was being done"


@pytest.mark.parametrize("error", [ValueError, CancelationException])
def test_an_error_of_the_work_is_the_requests(error):
    def work():
        raise error("said")

    for _ in range(2):
        with pytest.raises(error, match="said"):
            uninterrupted(work)


def test_work_within_work_does_not_wait_for_itself():
    """Where garbage collection, which runs in any thread, closes a generator that cleans up."""
    steps = []
    uninterrupted(lambda: uninterrupted(lambda: steps.append("inner")))
    assert steps == ["inner"]


def test_nothing_of_the_work_is_kept():
    class Model:
        pass

    model = Model()
    gone = threading.Event()
    weakref.finalize(model, gone.set)
    uninterrupted(lambda model=model: None)
    del model
    uninterrupted(lambda: None)
    assert gone.is_set()
