"""The first signal is only noted, the second one ends."""

import os
import signal
import threading

import pytest

from training.finetuning.interruption import held_interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_ends(number):
    with held_interruptions() as interruption:
        assert not interruption.asked
        os.kill(os.getpid(), number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_afterwards_signals_do_what_they_did():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with held_interruptions():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_holds_nothing():
    held = []

    def hold():
        with held_interruptions() as interruption:
            held.append((interruption.asked, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert held == [(False, before)]
