"""From a guarded process only the public internet can be reached, however an address is written."""

import re
import socket
import sys
import threading
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from predictors.outbound import (
    VARIABLE,
    guard_outbound,
    guarded,
    is_public,
    networks_from_environment,
)
from tests.predictors.guarding import LOOPBACK_HOSTS, Target, allowing
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.surroundings import check_message
from weights.errors import UserError

NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba Cloud's metadata
    "127.0.0.1",
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # that of most clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # Oracle Cloud's
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::7f00:1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # AWS's metadata
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
REFUSAL = "an address that is not on the public internet"


@pytest.fixture
def target():
    with closing(Target()) as target:
        yield target


@pytest.fixture
def web():
    with closing(FaultyServer()) as server:
        server.serve("/x", b"content")
        yield server


def connecting(host, port=80, event="socket.connect"):
    """The event that a socket raises just before it connects: all but the connecting itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as connection:
        sys.audit(event, connection, (host, port))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_refused(address):
    assert not is_public(ip_address(address))
    with allowing(), pytest.raises(UserError, match=REFUSAL):
        connecting(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_let_through(address):
    assert is_public(ip_address(address))
    with allowing():
        connecting(address)


def stands_for_ipv4(address):
    nat64 = str(address).startswith("64:ff9b::")
    return address.version == 6 and (nat64 or address.ipv4_mapped or address.sixtofour)


@given(st.ip_addresses())
def test_the_standard_library_calls_nothing_public_global_that_it_calls_private(address):
    if not stands_for_ipv4(address) and (not address.is_global or address.is_multicast):
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv6_address_that_stands_for_an_ipv4_one_is_judged_as_that(inner):
    number = int(inner)
    forms = (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
    )
    assert [is_public(form) for form in forms] == [is_public(inner)] * 3


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_no_spelling_of_this_machine_reaches_it(host, target):
    with socket.create_connection((host.strip("[]"), target.port), 5):
        assert target.was_reached()
    with allowing(), pytest.raises(UserError, match=REFUSAL) as refusal:
        # As Cog does it for an image.
        requests.get(f"http://{host}:{target.port}/x", stream=True, timeout=5)
    assert not target.was_reached()
    check_message(refusal.value, "127", "::")


def test_a_name_that_changes_its_mind_reaches_nothing(target, monkeypatch):
    """DNS rebinding: public for whoever checks the name, private for whoever connects."""
    answers = iter(("93.184.215.14", "127.0.0.1"))

    def rebinding_getaddrinfo(host, port, *_, **__):
        address = (next(answers), port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding_getaddrinfo)
    (checked,) = socket.getaddrinfo("rebinding.test", target.port)
    assert is_public(IPv4Address(checked[4][0]))
    with allowing(), pytest.raises(UserError, match=REFUSAL):
        requests.get(f"http://rebinding.test:{target.port}/x", timeout=5)
    assert not target.was_reached()


def test_a_redirect_from_an_allowed_server_leads_nowhere_else(target, web):
    web.fault(faults.status(302, Location=f"http://127.0.0.2:{target.port}/x"))
    with allowing("127.0.0.1"), pytest.raises(UserError, match=REFUSAL):
        requests.get(f"{web.url}/x", timeout=5)
    assert len(web.asked("/x")) == 1
    assert not target.was_reached()


def test_a_proxy_of_the_environment_has_to_be_listed(target, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{target.port}")
    with allowing(), pytest.raises(UserError, match=REFUSAL):
        requests.get("http://example.com/x", timeout=5)
    assert not target.was_reached()


@pytest.mark.parametrize("host", ["localhost", "", "<broadcast>", "2130706433"])
def test_what_only_the_socket_would_resolve_is_refused(host, target):
    with socket.socket() as connection, allowing(), pytest.raises(UserError, match=REFUSAL):
        connection.connect_ex((host, target.port))
    assert not target.was_reached()


@pytest.mark.parametrize("host", [b"127.0.0.1", bytearray(b"8.8.8.8")])
def test_an_address_that_is_no_text_is_refused(host, target):
    with socket.socket() as connection, allowing(), pytest.raises(UserError, match=REFUSAL):
        connection.connect((host, target.port))
    assert not target.was_reached()


def test_datagrams_are_refused_too(target):
    with socket.socket(type=socket.SOCK_DGRAM) as sender, allowing():
        with pytest.raises(UserError, match=REFUSAL):
            sender.sendto(b"x", ("127.0.0.1", target.port))
        with pytest.raises(UserError, match=REFUSAL):
            sender.sendmsg([b"x"], [], 0, ("127.0.0.1", target.port))


def test_what_is_connected_and_unix_sockets_go_on(web, tmp_path):
    with requests.Session() as session:
        assert session.get(f"{web.url}/x", timeout=5).content == b"content"
        with allowing():
            assert session.get(f"{web.url}/x", timeout=5).content == b"content"
            one, other = socket.socketpair()
            with one, other, socket.socket(socket.AF_UNIX) as listener:
                one.sendmsg([b"x"])
                assert other.recv(1) == b"x"
                listener.bind(str(tmp_path / "socket"))
                listener.listen()
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "socket"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_listed_network_is_reached_in_every_spelling(host, target):
    with allowing("10.0.0.0/8", "127.0.0.0/8"):
        socket.create_connection((host.strip("[]"), target.port), 5).close()
    assert target.was_reached()


def test_threads_are_guarded_as_well(target):
    refusals = []

    def connect():
        try:
            socket.create_connection(("127.0.0.1", target.port), 5).close()
        except UserError as error:
            refusals.append(error)

    with allowing():
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
    assert refusals
    assert not target.was_reached()


def test_only_listed_networks_are_reached_where_a_connection_says_so(target):
    with allowing("127.0.0.1"), guarded(only_listed=True):
        socket.create_connection(("127.0.0.1", target.port), 5).close()
        for address in ("1.1.1.1", "10.0.0.1"):
            with pytest.raises(UserError, match="http:// URL leads outside"):
                connecting(address)
    assert target.was_reached()
    with allowing("127.0.0.1"):
        connecting("1.1.1.1")


def test_nothing_is_fetched_for_a_user_without_the_guard():
    with pytest.raises(RuntimeError, match="guard_outbound"), guarded(only_listed=False):
        pass


def test_the_last_list_counts(target):
    with allowing("127.0.0.1"):
        guard_outbound([])
        with pytest.raises(UserError, match=REFUSAL):
            socket.create_connection(("127.0.0.1", target.port), 5)
    assert not target.was_reached()


def test_the_operators_list():
    listed = {VARIABLE: " 10.0.0.0/8,192.168.7.20 ,fd00::/8"}
    networks = networks_from_environment(listed)
    assert [str(network) for network in networks] == ["10.0.0.0/8", "192.168.7.20/32", "fd00::/8"]
    for blank in ({VARIABLE: ""}, {VARIABLE: "  "}, {}):
        assert networks_from_environment(blank) == ()


@pytest.mark.parametrize("item", ["10.0.0.1/8", "intranet.example", "10.0.0.0/33", "127.1", ""])
def test_a_malformed_list_is_explained(item):
    with pytest.raises(UserError, match=re.escape(f"lists {item!r}")) as error:
        networks_from_environment({VARIABLE: f"10.0.0.0/8,{item}"})
    check_message(error.value)
