"""Samples nano through the real pipeline and lets the tracker judge.

PIPELINE is a diffusers folder. The settings are the API's: 50 steps, dynamic guidance.
Combinations of words that training never saw are listed apart. "right" is the share of clips with
colour, shape and direction as asked, "clean" that of those among them whose shape has no horns,
dents, ghosts or smears; training/nano/tracker.py says it exactly.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.nano.models import NANO, NANO_I2V
from training.nano.prompts import HELD_OUT, combination_of
from training.nano.sampling import (
    SEED,
    first_images,
    mean_psnr,
    sample,
    takes_image,
    tasks,
    through_vae,
)
from training.nano.score import contact_sheet, score
from weights.errors import UserError
from weights.folder import check_weights_folder, variant_of
from weights.variants import PIPELINES

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """examples:
  python -m training.nano.evaluate checkpoints/nano
  python -m training.nano.evaluate checkpoints/nano --guidance 6 --prompts 24 --sheet nano.png
  python -m training.nano.evaluate checkpoints/nano-i2v --seed 1 --json > report.json
"""

_HELD_OUT_EACH = 5
_SHEET_CLIPS = 24
_WORST_WORDS = 5
_SECTIONS = {
    False: "Combinations of words that training saw:",
    True: "Held out, combinations of words that training never saw:",
}
_SHARES = ("colour", "shape", "direction", "right", "clean")
_PSNRS = {"first_frame_psnr": "first frame PSNR", "vae_psnr": "VAE PSNR"}


def load_pipeline(folder: Path) -> Any:
    """Load nano or nano-i2v, in float32 on the CPU.

    Raises:
        UserError: `folder` is no whole diffusers folder, or holds another model.
    """
    found = check_weights_folder(folder)
    variant = variant_of(found)
    if variant not in (NANO, NANO_I2V) or found.pipeline != PIPELINES[variant.task]:
        raise UserError(
            f"{folder} holds a {found.pipeline} of {variant.name}.",
            f"A {PIPELINES[NANO.task]} of nano or a {PIPELINES[NANO_I2V.task]} of nano-i2v is "
            "expected: the tracker knows their clips only.",
            "Point to the folder that nano's training or `cogvideox convert` wrote.",
        )
    import diffusers
    import torch
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipe = getattr(diffusers, found.pipeline).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _check_request(guidances: Sequence[float], count: int, steps: int, seed: int) -> None:
    wrong = [f"guidance {each:g}" for each in guidances if not 1 <= each < math.inf]
    wrong += [
        f"{name} {value}" for name, value in (("prompts", count), ("steps", steps)) if value < 1
    ]
    wrong += [f"seed {seed}"] * (not 0 <= seed < 2**32)
    if wrong:
        raise UserError(
            f"Cannot evaluate with {', '.join(wrong)}.",
            "Guidance is 1 or more, prompts and steps are 1 or more, and a seed is from 0 to "
            "2**32 - 1.",
            "Correct these options.",
        )


def evaluate(
    pipe: Any, guidances: Iterable[float], count: int, steps: int, *, seed: int = SEED
) -> dict[str, dict[str, Any]]:
    """The scores of a pipeline, fit for JSON, under `guidance G` and `guidance G, held out`.

    Each is a `Score` as a dictionary, with `guidance` and `held_out` to tell what it is of. Of an
    image-to-video pipeline there are the PSNRs in dB, mean of the clips, of first frames against
    the images given: `first_frame_psnr`, and `vae_psnr` of what the VAE alone makes of these.

    Raises:
        UserError: a guidance, `count` or `steps` is below 1, or the seed out of range.
    """
    guidances = list(dict.fromkeys(guidances))
    _check_request(guidances, count, steps, seed)
    i2v = takes_image(pipe)
    report: dict[str, dict[str, Any]] = {}
    for guidance in guidances:
        for held_out in (False, True):
            number = len(HELD_OUT) * _HELD_OUT_EACH if held_out else count
            asked = tasks(number, held_out=held_out, independent_start=i2v, seed=seed)
            label = f"guidance {guidance:g}{', held out' if held_out else ''}"
            clips = sample(pipe, asked, guidance, steps, label)
            scored = score(clips, [combination_of(task.scene) for task in asked])
            found = {"guidance": guidance, "held_out": held_out} | dataclasses.asdict(scored)
            if i2v:
                images = first_images(asked)
                shown = np.stack([clip[0] for clip in clips])
                found["first_frame_psnr"] = mean_psnr(shown, images)
                found["vae_psnr"] = mean_psnr(through_vae(pipe.vae, images), images)
            report[label] = found
    return report


def sheet(
    pipe: Any,
    count: int = _SHEET_CLIPS,
    guidance: float = 6.0,
    steps: int = 50,
    *,
    seed: int = SEED,
) -> "Image.Image":
    """A contact sheet of clips that nobody picked: the first of those that `evaluate` judges."""
    _check_request([guidance], count, steps, seed)
    asked = tasks(count, held_out=False, independent_start=takes_image(pipe), seed=seed)
    clips = sample(pipe, asked, guidance, steps, "contact sheet")
    return contact_sheet(clips, [task.prompt for task in asked])


def _row(found: Mapping[str, Any]) -> list[str]:
    shares = [f"{found[name]:.1%}" for name in _SHARES]
    psnrs = [f"{found[name]:.1f} dB" for name in _PSNRS if name in found]
    return [
        f"{found['guidance']:g}",
        f"{found['clips']}",
        *shares,
        f"{found['mean_iou']:.3f}",
        *psnrs,
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table whose columns line up as plain text too."""
    psnrs = [title for name, title in _PSNRS.items() if name in rows[0]]
    lines = [["guidance", "clips", *_SHARES, "mean IoU", *psnrs], *map(_row, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return [
        f"| {' | '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    ]


def _worst_words(found: Mapping[str, Any]) -> str:
    at = f"at guidance {found['guidance']:g}"
    wrong = {name: each for name, each in found["words"].items() if each["word"] < 1}
    if not wrong:
        return f"- Every word came out right {at}."
    worst = sorted(wrong.items(), key=lambda item: (item[1]["word"], item[1]["right"]))
    named = (f"{name} {each['word']:.1%} of {each['clips']}" for name, each in worst)
    return f"- Worst words {at}: {', '.join(list(named)[:_WORST_WORDS])}."


def report_table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """What `evaluate` found as Markdown: a table and the worst words, held-out rows apart."""
    blocks = []
    for held_out, title in _SECTIONS.items():
        rows = [found for found in report.values() if found["held_out"] == held_out]
        blocks += [[title], _table(rows), [_worst_words(found) for found in rows]]
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _check_sheet(path: Path) -> None:
    """Raises UserError when no sheet can be written there, before the sampling and not after."""
    if path.suffix.lower() != ".png" or path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"The sheet can't be written to {path}.",
            "A file that ends in .png, in a folder that is there, is expected.",
            "Correct --sheet.",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.nano.evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="PIPELINE")
    parser.add_argument(
        "--guidance",
        type=float,
        nargs="+",
        default=[6.0, 3.0, 1.0],
        metavar="G",
        help="one or more, 1 or higher (default: 6 3 1)",
    )
    parser.add_argument(
        "--prompts",
        type=int,
        default=200,
        metavar="N",
        help="clips of combinations that training saw (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        metavar="N",
        help="another one gives other scenes and noise (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="OUT.png",
        help=f"also draw the first {_SHEET_CLIPS} clips at the first guidance",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _run(options: argparse.Namespace) -> None:
    # What is wrong is said before the seconds that loading takes.
    _check_request(options.guidance, options.prompts, options.steps, options.seed)
    if options.sheet:
        _check_sheet(options.sheet)
    pipe = load_pipeline(options.folder)
    report = evaluate(pipe, options.guidance, options.prompts, options.steps, seed=options.seed)
    print(json.dumps(report, indent=2) if options.json else report_table(report), flush=True)
    if options.sheet:
        drawn = sheet(pipe, guidance=options.guidance[0], steps=options.steps, seed=options.seed)
        drawn.save(options.sheet)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except UserError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("evaluate: interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
