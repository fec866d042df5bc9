"""Teaches nano a new word and measures it: clips, a LoRA by `cogvideox train`, and scores.

The tracker judges clips that are sampled with the API's settings: without the LoRA, with it, and
with its scale at 0.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.nano.evaluate import load_pipeline
from training.nano.prompts import combination_of
from training.nano.sampling import sample, tasks
from training.nano.score import score
from training.nano.zigzag import write_zigzags, zigzag_share
from weights.errors import OperationError, UserError

EXAMPLES = """examples:
  python -m training.nano.zigzag_proof outputs/zigzag
  python -m training.nano.zigzag_proof outputs/zigzag --json > zigzag.json
"""

_EXIT_CODES = "exit codes: 0 all goals met, 1 not, 2 bad input or usage, 130 interrupted"
CLIPS = 64
# Where `cogvideox train` makes it.
NANO = Path(__file__).resolve().parents[2] / "checkpoints" / "nano"
# What `cogvideox train` is told, and the training endpoint as well.
SETTINGS = {
    "steps": "3000",
    "batch": "16",
    "learning-rate": "5e-4",
    "lr-schedule": "cosine",
    "rank": "32",
    "alpha": "32",
}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
# The goals: shares of clips.
MOST_BEFORE, LEAST_AFTER, MOST_LOST = 0.10, 0.80, 0.05
_ZIGZAGS, _KNOWN = 36, 128
# As a request to the API that says nothing of them.
_GUIDANCE, _STEPS = 6.0, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Shares of clips: that zigzag when they are asked to, and that are right when they are asked
    for what nano knows."""

    zigzags: float
    known: float


def train_command(clips: Path, out: Path) -> list[str]:
    """The command line that trains the LoRA, from `cogvideox` on."""
    options = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    return [
        *("cogvideox", "train", str(clips), str(out), "--base", "nano"),
        *options,
        *("--targets", *TARGETS),
    ]


def measure(pipe: Any, label: str) -> Learned:
    """What a pipeline makes of prompts with the new word, and of others."""
    asked = tasks(_KNOWN, held_out=False, independent_start=False)
    clips = sample(pipe, asked, _GUIDANCE, _STEPS, f"{label}, known")
    right = score(clips, [combination_of(task.scene) for task in asked]).right
    return Learned(zigzags=zigzag_share(pipe, _ZIGZAGS, f"{label}, zigzag"), known=right)


def shortfalls(found: Mapping[str, Learned]) -> list[str]:
    """What of the goals is missed, in words; `found` is what `prove` gives."""
    base, learned, off = found["base"], found["scale 1"], found["scale 0"]
    missed = []
    if base.zigzags > MOST_BEFORE:
        missed.append(f"{base.zigzags:.0%} zigzag without the LoRA")
    if learned.zigzags < LEAST_AFTER:
        missed.append(f"only {learned.zigzags:.0%} zigzag with the LoRA")
    if off != base:
        missed.append("scale 0 is not the base")
    if learned.known < base.known - MOST_LOST:
        missed.append(f"{learned.known:.0%} of what is known is right, and was {base.known:.0%}")
    return missed


def prove(base: Path, lora: Path) -> dict[str, Learned]:
    """Measure the weights folder of nano as it is, with the LoRA, and with its scale at 0."""
    pipe = load_pipeline(base)
    found = {"base": measure(pipe, "base")}
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    found["scale 1"] = measure(pipe, "scale 1")
    pipe.set_adapters(pipe.get_active_adapters(), [0.0])
    found["scale 0"] = measure(pipe, "scale 0")
    return found


def _train(clips: Path, out: Path) -> None:
    command = train_command(clips, out)
    print(" ".join(command), file=sys.stderr, flush=True)
    arguments = [sys.executable, "-m", "cli.main", *command[1:]]
    code = subprocess.run(arguments, check=False, stdout=sys.stderr).returncode
    if code:
        raise OperationError(
            f"`cogvideox train` ended with exit code {code}.",
            "It must bring the training to its end.",
            "See what it says above; the same command goes on from the last save.",
        )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def _run(options: argparse.Namespace) -> int:
    clips, out = options.folder / "clips", options.folder / "lora"
    seconds: dict[str, float] = {}
    # Drawn anew every time to the same bytes: the training goes on with what it has of them.
    write_zigzags(clips, CLIPS)
    with _timed(seconds, "train"):
        _train(clips, out)
    with _timed(seconds, "measure"):
        found = prove(NANO, out / "pytorch_lora_weights.safetensors")
    missed = shortfalls(found)
    if options.json:
        shares = {name: asdict(shares) for name, shares in found.items()}
        print(json.dumps({"seconds": seconds, "found": shares, "missed": missed}, indent=2))
    else:
        print(_table(found))
        print(f"\nTraining took {seconds['train']:.0f} s, measuring {seconds['measure']:.0f} s.")
        print(f"Missed: {'; '.join(missed)}." if missed else "All goals are met.")
    return int(bool(missed))


def _table(found: Mapping[str, Learned]) -> str:
    rows = [f"| {name} | {each.zigzags:.0%} | {each.known:.0%} |" for name, each in found.items()]
    head = f"| | zigzags, of {_ZIGZAGS} | known prompts right, of {_KNOWN} |"
    return "\n".join([head, "|---|---|---|", *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.nano.zigzag_proof",
        description=__doc__,
        epilog=f"{EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="where clips and LoRA go")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    try:
        return _run(options)
    except UserError as error:
        print(f"zigzag_proof: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("zigzag_proof: interrupted; the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
