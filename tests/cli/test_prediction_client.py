"""What the client makes of a server that is not there or answers nonsense."""

import pytest

from cli.prediction_client import health, openapi, predict
from cli.server import free_port
from weights.errors import OperationError


@pytest.fixture
def nobody():
    """The address of a port that nothing listens on."""
    return f"http://127.0.0.1:{free_port()}"


def test_a_server_that_is_not_there_is_unreachable(nobody):
    assert health(nobody).status == "UNREACHABLE"


@pytest.mark.parametrize("ask", [openapi, lambda url: predict(url, {})])
def test_asking_nobody_is_an_error_that_names_the_address(nobody, ask):
    with pytest.raises(OperationError, match=nobody):
        ask(nobody)


def test_a_proxy_is_not_asked_for_this_machine(server, nobody, monkeypatch):
    monkeypatch.setenv("http_proxy", nobody)
    monkeypatch.delenv("no_proxy", raising=False)
    assert health(server.url).status in ("READY", "BUSY")
