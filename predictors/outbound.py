"""Where this process may connect to once it serves: the public internet, not the network it is in.

A request names URLs, and whoever fetches them from here could otherwise be sent to what only this
machine can reach: a cloud's metadata service, a neighbour's database (server-side request forgery).
An audit hook judges every address at the moment of connecting, after names were resolved and
redirects followed, whichever library connects.

What a request names is fetched without the environment's proxies (`predictors.download`): a proxy
would resolve names, and follow them, where this guard does not see it.
"""

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from weights.errors import UserError

VARIABLE = "COGVIDEOX_ALLOW_NETWORKS"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Written down here because `is_global` is True for some of them, for more in some Pythons than in
# others. Source: the IANA IPv4 and IPv6 Special-Purpose Address Registries and RFC 5771.
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a provider
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, which a public address stands for
        "169.254.0.0/16",  # link-local, metadata services among them
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
# All that IANA has given out for the internet; loopback, link-local and the rest lie outside.
_IPV6_PUBLIC = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_LAST_32_BITS = 2**32 - 1

_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})

# The networks beside the internet, None until `guard_outbound`. An audit hook can't be removed.
_allowed: tuple[Network, ...] | None = None
_hooked = False
_only_listed: ContextVar[bool] = ContextVar("only_listed", default=False)


def networks_from_environment(environment: Mapping[str, str]) -> tuple[Network, ...]:
    """The networks that COGVIDEOX_ALLOW_NETWORKS lists: addresses and CIDRs, with commas between.

    Raises:
        UserError: one is neither.
    """
    text = environment.get(VARIABLE, "").strip()
    return tuple(map(_network, text.split(","))) if text else ()


def _network(text: str) -> Network:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise UserError(
            f"{VARIABLE} lists {text.strip()!r}, which is no network ({error}).",
            "IP addresses and networks in CIDR notation are expected, with commas between them.",
            "Write it like 10.1.0.0/16,192.168.7.20; names of hosts can't be listed.",
        ) from None


def guard_outbound(networks: Sequence[Network]) -> None:
    """Let this process, from now on, connect only to the public internet and to `networks`.

    What was connected before stays so. Whoever connects elsewhere gets a UserError for it. Unix
    sockets, and whatever connects without Python, are not concerned.
    """
    global _allowed, _hooked  # the hook is the process's, and so is this
    _allowed = tuple(networks)
    if not _hooked:
        sys.addaudithook(_judge)
        _hooked = True


@contextmanager
def guarded(*, only_listed: bool) -> Iterator[None]:
    """Connect under the guard; with `only_listed` not to the internet, but to listed networks.

    Raises:
        RuntimeError: the guard does not stand.
    """
    if _allowed is None:
        raise RuntimeError("What a user names is fetched only after guard_outbound().")
    token = _only_listed.set(only_listed)
    try:
        yield
    finally:
        _only_listed.reset(token)


def is_public(address: Address) -> bool:
    """Whether `address` is one of a single host on the public internet.

    An IPv6 address that stands for an IPv4 one is judged as that.
    """
    inner = _embedded(address)
    if isinstance(inner, IPv6Address) and inner not in _IPV6_PUBLIC:
        return False
    return not any(inner in network for network in _NOT_PUBLIC)


def _embedded(address: Address) -> Address:
    """The IPv4 address that translators and tunnels would make of `address`; else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & _LAST_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address


def _is_listed(address: Address, networks: tuple[Network, ...]) -> bool:
    forms = (address, _embedded(address))
    return any(form in network for form in forms for network in networks)


def _judge(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook, called for every event there is: it must be quick to say that it's none.

    Raises:
        UserError: a socket is about to connect, or to send, to where it may not.
    """
    if event not in _EVENTS or _allowed is None:
        return
    connecting, target = arguments[0], arguments[1]
    # A message without a target goes where its socket is connected to.
    if target is None or connecting.family not in (socket.AF_INET, socket.AF_INET6):
        return
    refusal = _refusal(_address(target[0]), _allowed)
    if refusal is not None:
        # Libraries do so only after an OSError, which they would hide behind one of their own.
        connecting.close()
        raise refusal


def _refusal(address: Address | None, networks: tuple[Network, ...]) -> UserError | None:
    """Why nobody may connect to `address`, if so. None stands for what is no address."""
    if address is not None and _is_listed(address, networks):
        return None
    if _only_listed.get():
        return UserError(
            "A http:// URL leads outside of the networks that the operator lists.",
            "https:// is expected there: what comes over http can be exchanged on the way.",
            "Use the https:// URL.",
        )
    if address is not None and is_public(address):
        return None
    # Which address it is would tell a stranger what names mean inside this network.
    return UserError(
        "A URL in the request leads to an address that is not on the public internet.",
        "Files are fetched from the public internet, and from networks that the operator lists.",
        "Put the file where everyone can download it, or have the operator list its network "
        f"in {VARIABLE}.",
    )


def _address(host: object) -> Address | None:
    """The address that `host` spells out.

    None for a name: resolved only when this hook is done, it may then mean anything. Whatever
    fetches URLs resolves names before.
    """
    try:
        return ip_address(host) if isinstance(host, str) else None
    except ValueError:
        return None
