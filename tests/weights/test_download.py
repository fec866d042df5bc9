"""Byte sources: what goes wrong is said with the url, and never with its secrets."""

import socket

import pytest

from weights.download import open_source
from weights.errors import OperationError
from weights.urls import shown_url

DATA = bytes(range(256)) * 5000


def read_all(url: str) -> bytes:
    with open_source(url) as source:
        return b"".join(iter(lambda: source.read(100_000), b""))


def failure(url: str) -> str:
    with pytest.raises(OperationError) as error:
        read_all(url)
    assert error.value.expected
    assert error.value.remedy
    assert "SECRET" not in str(error.value)
    return str(error.value)


def test_reads_from_the_web_and_from_a_file(server, tmp_path):
    (tmp_path / "a b.tar").write_bytes(DATA)
    assert read_all((tmp_path / "a b.tar").as_uri()) == DATA
    url = server.serve("/x", DATA)
    assert read_all(url) == DATA
    with open_source(url) as source:
        assert source.length == len(DATA)


def test_a_query_is_sent_and_not_shown(server):
    url = server.serve("/x", DATA) + "?sig=SECRET"
    assert read_all(url) == DATA
    assert server.requests == ["/x?sig=SECRET"]
    assert shown_url("https://u:SECRET@h:1/x?a=SECRET#SECRET") == "https://h:1/x"


@pytest.mark.parametrize("status", [403, 404, 500, 503, 206])
def test_any_answer_but_200_is_an_error(server, status):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/x"] = answer
    message = failure(f"{server.url}/x?sig=SECRET")
    assert str(status) in message
    assert f"{server.url}/x " in message


def test_a_refused_connection_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        assert "Connection refused" in failure(f"{url}?sig=SECRET")


def test_a_server_that_says_nothing_http_is_said():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x01 not http\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        failure(f"http://127.0.0.1:{listener.getsockname()[1]}/x?sig=SECRET")
        thread.join()


def test_a_cut_download_is_said(server):
    url = server.serve("/x", DATA[:1000], announce=len(DATA))
    message = failure(f"{url}?sig=SECRET")
    assert "broke after" in message
    assert str(len(DATA)) in message


def test_a_stalled_download_is_said(server, monkeypatch):
    monkeypatch.setattr("weights.download.READ_SECONDS", 0.2)
    url, _, go_on = server.serve_halves("/x", DATA)
    try:
        assert "broke after" in failure(url)
    finally:
        go_on.set()


def test_a_redirect_off_the_web_is_not_followed(server, tmp_path):
    (tmp_path / "secret").write_text("secret")

    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", (tmp_path / "secret").as_uri())
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/x"] = answer
    failure(f"{server.url}/x")


@pytest.mark.parametrize("make", ["nothing", "folder"])
def test_a_missing_file_is_said(tmp_path, make):
    if make == "folder":
        (tmp_path / "x.tar").mkdir()
    assert "no such file" in failure((tmp_path / "x.tar").as_uri())
