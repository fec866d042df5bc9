"""The guard for a part of a test, and a target that nobody may reach."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

from predictors import outbound

# What people write for this machine, most of it known from attacks on checks of the text.
LOOPBACK_HOSTS = [
    "127.0.0.1",
    "127.0.0.2",
    "2130706433",
    "0177.0.0.1",
    "0x7f000001",
    "0x7f.1",
    "127.1",
    "0",
    "0.0.0.0",
    "localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
]


class Target:
    """Listens on all addresses of this machine, of both families, and answers nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
        self.port: int = self._listener.getsockname()[1]

    def was_reached(self) -> bool:
        """Whether anyone connected since the last question."""
        reached = False
        # The kernel connects by itself: who has connected is in the queue, with no time between.
        while select.select([self._listener], [], [], 0)[0]:
            self._listener.accept()[0].close()
            reached = True
        return reached

    def close(self) -> None:
        self._listener.close()


@contextmanager
def allowing(*networks: str) -> Iterator[None]:
    """The guard that an operator sets up who lists `networks`, until the end of the block."""
    before = outbound._allowed
    outbound.guard_outbound([ip_network(network) for network in networks])
    try:
        yield
    finally:
        outbound._allowed = before
