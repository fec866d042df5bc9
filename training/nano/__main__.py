"""Trains nano from nothing: VAE, text-to-video, image-to-video, then what ships and its figures.

Every stage keeps its state below OUT, so that the same command goes on after an interruption, and
what is finished is not done again.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training.devices import DEVICES
from training.nano import image_to_video_recipe, text_to_video_recipe, vae_recipe
from training.nano.denoiser_settings import DenoiserSettings
from training.nano.evaluate import report_table
from training.nano.release import release
from training.settings import read_settings
from weights.errors import UserError

EXAMPLES = """examples:
  python -m training.nano outputs/nano
  python -m training.nano outputs/nano-2 --seed 2
"""


@contextmanager
def _stage(out: Path, name: str) -> Iterator[None]:
    """Announce a stage and add its minutes to OUT/minutes.json, interrupted ones included."""
    print(f"== {name}", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        yield
    finally:
        path = out / "minutes.json"
        minutes = json.loads(path.read_text()) if path.is_file() else {}
        minutes[name] = round(minutes.get(name, 0) + (time.monotonic() - started) / 60, 1)
        path.write_text(json.dumps(minutes, indent=2))
        print(f"== {name}: {minutes[name]} min", file=sys.stderr, flush=True)


def train_nano(out: Path, seed: int | None, device: str) -> None:
    """Train, write and judge both models below `out`; `seed` replaces that of every recipe.

    Raises:
        UserError: `out` holds another run, or there is no such device.
    """
    vae = read_settings(vae_recipe.SETTINGS, vae_recipe.VaeSettings)
    text, image = (
        read_settings(recipe.SETTINGS, DenoiserSettings)
        for recipe in (text_to_video_recipe, image_to_video_recipe)
    )
    if seed is not None:
        vae = dataclasses.replace(vae, seed=seed)
        text, image = (dataclasses.replace(one, seed=seed) for one in (text, image))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file.", "A folder is expected.", "Choose another path.")
    out.mkdir(parents=True, exist_ok=True)
    with _stage(out, "vae"):
        vae_folder = vae_recipe.train_vae(out / "vae", vae, device)
    with _stage(out, "text-to-video"):
        pipeline = text_to_video_recipe.train_text_to_video(
            out / "text-to-video", vae_folder, text, device
        )
    with _stage(out, "image-to-video"):
        image_to_video_recipe.train_image_to_video(out / "image-to-video", pipeline, image, device)
    with _stage(out, "release"):
        reports = release(out, out / "release")
    for name, report in reports.items():
        print(f"\n{name}\n\n{report_table(report)}")
    print(f"\nBoth models, with their model cards: {out / 'release'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.nano",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one to go on with")
    parser.add_argument("--seed", type=int, help="replaces the seed of every recipe")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to train")
    options = parser.parse_args(argv)
    try:
        train_nano(options.out, options.seed, options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last save.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
