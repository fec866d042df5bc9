"""Measure variants at full size on this machine, with random weights: seconds and memory.

Nothing is downloaded. A variant takes --budget-seconds at most: the most telling cases come first,
and what would go beyond it is left out and named. The files are written anew after every case, so
that a Ctrl-C loses only the one that runs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from weights.errors import UserError
from weights.variants import variant_named

if TYPE_CHECKING:
    from bench.case import Case

EXAMPLES = """examples:
  cogvideox bench cogvideox-5b
  cogvideox bench cogvideox-2b cogvideox-5b --out results --json
  cogvideox bench nano --cases served compile --steps 10

cases:
  served           a step, the stages around it and the peak of memory
  speed            steps that reuse what another computed, and the presets made of them
  attention        each kernel of torch's attention at this size, and a step with the fastest
  guidance         the two passes of guidance batched, apart, and without the second
  decode           decoding in tiles and whole
  lora             a LoRA put in and taken out, and a step with it
  compile          a step with the transformer's blocks compiled, and what compiling takes
  full-quality     a request of 50 steps at quality, compiled where that was faster
  full-fast        a request of 50 steps at fast, compiled where that was faster
  full-balanced    a request of 50 steps at balanced, compiled where that was faster
  resident         resident: peak of memory, a step, and what stays on the GPU afterwards
  model-offload    model-offload: peak of memory, a step, and what stays on the GPU afterwards
  group-offload    group-offload: peak of memory, a step, and what stays on the GPU afterwards
  sequential       sequential: peak of memory, a step, and what stays on the GPU afterwards
  int8             a step and the peak of memory with int8 weights
  precision        finite frames in bfloat16 and float16, of random weights
  load             loading a saved weights folder as a server does
  int8-compile     int8 weights with the transformer's blocks compiled
"""

_OUT = Path("outputs") / "bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant", nargs="+", metavar="VARIANT", help="see `cogvideox variants`")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these; default: all")
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N", help="steps to time one by; default: 5"
    )
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=600,
        metavar="S",
        help="what a variant may take; default: 600",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=_OUT,
        metavar="DIR",
        help=f"where bench.json and bench.md go; default: {_OUT}",
    )
    parser.add_argument("--json", action="store_true", help="print what is in bench.json")


def run(options: argparse.Namespace) -> int:
    variants = [variant_named(name) for name in options.variant]
    if options.steps < 2:
        raise UserError(
            f"--steps is {options.steps}.",
            "At least 2 are needed: the first one pays for what is set up once.",
            "Use 2 or more.",
        )
    # What the server prints while it works is for whoever watches, not for who reads the result.
    with redirect_stdout(sys.stderr):
        from bench.report import markdown
        from bench.run import bench

        report = bench(
            variants,
            _chosen(options.cases),
            steps=options.steps,
            budget_seconds=options.budget_seconds,
            folder=options.out,
        )
    print(json.dumps(report.as_json(), indent=2) if options.json else markdown(report), end="")
    failed = {"failed", "interrupted"} & {o.status for v in report.variants for o in v.outcomes}
    return 1 if failed else 0


def _chosen(names: Sequence[str] | None) -> "list[Case]":
    """The cases of these names, in their own order; all of them for None."""
    from bench.cases import CASES

    known = [case.name for case in CASES]
    for name in names or ():
        if name not in known:
            raise UserError(
                f"There is no case named {name!r}.",
                f"The cases are {', '.join(known)}.",
                "Use these names, or leave --cases out for all.",
            )
    return [case for case in CASES if names is None or case.name in names]
