"""What Cog fetches for a request by itself, through the real server: nothing that is not public.

The runner is the smallest that takes an image; the guard is set up as ours set it up.
"""

import os
from contextlib import ExitStack, closing

import pytest
import requests

from cli.prediction_client import health
from cli.runners import RunnerFile
from cli.server import running_server
from predictors.outbound import VARIABLE
from tests.predictors.guarding import LOOPBACK_HOSTS, Target
from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer

RUNNER = '''
import os
import socket
from cog import BaseRunner, Path
from predictors.outbound import guard_outbound, networks_from_environment
from predictors.received_files import limit_received_files

real_getaddrinfo = socket.getaddrinfo
answers = iter(["93.184.215.14"])

def rebinding_getaddrinfo(host, port, *args, **options):
    """A name that is public to who asks first, and this machine to all who ask later."""
    if host == "rebinding.test":
        host = next(answers, "127.0.0.1")
    return real_getaddrinfo(host, port, *args, **options)

class Runner(BaseRunner):
    def setup(self) -> None:
        socket.getaddrinfo = rebinding_getaddrinfo
        assert socket.getaddrinfo("rebinding.test", 80)[0][4][0] == "93.184.215.14"
        guard_outbound(networks_from_environment(os.environ))
        limit_received_files()
    def run(self, image: Path) -> Path:
        return image
'''
REFUSAL = "A URL in the request leads to an address that is not on the public internet."
# A LoRA does not come over http:// from anywhere but what is listed.
LORA_REFUSALS = {
    "http": "A http:// URL leads outside of the networks that the operator lists.",
    "https": REFUSAL,
}
LINK_LOCAL_AND_PRIVATE = [
    "169.254.169.254",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "224.0.0.1",
    "[fc00::1]",
    "[fe80::1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a server whose operator has set these variables; returns its URL."""
    file = tmp_path_factory.mktemp("runner") / "runner.py"
    file.write_text(RUNNER)
    with ExitStack() as stack:

        def started(**variables: str) -> str:
            with pytest.MonkeyPatch.context() as patch:
                for name in [VARIABLE, *(n for n in os.environ if n.lower().endswith("_proxy"))]:
                    patch.delenv(name, raising=False)
                for name, value in variables.items():
                    patch.setenv(name, value)
                server = running_server(RunnerFile(file), weights="none", on_line=lambda _: None)
                return stack.enter_context(server).url

        yield started


@pytest.fixture(scope="module")
def strict(start):
    return start()


@pytest.fixture(scope="module")
def listing(start):
    return start(**{VARIABLE: "127.0.0.1"})


@pytest.fixture
def target():
    with closing(Target()) as target:
        yield target


@pytest.fixture
def web():
    with closing(FaultyServer()) as server:
        server.serve("/image.png", b"an image")
        yield server


def predicted(server: str, **inputs: object) -> dict:
    def asked() -> requests.Response:
        return requests.post(f"{server}/predictions", json={"input": inputs}, timeout=60)

    # A server that is just freeing its slot says that it is busy.
    while (answer := asked()).status_code == requests.codes.conflict:
        pass
    assert answer.status_code == 200
    return answer.json()


def refused(server: str, image: str, refusal: str = REFUSAL) -> None:
    document = predicted(server, image=image)
    assert document["status"] == "failed"
    assert document["error"].startswith(f"Input validation error: {refusal}")
    assert "SECRET" not in document["error"]
    assert document["logs"] == ""
    assert health(server).status in ("READY", "BUSY")


@pytest.mark.parametrize("host", [*LOOPBACK_HOSTS, *LINK_LOCAL_AND_PRIVATE, "rebinding.test"])
def test_an_image_is_not_fetched_from_here(strict, target, host):
    refused(strict, f"http://{host}:{target.port}/image.png?sig=SECRET")
    refused(strict, f"https://{host}:{target.port}/image.png?sig=SECRET")
    assert not target.was_reached()


@pytest.mark.parametrize("host", [*LOOPBACK_HOSTS, *LINK_LOCAL_AND_PRIVATE])
def test_a_lora_is_not_fetched_from_here(server, target, host):
    """By the real runner, which fetches LoRAs itself."""
    for scheme, refusal in LORA_REFUSALS.items():
        lora = f"{scheme}://{host}:{target.port}/lora.safetensors?sig=SECRET"
        document = predicted(server.url, prompt="a", num_inference_steps=1, lora=lora)
        assert document["status"] == "failed"
        assert refusal in document["error"]
        assert "SECRET" not in document["error"]
    assert not target.was_reached()


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        (
            "http://me:SECRET@images.test/x",
            "A URL in the request holds a user's name or a password.",
        ),
        ("http://images.test:99999/x", "A URL in the request is not a web address."),
        ("http:///x", "A URL in the request is not a web address."),
    ],
)
def test_what_is_no_address_of_a_picture_is_said(strict, url, refusal):
    refused(strict, url, refusal)


def test_what_needs_no_network_goes_on(strict):
    assert predicted(strict, image="data:text/plain;base64,YWJj")["status"] == "succeeded"


def test_an_image_of_a_listed_network_is_fetched(listing, web):
    document = predicted(listing, image=f"{web.url}/image.png")
    assert document["status"] == "succeeded"
    assert len(web.asked("/image.png")) == 1


def test_a_redirect_to_what_is_not_listed_is_not_followed(listing, web, target):
    web.fault(faults.status(302, Location=f"http://127.0.0.2:{target.port}/image.png"))
    refused(listing, f"{web.url}/image.png")
    assert len(web.asked("/image.png")) == 1
    assert not target.was_reached()


def test_no_proxy_is_asked(start, target, web):
    proxy = f"http://127.0.0.1:{target.port}"
    # We ask the server itself without it.
    variables = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1"}
    server = start(**variables, **{VARIABLE: "127.0.0.1"})
    assert predicted(server, image=f"{web.url}/image.png")["status"] == "succeeded"
    assert predicted(server, image="http://images.invalid/image.png")["status"] == "failed"
    assert not target.was_reached()
