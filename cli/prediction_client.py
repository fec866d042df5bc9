"""The HTTP side of a Cog server: health, schema, one prediction."""

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from weights.errors import OperationError, UserError

# A server frees its slot a moment after it has answered; for longer than this it is really busy.
_BUSY_SECONDS = 600.0
_RETRY_SECONDS = 0.2
# Of an output that is no file.
_SHOWN_CHARACTERS = 80

# Cog says that it failed once or twice and the type of our errors before their message.
_COGS_PREFIXES = re.compile(r"^((Prediction|Training) failed: )*((User|Operation)Error: )?")


@dataclass(frozen=True, slots=True)
class Health:
    """A server's state: coglet's word for it, or UNREACHABLE; and what setup printed."""

    status: str
    setup_logs: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction that succeeded: the bytes of its file, its logs and its metrics."""

    output: bytes
    logs: str
    metrics: Mapping[str, Any]


def session(url: str) -> requests.Session:
    """A session for `url`. No proxy knows what this machine itself means by localhost."""
    opened = requests.Session()
    opened.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
    return opened


def health(url: str) -> Health:
    """Ask how the server is."""
    try:
        document = session(url).get(f"{url}/health-check", timeout=5).json()
    except (requests.ConnectionError, requests.Timeout):
        return Health("UNREACHABLE", "")
    return Health(document["status"], (document.get("setup") or {}).get("logs", ""))


def openapi(url: str) -> dict[str, Any]:
    """The OpenAPI document of the server.

    Raises:
        OperationError: nothing answers at `url`, or it has no schema.
    """
    try:
        response = session(url).get(f"{url}/openapi.json", timeout=30)
        response.raise_for_status()
        document: dict[str, Any] = response.json()
    except requests.RequestException as error:
        raise OperationError(
            f"{url} gives no OpenAPI schema ({error}).",
            "A running Cog server is needed there.",
            "Start one with `cogvideox serve t2v`, or leave --url out.",
        ) from None
    return document


def predict(url: str, inputs: Mapping[str, Any]) -> Prediction:
    """Run one prediction and wait for its file. A busy server is asked again.

    Raises:
        UserError: the server refused an input.
        OperationError: the prediction failed, or the server did.
    """
    document = answer(url, "prediction", {"input": dict(inputs)})
    return Prediction(
        output=content(document["output"]),
        logs=document.get("logs", ""),
        metrics=document.get("metrics", {}),
    )


def answer(url: str, noun: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the server answers when it has done what was asked for. A busy one is asked again.

    Args:
        noun: what is asked for: a prediction or a training.
        request: its `input`, and its `id` where it shall have a chosen one.

    Raises:
        UserError: the server refused an input.
        OperationError: it failed, or the server did.
    """
    response = _post(url, f"{url}/{noun}s", request)
    if response.status_code == requests.codes.unprocessable:
        problems = "; ".join(f"{d['loc'][-1]}: {d['msg']}" for d in response.json()["detail"])
        raise UserError(f"The server refused the inputs: {problems}.", "", "Correct these inputs.")
    if not response.ok:
        raise OperationError(
            f"The server answered {response.status_code}.", response.text.strip()[:500], ""
        )
    document: dict[str, Any] = response.json()
    if document["status"] != "succeeded":
        error = str(document.get("error") or "it gave no reason")
        raise OperationError(
            f"The {noun} {document['status']}: {_COGS_PREFIXES.sub('', error)}", "", ""
        )
    return document


def _post(url: str, endpoint: str, request: Mapping[str, Any]) -> requests.Response:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            # No timeout on the answer: a long video takes an hour on a CPU.
            response = session(url).post(endpoint, json=dict(request), timeout=(10, None))
        except requests.RequestException as error:
            raise OperationError(
                f"The server at {url} broke off ({error}).",
                "It must stay up until it has answered.",
                "See its log; on a machine with little memory it may have been killed.",
            ) from None
        if response.status_code != requests.codes.conflict or time.monotonic() > deadline:
            return response
        time.sleep(_RETRY_SECONDS)


def content(output: Any) -> bytes:
    """The bytes of an output: a data URI, or the URL of a server that uploads its files.

    Raises:
        OperationError: it is something else than one file, or it can't be fetched.
    """
    if not isinstance(output, str) or not output.startswith(("data:", "http://", "https://")):
        raise OperationError(
            f"The server's output is no file but {_described(output)}.",
            "What `cogvideox` writes is one file, which comes as a data URI or an http(s) URL.",
            "Ask this server with curl instead, which shows whatever it answers.",
        )
    if output.startswith("data:"):
        return base64.b64decode(output.partition(",")[2])
    try:
        response = session(output).get(output, timeout=(10, 600))
        response.raise_for_status()
    except requests.RequestException as error:
        raise OperationError(
            f"The output can't be fetched ({error}).",
            "The server gave a URL instead of the file, and this machine must reach it.",
            "Start the server without --upload-url to get the file itself.",
        ) from None
    return response.content


def _described(output: Any) -> str:
    """What came as an output, without the whole of a file that may be in it."""
    text = json.dumps(output, ensure_ascii=False)
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    return f"a list of {len(output)}: {shown}" if isinstance(output, list) else shown
