"""A download ends: with the file, at a limit, or with an error that says why and no secret."""

import datetime
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.server import free_port
from predictors import download as download_module
from predictors import web_connection
from predictors.download import MAX_REDIRECTS, download
from tests.predictors.guarding import LOOPBACK_HOSTS, Target, allowing
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.surroundings import check_message
from weights.errors import OperationError, UserError

DATA = bytes(range(256)) * 20
LIMIT = 1_000_000


@pytest.fixture
def web():
    with closing(FaultyServer()) as server:
        server.serve("/x", DATA)
        yield server


@pytest.fixture
def target():
    with closing(Target()) as target:
        yield target


@pytest.fixture(autouse=True)
def listed():
    """An operator who lists one of the many addresses of this machine."""
    with allowing("127.0.0.1"):
        yield


def got(url: str, *, limit_bytes: int = LIMIT, limit_seconds: float = 60) -> bytes:
    file = io.BytesIO()
    download(url, file, limit_bytes=limit_bytes, limit_seconds=limit_seconds)
    return file.getvalue()


@contextmanager
def refused(kind: type[UserError], match: str):
    with pytest.raises(UserError, match=match) as error:
        yield error
    assert type(error.value) is kind
    check_message(error.value, "SECRET", "on purpose")


def chunked(answer: faults.Answer, request: faults.Request) -> faults.Answer:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (DATA[:1000], DATA[1000:], b""))
    return faults.Answer(200, {"Transfer-Encoding": "chunked"}, body)


@pytest.mark.parametrize("fault", [chunked, faults.without_headers("Content-Length"), None])
def test_the_bytes_arrive_however_they_are_framed(web, fault):
    if fault:
        web.fault(lambda answer, request: replace(fault(answer, request), ending="close"))
    assert got(f"{web.url}/x?token=SECRET") == DATA
    assert [request.path for request in web.asked()] == ["/x?token=SECRET"]


def test_what_a_url_may_not_hold_is_quoted(web):
    web.serve("/a%20b/%C3%A9.safetensors", DATA)
    assert got(f"{web.url}/a b/é.safetensors") == DATA
    assert got(f"{web.url}/a%20b/%C3%A9.safetensors#fragment") == DATA


def test_redirects_are_followed(web):
    web.fault(faults.status(302, Location="/x?sig=SECRET"), when=lambda r: r.path == "/start")
    web.fault(faults.status(307, Location="start"), when=lambda r: r.path == "/before")
    assert got(f"{web.url}/before") == DATA


def test_redirects_in_a_circle_end(web):
    web.fault(faults.status(302, Location="/x?sig=SECRET"))
    with refused(OperationError, f"redirects more than {MAX_REDIRECTS} times"):
        got(f"{web.url}/x")
    assert len(web.asked()) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://user:SECRET@127.0.0.1/x",
        "http://[::1/x",
        "http://127.0.0.1:99999/x",
        "data:,SECRET",
        "gopher://127.0.0.1/x",
        "http://127.0.0.1/\x7fSECRET",
    ],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(web, location):
    web.fault(faults.status(302, Location=location))
    with refused(OperationError, "redirects to what is no web address"):
        got(f"{web.url}/x")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:SECRET@127.0.0.1/x",
        "http://user:SECRET@\u2100.test/x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:SECRET/x",
        "http:///x",
        "http://[::1/x",
        "http://[SECRET]/x",
        "http://127.0.0.1/\x7fSECRET",
        "ftp://127.0.0.1/x",
        "/etc/passwd",
    ],
)
def test_what_is_no_web_address_is_refused(url):
    with refused(UserError, "^A URL in the request "):
        got(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.2]",
        "[64:ff9b::7f00:2]",
        "[2002:7f00:2::]",
        "[fe80::1]",
        "[fc00::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_only_what_is_listed_is_reached_also_by_a_redirect(web, target, scheme, host):
    url = f"{scheme}://{host}:{target.port}/x?sig=SECRET"
    web.fault(faults.status(302, Location=url))
    for start in (url, f"{web.url}/x"):
        with refused(UserError, "outside of the networks|not on the public internet"):
            got(start)
    assert not target.was_reached()


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_without_a_list_no_spelling_of_this_machine_is_reached(target, scheme, host):
    with allowing(), refused(UserError, "outside of the networks|not on the public internet"):
        got(f"{scheme}://{host}:{target.port}/x?sig=SECRET")
    assert not target.was_reached()


def test_http_on_the_internet_is_refused():
    with refused(UserError, "https:// is expected"):
        got("http://1.1.1.1/x?sig=SECRET")


def test_a_proxy_and_passwords_of_the_environment_are_left_alone(web, monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password SECRET\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert got(f"{web.url}/x") == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_for_everyone_is_the_users_to_mend(web, status):
    web.fault(faults.status(status))
    with refused(UserError, f"HTTP {status} "):
        got(f"{web.url}/x?sig=SECRET")


@pytest.mark.parametrize("status", [204, 206, 400, 418, 429, 500, 503, 599, 304, 999])
def test_a_server_that_does_not_give_the_file_is_named(web, status):
    web.fault(lambda answer, request: replace(faults.status(status)(answer, request), body=b""))
    with refused(OperationError, f"HTTP {status}"):
        got(f"{web.url}/x?sig=SECRET")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.no_answer, "ended early"),
        (faults.not_http, "does not speak HTTP"),
        (faults.cut, "ended early"),
        (faults.cut_before_the_last_byte, "ended early"),
        (faults.cut_before_the_body, "ended early"),
        (faults.reset, "reset"),
        (faults.reset_at_once, "reset|ended early"),
        (faults.with_headers(Content_Encoding="gzip"), "another encoding"),
        (
            lambda answer, request: replace(chunked(answer, request), sent=900, ending="close"),
            "ended early",
        ),
    ],
)
def test_what_breaks_is_said(web, fault, reason):
    web.fault(fault)
    with refused(OperationError, reason):
        got(f"{web.url}/x?sig=SECRET")


def test_a_length_that_is_too_small_cuts_the_file(web):
    """No client can tell; whoever reads the file can."""
    web.fault(lambda answer, _: replace(answer, headers={"Content-Length": "100"}, ending="close"))
    assert got(f"{web.url}/x") == DATA[:100]


def test_a_length_that_is_too_large_is_a_cut_file(web):
    web.fault(lambda answer, _: replace(answer, headers={"Content-Length": "9999"}, ending="close"))
    with refused(OperationError, "ended early"):
        got(f"{web.url}/x")


def test_nothing_is_read_of_what_says_that_it_is_too_large(web):
    web.fault(faults.stall)
    with refused(UserError, "gives more than 5.1 kB"):
        got(f"{web.url}/x?sig=SECRET", limit_bytes=len(DATA) - 1)


@pytest.mark.parametrize("fault", [chunked, faults.without_headers("Content-Length")])
def test_what_does_not_say_its_length_is_counted(web, fault):
    web.fault(lambda answer, request: replace(fault(answer, request), ending="close"))
    assert got(f"{web.url}/x", limit_bytes=len(DATA)) == DATA
    with refused(UserError, "gives more than 5.1 kB"):
        got(f"{web.url}/x", limit_bytes=len(DATA) - 1)


def test_room_is_reserved_before_it_is_needed(web, monkeypatch):
    """For all of it where the server says how much that is, and else for some of it at a time."""
    file, asked = io.BytesIO(), []

    def reserve(size):
        asked.append((len(file.getvalue()), size))

    def got_reserving(limit_bytes=LIMIT):
        file.seek(0)
        file.truncate()
        asked.clear()
        options = {"limit_bytes": limit_bytes, "limit_seconds": 60}
        download(f"{web.url}/x", file, reserve=reserve, **options)
        assert file.getvalue() == DATA
        return asked

    assert got_reserving() == [(0, len(DATA))]
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 500)
    monkeypatch.setattr(download_module, "_RESERVED_BYTES", 2000)
    web.fault(lambda answer, request: replace(chunked(answer, request), ending="close"))
    reserved = 0
    for had, size in got_reserving():
        assert had <= reserved < size <= had + 2500
        reserved = size
    assert reserved >= len(DATA)
    assert max(got_reserving(limit_bytes=len(DATA)))[1] == len(DATA)


def test_a_download_ends_where_there_is_no_room_for_it(web):
    def reserve(size):
        raise OperationError(f"There is no room for {size} bytes.", "It is needed.", "Free some.")

    file = io.BytesIO()
    with refused(OperationError, f"no room for {len(DATA)} bytes"):
        download(f"{web.url}/x", file, limit_bytes=LIMIT, limit_seconds=60, reserve=reserve)
    assert file.getvalue() == b""


@contextmanager
def speaking(speak: Callable[[socket.socket], object]):
    """A server that says to its one client what `speak` does.

    Yields its URL, and an event for that the client has gone while there was more to say.
    """

    def serve():
        try:
            client, _ = listener.accept()
            with client:
                speak(client)
        except OSError:
            gone.set()

    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/x", gone
        finally:
            # Also where nobody came.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def endless(start: bytes, more: bytes) -> Callable[[socket.socket], None]:
    def speak(client):
        client.sendall(start)
        while True:
            client.sendall(more)

    return speak


def trickle(start: bytes) -> Callable[[socket.socket], None]:
    """A byte now and then, always before anyone's patience with a single byte ends."""

    def speak(client):
        client.sendall(start)
        client.settimeout(0.01)
        while True:
            client.sendall(b"x")
            try:
                if not client.recv(1000):
                    return
            except TimeoutError:
                continue

    return speak


def test_an_endless_body_is_ended_at_the_limit():
    body = endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(100_000))
    with speaking(body) as (url, gone), refused(UserError, "gives more than"):
        got(url)
    assert gone.is_set()


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"",
    ],
    ids=["body", "known-length", "chunk", "chunk-header", "header", "status-line"],
)
def test_bytes_that_trickle_in_are_ended_at_the_deadline(start):
    with speaking(trickle(start)) as (url, _), refused(OperationError, "took more than 0.3 s"):
        got(url, limit_seconds=0.3)


@pytest.mark.parametrize("fault", [faults.stall, faults.stall_at_once])
def test_a_server_that_falls_silent_is_left_at_the_deadline(web, fault):
    web.fault(fault)
    with refused(OperationError, "took more than 1 s"):
        got(f"{web.url}/x?sig=SECRET", limit_seconds=1)
    assert web.stalled.is_set()


def test_a_server_that_falls_silent_is_left_before_if_the_deadline_is_far(web, monkeypatch):
    monkeypatch.setattr(web_connection, "_STALL_SECONDS", 0.05)
    web.fault(faults.stall)
    with refused(OperationError, "no byte for too long"):
        got(f"{web.url}/x?sig=SECRET")


def test_the_deadline_is_one_for_all_redirects():
    """A redirect in time starts no new time."""

    def speak(client):
        client.recv(1000)
        client.sendall(f"HTTP/1.1 302 Found\r\nLocation: {silent}\r\n\r\n".encode())

    with (
        speaking(trickle(b"")) as (silent, _),
        speaking(speak) as (url, _),
        refused(OperationError, "took more than 0.4 s"),
    ):
        got(url, limit_seconds=0.4)


@pytest.mark.parametrize(("dead", "reached"), [(3, True), (4, False)])
def test_a_name_of_many_addresses_is_not_tried_for_ever(web, monkeypatch, dead, reached):
    port = int(web.url.rpartition(":")[2])
    addresses = [("127.0.0.1", free_port())] * dead + [("127.0.0.1", port)]

    def answering_getaddrinfo(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answering_getaddrinfo)
    if reached:
        assert got("http://many.test/x") == DATA
    else:
        with refused(OperationError, "refused"):
            got("http://many.test/x")


def test_a_host_that_is_not_there_is_said():
    with refused(OperationError, "failed"):
        got("http://does-not-exist.invalid/x?sig=SECRET")
    with refused(OperationError, "failed"):
        got(f"http://{'x' * 64}.example/x?sig=SECRET")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate of 127.0.0.1 that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@pytest.fixture
def tls(authority):
    """Wraps a server's side of a connection in TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)

    def wrapped(speak):
        def speak_tls(client):
            with context.wrap_socket(client, server_side=True) as wrapped_client:
                speak(wrapped_client)

        return speak_tls

    return wrapped


def saying(text: str) -> Callable[[socket.socket], None]:
    def speak(client):
        client.recv(1000)
        client.sendall(text.encode())

    return speak


def over_tls(url: str) -> str:
    return url.replace("http:", "https:")


HELLO = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_https_needs_a_certificate_that_is_trusted(tls, authority, monkeypatch):
    with (
        speaking(tls(saying(HELLO))) as (url, _),
        refused(OperationError, "TLS certificate is not accepted"),
    ):
        got(over_tls(url))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    with speaking(tls(saying(HELLO))) as (url, _):
        assert got(over_tls(url)) == b"hello"
    # The certificate is one of 127.0.0.1 only.
    with (
        speaking(tls(saying(HELLO))) as (url, _),
        refused(OperationError, "TLS certificate is not accepted"),
    ):
        got(over_tls(url).replace("127.0.0.1", "localhost"))


def test_https_never_goes_down_to_http_that_is_not_listed(tls, authority, monkeypatch, target):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    down = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:{target.port}/x\r\n\r\n"
    with speaking(tls(saying(down))) as (url, _), refused(UserError, "https:// is expected"):
        got(over_tls(url))
    assert not target.was_reached()


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_the_deadline_ends_tls_too(tls, authority, monkeypatch, start):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    with speaking(tls(trickle(start))) as (url, _), refused(OperationError, "took more than 0.5 s"):
        got(over_tls(url), limit_seconds=0.5)


def test_the_deadline_ends_a_handshake(web):
    with speaking(trickle(b"")) as (url, _), refused(OperationError, "failed|took more than"):
        got(over_tls(url), limit_seconds=0.3)
    with (
        speaking(lambda client: client.recv(100_000) and client.recv(1)) as (url, _),
        refused(OperationError, "took more than 0.3 s"),
    ):
        got(over_tls(url), limit_seconds=0.3)
