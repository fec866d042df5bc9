"""A generator in a thread: the same items, the same errors, and no thread that stays."""

import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.packing.generator_thread import in_thread


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Counting:
    """Counts to `end`, or raises there; remembers how far it came and in which thread."""

    def __init__(self, end: int, error: BaseException | None = None) -> None:
        self.end, self.error = end, error
        self.given = 0
        self.closed = False
        self.threads: set[int] = set()

    def items(self) -> Generator[int, None, None]:
        self.threads.add(threading.get_ident())
        try:
            while self.given < self.end:
                self.given += 1
                yield self.given
            if self.error:
                raise self.error
        finally:
            self.closed = True


@given(end=st.integers(0, 40))
def test_gives_the_items_in_order_from_another_thread(end):
    counting = Counting(end)
    with in_thread(counting.items()) as items:
        assert list(items) == list(range(1, end + 1))
    assert threading.get_ident() not in counting.threads
    assert counting.closed


@pytest.mark.parametrize("end", [0, 1, 8, 9, 40])
@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()])
def test_an_error_comes_after_the_items_before_it(end, error):
    taken = []

    def take() -> None:
        with in_thread(Counting(end, error).items()) as items:
            taken.extend(items)  # keeps what came before an error
            pytest.fail("no error")

    with pytest.raises(type(error)) as raised:
        take()
    assert raised.value is error


@pytest.mark.parametrize("count", [0, 1, 20])
def test_leaving_early_closes_it_a_few_items_ahead(count):
    counting = Counting(1_000_000)

    def take() -> None:
        with in_thread(counting.items()) as items:
            for _ in range(count):
                next(items)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take()
    assert counting.closed
    assert counting.given <= count + 10
