"""What the client makes of a server that is not there or answers nonsense."""

from contextlib import closing

import pytest

from cli.prediction_client import content, health, openapi, predict
from cli.server import free_port
from tests.weights.fetching.faulty_server import FaultyServer
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


@pytest.mark.parametrize(
    ("output", "described"),
    [
        (["data:a/b;base64,AAAA", "data:a/b;base64,BBBB"], 'a list of 2: ["data:a/b;base64,AAAA"'),
        ({"text": "é"}, '{"text": "é"}'),
        (None, "null"),
        (4, "4"),
        ("some text", '"some text"'),
        ("x" * 1000, '"' + "x" * 79 + "…"),
    ],
)
def test_what_is_not_one_file_is_named(output, described):
    with pytest.raises(OperationError) as caught:
        content(output)
    assert f"The server's output is no file but {described}" in str(caught.value)


def test_an_output_on_this_machine_is_fetched_past_proxies(nobody, monkeypatch):
    monkeypatch.setenv("http_proxy", nobody)
    monkeypatch.delenv("no_proxy", raising=False)
    with closing(FaultyServer()) as web:
        web.serve("/out.mp4", b"a video")
        assert content(f"{web.url}/out.mp4") == b"a video"
