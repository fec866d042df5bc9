"""Writes a finished training as what the repository ships.

    python -m training.nano.release RUN DESTINATION

DESTINATION gets `nano/` and `nano-i2v/`, each a SAT directory in half precision with its model card
(README.md, contact_sheet.png, training.jsonl) and `lock.json`, the lock of the tarball that
converting and packing it gives. What is judged is what ships: the folder converted back from it.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from conversion.convert import convert
from conversion.nano_text_encoder import write_tokenizer
from conversion.new_folder import new_folder
from conversion.plan import plan_conversion
from conversion.sat_writer import TEXT_ENCODER, plan_sat, write_sat
from training.nano.evaluate import evaluate, load_pipeline, sheet
from training.nano.model_card import Run, model_card
from weights.lock import write_lock
from weights.packing.tarball import pack

GUIDANCES = [6.0, 3.0, 1.0]
PROMPTS = 200
STEPS = 50
# The stages of a run and the name that each one's pipeline ships under.
STAGES = {"nano": "text-to-video", "nano-i2v": "image-to-video"}


def write_checkpoint(pipeline: Path, destination: Path) -> None:
    """Write a trained pipeline's folder as a SAT directory in float16.

    Raises:
        UserError: `destination` is taken, or `pipeline` holds no pipeline of nano.
    """
    pipe = load_pipeline(pipeline)
    with tempfile.TemporaryDirectory() as temporary:
        half = Path(temporary) / "half"
        pipe.to(torch.float16).save_pretrained(half)
        write_sat(plan_sat(half), destination)
    # SAT reads a sentencepiece model; what transformers 5 saves in its place is made of it.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (destination / TEXT_ENCODER / name).unlink()
    write_tokenizer(destination / TEXT_ENCODER)


def check_equal(trained: Path, converted: Path) -> None:
    """Compare a converted folder's tensors with the trained ones, cast to float16.

    Raises:
        RuntimeError: a tensor is missing, unknown or not the same bit for bit.
    """
    for part in ("transformer", "vae", "text_encoder"):
        before, after = (
            load_file(next((f / part).glob("*.safetensors"))) for f in (trained, converted)
        )
        same = before.keys() == after.keys()
        if not (same and all(before[name].half().equal(after[name]) for name in before)):
            raise RuntimeError(f"the {part} of {converted} is not what was trained")


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _minutes(run: Path) -> dict[str, float]:
    path = run / "minutes.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_sheet(image: Image.Image, path: Path) -> None:
    """Write a contact sheet in 256 colours: for seven and their edges, in a quarter of the bytes.

    Chosen for the largest error: Pillow's default spends the palette on backgrounds, and the edges
    of shapes come out ragged.
    """
    method = Image.Quantize.MAXCOVERAGE
    image.quantize(256, method=method, kmeans=2).save(path, optimize=True)


def release_one(run: Path, name: str, destination: Path) -> dict[str, Any]:
    """Write one model of a finished run to `destination`; returns the tracker's report.

    Raises:
        UserError: `destination` is taken, or the run is not finished.
    """
    stage = run / STAGES[name]
    with new_folder(destination) as folder, tempfile.TemporaryDirectory() as temporary:
        checkpoint = folder / "checkpoint"
        write_checkpoint(stage / "pipeline", checkpoint)
        converted = Path(temporary) / name
        convert(plan_conversion(checkpoint), converted)
        check_equal(stage / "pipeline", converted)
        lock = pack(converted, Path(temporary) / f"{name}.tar", name=name)
        for part in checkpoint.iterdir():
            part.rename(folder / part.name)
        checkpoint.rmdir()
        write_lock(lock, folder / "lock.json")
        pipe = load_pipeline(converted)
        report = evaluate(pipe, GUIDANCES, PROMPTS, STEPS)
        write_sheet(sheet(pipe, steps=STEPS), folder / "contact_sheet.png")
        shutil.copyfile(stage / "log.jsonl", folder / "training.jsonl")
        settings = json.loads((stage / "settings.json").read_text())
        card = model_card(Run(name, settings, _minutes(run), _log(stage), report))
        (folder / "README.md").write_text(card)
    return report


def release(run: Path, destination: Path) -> dict[str, dict[str, Any]]:
    """Write both models below `destination`, those that are there left alone.

    Returns the tracker's report of each model that was written.
    """
    destination.mkdir(parents=True, exist_ok=True)
    return {
        name: release_one(run, name, destination / name)
        for name in STAGES
        if not (destination / name).exists()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("destination", type=Path, metavar="DESTINATION")
    options = parser.parse_args()
    release(options.run, options.destination)


if __name__ == "__main__":
    main()
