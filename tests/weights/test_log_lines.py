"""What `weights` logs is for the operator, and not for the users of a server."""

import logging
import sys

import pytest

from weights.log_lines import show_log


@pytest.fixture
def log():
    """The log of `weights`, as it was again afterwards."""
    log = logging.getLogger("weights")
    handlers, level = list(log.handlers), log.level
    log.handlers.clear()
    yield log
    log.handlers[:] = handlers
    log.setLevel(level)


def test_lines_go_past_what_cog_puts_into_the_log_of_a_prediction(log, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("sys.__stderr__", sys.stdout)
        show_log(own_stderr=True)
        show_log(own_stderr=True)
        log.info("Removed %s from the cache.", "lora-a")
    assert capsys.readouterr() == ("Removed lora-a from the cache.\n", "")


def test_a_command_prints_them_on_stderr(log, capsys):
    show_log(own_stderr=True)
    show_log()
    log.info("Removed %s from the cache.", "lora-a")
    assert capsys.readouterr() == ("", "Removed lora-a from the cache.\n")
