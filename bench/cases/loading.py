"""From a weights folder on disk to a model that is ready."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.case import Case
from bench.figures import Figure
from bench.instruments import Stopwatch
from bench.random_pipeline import random_pipeline
from bench.session import Session
from predictors.memory_estimate import variant_sizes
from predictors.operator_settings import OperatorSettings
from predictors.video_model import load_model
from predictors.weights_source import ReadyWeights
from weights.byte_sizes import shown_size

# Of a slow disk, to write and then to read what the page cache could not keep.
_BYTES_A_SECOND = 300e6
_SPARE = 1.1


def _load(session: Session) -> Iterator[Figure]:
    session.discard_model()
    with tempfile.TemporaryDirectory(prefix="cogvideox-bench-") as name:
        folder = Path(name)
        watch = Stopwatch()
        pipe = random_pipeline(session.variant, device="cpu", dtype=session.dtype)
        pipe.save_pretrained(folder)
        del pipe
        yield Figure(name="to write the random folder", value=watch.seconds(), unit="s")
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        yield Figure(name="its size", value=size, unit="bytes")
        weights = ReadyWeights(folder=folder, variant=session.variant, dtype=session.dtype)
        watch = Stopwatch()
        model = load_model(weights, OperatorSettings())
        yield Figure(name="to load it, just written", value=watch.seconds(), unit="s")
        del model


def _no_room(session: Session) -> str:
    needed = int(_size(session) * _SPARE)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free >= needed:
        return ""
    return f"{shown_size(needed)} of disk are needed and {shown_size(free)} are free"


def _size(session: Session) -> int:
    return variant_sizes(session.variant, session.dtype).total


LOAD = Case(
    name="load",
    shows="loading a saved weights folder as a server does",
    run=_load,
    expected_seconds=lambda s: 2 * _size(s) / _BYTES_A_SECOND,
    obstacle=_no_room,
)
