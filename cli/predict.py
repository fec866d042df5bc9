"""Run one prediction through the real Cog server."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.input_files import input_uri
from cli.runners import RUNNERS
from cli.serve import add_weights_argument, chosen_weights, end_on_sigterm, tell
from weights.atomic import replacing
from weights.errors import UserError

EXAMPLES = """examples:
  cogvideox predict t2v -i prompt="a red circle moving right" -o out.mp4
  cogvideox predict i2v -i image=@photo.jpg -i prompt="the leaves move in the wind" -o out.mp4
  cogvideox predict t2v -i prompt="..." -i num_inference_steps=10 -i seed=7 -o out.gif --json
  cogvideox predict t2v -i prompt="..." -o out.mp4 --url http://127.0.0.1:5001
"""
_FORMAT = "output_format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an input; of a file its path or URL",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="its ending chooses the format (default: output.mp4)",
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--url",
        # Everything asked of the server is a path that is appended to it.
        type=lambda url: url.rstrip("/"),
        help="use the server that runs there instead of starting one",
    )
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
        inputs[name] = _typed(name, text, properties[name])
    return inputs


def _typed(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("format") == "uri":
        return input_uri(name, text)
    json_type = schema.get("type")
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


def with_format_of(
    output: Path | None, inputs: Mapping[str, Any], properties: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The file to write and the inputs with its format: that of its ending where none is given.

    Raises:
        UserError: the ending says another format than the inputs.
    """
    if _FORMAT not in properties:
        return output or Path("output.mp4"), dict(inputs)
    if output is None:
        return Path(f"output.{inputs.get(_FORMAT, 'mp4')}"), dict(inputs)
    ending = output.suffix.lstrip(".").lower()
    asked = inputs.get(_FORMAT, ending or "mp4")
    if ending and asked != ending:
        raise UserError(
            f"{_FORMAT} is {asked} and the output {output}.",
            "The file's ending must say the format it has.",
            f"Name it {output.with_suffix('.' + asked)}, or leave {_FORMAT} out.",
        )
    return output, {**inputs, _FORMAT: asked}


@contextmanager
def _server_url(options: argparse.Namespace) -> Iterator[str]:
    """The address of the server to ask: the one given, or one that runs for as long as this."""
    from cli.server import running_server

    if options.url:
        yield options.url
        return
    weights = chosen_weights(options.weights, options.task)
    with running_server(RUNNERS[options.task], weights=weights, on_line=tell) as server:
        yield server.url


def run(options: argparse.Namespace) -> int:
    from cli.openapi_schema import input_properties, openapi_document
    from cli.prediction_client import openapi, predict

    end_on_sigterm()
    url = options.url
    document = openapi(url) if url else openapi_document(RUNNERS[options.task])
    properties = input_properties(document)
    output, inputs = with_format_of(
        options.output, typed_inputs(options.input, properties), properties
    )
    _require_folder_of(output)
    with _server_url(options) as url:
        started = time.monotonic()
        prediction = predict(url, inputs)
        seconds = time.monotonic() - started
    if options.url:
        sys.stderr.write(prediction.logs)
    with replacing(output) as file:
        file.write(prediction.output)
    if options.json:
        report = {
            "output": str(output),
            "bytes": len(prediction.output),
            "inputs": {name: _shown(value) for name, value in inputs.items()},
            "seconds": round(seconds, 3),
            "metrics": prediction.metrics,
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {len(prediction.output)} bytes in {seconds:.1f} s")
    return 0


def _require_folder_of(output: Path) -> None:
    if not output.absolute().parent.is_dir():
        raise UserError(
            f"There is no folder {output.absolute().parent}.",
            "The output must go to an existing one.",
            "Create it, or choose another path with -o.",
        )


def _shown(value: Any) -> Any:
    """An input for the report: without a file's content."""
    if isinstance(value, str) and value.startswith("data:"):
        return f"{value.partition(',')[0]},…"
    return value
