"""Run a predictor, or its training, on the real Cog server, without Docker."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from cli.runners import RUNNERS, TRAINER
from weights.variants import Task

if TYPE_CHECKING:
    from cli.server import Server

EXAMPLES = """examples:
  cogvideox serve t2v
  cogvideox serve i2v --port 5002
  cogvideox serve t2v --port 5001 --weights checkpoints/cogvideox-5b
  curl http://127.0.0.1:5001/predictions -H 'Content-Type: application/json' \\
      -d '{"input": {"prompt": "a red circle moves right", "num_inference_steps": 10}}'
  cogvideox serve t2v --train --port 5003
  curl http://127.0.0.1:5003/trainings -H 'Content-Type: application/json' \\
      -d '{"input": {"videos": "https://example.com/videos.zip", "steps": 500}}'
"""
# As docs/deploy.md gives Docker and Kubernetes.
GRACE_SECONDS = 600.0
# The models that ship with the project: they need no download and no GPU.
DEFAULT_WEIGHTS: dict[Task, str] = {"t2v": "nano", "i2v": "nano-i2v"}


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="W",
        help="a weights folder, a *.lock.json or a variant's name "
        f"(default: $COGVIDEOX_WEIGHTS, or {' and '.join(DEFAULT_WEIGHTS.values())})",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")
    parser.add_argument("--port", type=int, help="default: a free one")
    add_weights_argument(parser)
    parser.add_argument(
        "--train", action="store_true", help="train LoRAs for the weights instead of predicting"
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=GRACE_SECONDS,
        metavar="S",
        help="how long SIGTERM lets what runs be finished; a second one ends it "
        f"(default: {GRACE_SECONDS:g})",
    )


def chosen_weights(option: str | None, task: Task) -> str:
    """The weights to serve, said on stderr; nano is made first if what is there is not it."""
    if option:
        weights, origin = option, "--weights"
    elif weights := os.environ.get("COGVIDEOX_WEIGHTS", ""):
        origin = "COGVIDEOX_WEIGHTS"
    else:
        weights, origin = DEFAULT_WEIGHTS[task], "the default"
    tell(f"Weights: {weights} ({origin}).")
    if weights in DEFAULT_WEIGHTS.values():
        from cli.nano import prepare_nano

        prepare_nano(weights)
    return weights


def tell(line: str) -> None:
    """Progress and logs go to stderr."""
    print(line, file=sys.stderr, flush=True)


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the server is ended with us."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _serve(server: "Server", grace_seconds: float) -> int:
    """The exit code of a server that ends by itself; SIGTERM has it finish what runs first."""
    try:
        # Said in here: whoever reads it may order something, and then send SIGTERM, at once.
        tell(f"Ready at {server.url} (Ctrl-C ends it).")
        return server.wait()
    except SystemExit:
        tell("Ending when what runs is finished (a second signal ends it at once).")
        server.drain(grace_seconds)
        raise


def run(options: argparse.Namespace) -> int:
    from cli.server import running_server

    end_on_sigterm()
    weights = chosen_weights(options.weights, options.task)
    runner, trainer = RUNNERS[options.task], TRAINER if options.train else None
    tell(f"Starting {(trainer or runner).path.name} …")
    try:
        with running_server(
            runner, trainer=trainer, weights=weights, port=options.port, on_line=tell
        ) as server:
            code = _serve(server, options.grace_seconds)
            tell(f"The server ended by itself with exit code {code}.")
            return 1
    except KeyboardInterrupt:
        tell("Ended.")
        return 0
