"""Run one prediction through the real Cog server."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.runners import RUNNERS
from cli.serve import add_weights_argument, chosen_weights, end_on_sigterm, tell
from weights.atomic import replacing
from weights.errors import UserError

EXAMPLES = """examples:
  cogvideox predict t2v -i prompt="a red circle moves right" -o out.mp4
  cogvideox predict t2v -i prompt="..." -i num_inference_steps=10 -i seed=7 -o out.mp4 --json
  cogvideox predict t2v -i prompt="..." -o out.mp4 --url http://127.0.0.1:5001
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")
    parser.add_argument(
        "-i", "--input", action="append", default=[], metavar="NAME=VALUE", help="an input"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("output.mp4"), help="default: %(default)s"
    )
    add_weights_argument(parser)
    parser.add_argument("--url", help="use the server that runs there instead of starting one")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def typed_inputs(
    pairs: Iterable[str], properties: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`NAME=VALUE` pairs as the JSON values that the schema wants.

    Cog drops inputs it does not know without a word, so that they are refused here.

    Raises:
        UserError: a pair has no `=`, an unknown name, or a value of another type.
    """
    inputs = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in properties:
            raise UserError(
                f"There is no input named {name!r}." if equals else f"-i {pair!r} has no value.",
                f"The inputs are {', '.join(properties)}.",
                "Write -i NAME=VALUE with one of these names.",
            )
        inputs[name] = _typed(name, text, properties[name].get("type"))
    return inputs


def _typed(name: str, text: str, json_type: str | None) -> Any:
    converters: dict[str | None, Callable[[str], Any]] = {
        "integer": int,
        "number": float,
        "boolean": _boolean,
    }
    try:
        return converters.get(json_type, str)(text)
    except ValueError:
        raise UserError(
            f"{name} is {text!r}.", f"It must be of the type {json_type}.", "Correct the value."
        ) from None


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


@contextmanager
def _server_url(options: argparse.Namespace) -> Iterator[str]:
    """The address of the server to ask: the one given, or one that runs for as long as this."""
    from cli.server import running_server

    if options.url:
        yield options.url.rstrip("/")
        return
    weights = chosen_weights(options.weights)
    with running_server(RUNNERS[options.task], weights=weights, on_line=tell) as server:
        yield server.url


def run(options: argparse.Namespace) -> int:
    from cli.openapi_schema import input_properties, openapi_document
    from cli.prediction_client import openapi, predict

    if not options.output.absolute().parent.is_dir():
        raise UserError(
            f"There is no folder {options.output.absolute().parent}.",
            "The output must go to an existing one.",
            "Create it, or choose another path with -o.",
        )
    end_on_sigterm()
    url = options.url
    document = openapi(url) if url else openapi_document(RUNNERS[options.task])
    inputs = typed_inputs(options.input, input_properties(document))
    with _server_url(options) as url:
        started = time.monotonic()
        prediction = predict(url, inputs)
        seconds = time.monotonic() - started
    if options.url:
        sys.stderr.write(prediction.logs)
    with replacing(options.output) as file:
        file.write(prediction.output)
    if options.json:
        report = {
            "output": str(options.output),
            "bytes": len(prediction.output),
            "inputs": inputs,
            "seconds": round(seconds, 3),
            "metrics": prediction.metrics,
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{options.output}: {len(prediction.output)} bytes in {seconds:.1f} s")
    return 0
