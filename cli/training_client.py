"""The HTTP side of a Cog server that trains: one training, and its end before its time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from cli.prediction_client import answer, content, session
from weights.errors import OperationError


@dataclass(frozen=True, slots=True)
class Training:
    """A training that succeeded: the bytes of its tar, its logs and its metrics."""

    weights: bytes
    logs: str
    metrics: Mapping[str, Any]


def train(url: str, inputs: Mapping[str, Any], training_id: str | None = None) -> Training:
    """Run one training and wait for its weights. A busy server is asked again.

    Args:
        inputs: `videos` is a URL or a data URI; `input_files.input_uri` makes one of a file.
        training_id: the name to cancel it by; None lets the server choose one.

    Raises:
        UserError: the server refused an input.
        OperationError: the training failed or was cancelled, or the server failed.
    """
    request = {"input": dict(inputs)} | ({} if training_id is None else {"id": training_id})
    document = answer(url, "training", request)
    return Training(
        weights=content(document["output"]["weights"]),
        logs=document.get("logs", ""),
        metrics=document.get("metrics", {}),
    )


def cancel_training(url: str, training_id: str) -> bool:
    """End a training; False where none of that name runs.

    Raises:
        OperationError: the server does not answer.
    """
    endpoint = f"{url}/trainings/{training_id}/cancel"
    try:
        response = session(url).post(endpoint, timeout=30)
    except requests.RequestException as error:
        raise OperationError(
            f"The server at {url} can't be asked to end a training ({error}).",
            "It must be running.",
            "See its log.",
        ) from None
    return response.ok
