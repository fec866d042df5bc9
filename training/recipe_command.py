"""What the recipes' commands have in common: options, messages and exit codes."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from training.devices import DEVICES
from weights.errors import UserError

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted"


def recipe_parser(
    module: str, description: str | None, examples: str, settings: Path
) -> argparse.ArgumentParser:
    """A parser with the options that all recipes have; `settings` is the default file."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"{examples}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="OUT",
        help="the run's folder: a new one, or one to go on with",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        default=settings,
        metavar="FILE",
        help=f"a YAML file with every setting, by default {settings.name} beside the recipe",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where to train, by default cpu; a run may change it when it goes on",
    )
    return parser


def _saved_step(folder: Path) -> int:
    path = folder / "state.pt"
    if not path.is_file():
        return 0
    return int(torch.load(path, weights_only=True, map_location="cpu", mmap=True)["step"])


def run_recipe(name: str, folder: Path, train: Callable[[], Path]) -> int:
    """Train, print the path of what came out, and return the exit code.

    Bad input and failures of the disk get a message on stderr, and so does Ctrl-C, which says from
    which step the run in `folder` goes on.
    """
    try:
        print(train())
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        step = _saved_step(folder)
        line = f"{name}: interrupted. The same command goes on from step {step}."
        print(f"\n{line}", file=sys.stderr)
        return 130
    return 0
