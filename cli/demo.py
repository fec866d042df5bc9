"""The whole way on this machine: SAT checkpoint, diffusers folder, tarball, bucket, install, clips.

Everything is written below checkpoints/ and outputs/ of the checkout. What an earlier run left is
used again, so that a second run takes seconds.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from weights.errors import UserError
from weights.variants import Task

EXAMPLES = """examples:
  cogvideox demo
  cogvideox demo --prompt "a blue square moving up"
"""

_STEPS = 50
_SEED = 4
_IMAGE_PROMPT = "a yellow square moving up"
_NEXT = """
Next, you might type:
  .venv/bin/cogvideox predict t2v -i prompt="a blue square moving up" -o outputs/mine.mp4
  .venv/bin/cogvideox predict i2v -i image=@outputs/demo-image.png \\
      -i prompt="a yellow square moving down" -o outputs/down.mp4
  .venv/bin/cogvideox serve t2v --port 5001
  .venv/bin/cogvideox convert YOUR_SAT_CHECKPOINT checkpoints/mine --text-encoder YOUR_T5"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", default="a red circle moving left", help="what to show")


@contextmanager
def _stage(name: str) -> Iterator[dict[str, str]]:
    """One line a stage: its name while it runs, then what it gave and how long it took."""
    watched = sys.stdout.isatty()
    if watched:
        print(f"  …  {name}", end="\r", flush=True)
    result: dict[str, str] = {}
    started = time.monotonic()
    yield result
    seconds = time.monotonic() - started
    print(f"{seconds:5.1f} s  {name:8}  {result['is']}", flush=True)


@contextmanager
def _bucket() -> Iterator[str]:
    """The URL of a bucket on an S3 server in this process; the environment leads there."""
    import requests

    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise UserError(
            "The demo's bucket needs moto, which is not installed.",
            "The packages of requirements-dev.txt are expected.",
            "Run `make setup` in a checkout.",
        ) from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # requests are not worth a line each
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = dict(os.environ)
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        os.environ.update(
            AWS_ENDPOINT_URL=endpoint,
            AWS_ALLOW_HTTP="true",
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="demo",
            AWS_SECRET_ACCESS_KEY="demo",  # noqa: S106
        )
        requests.put(f"{endpoint}/demo", timeout=10).raise_for_status()
        yield "s3://demo"
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


def _relative(path: Path) -> str:
    from cli.runners import ROOT

    return str(path.relative_to(ROOT))


def _prepare_weights(checkpoints: Path) -> Path:
    """Stages one to five: from the checkpoint to the install that the server will load."""
    from cli.nano import convert_nano, prepare_nano, shipped_checkpoint
    from conversion.inspection import inspect
    from weights.install import install
    from weights.lock import read_lock, write_lock
    from weights.pushing.push import push

    with _stage("inspect") as result:
        found = inspect(shipped_checkpoint("nano"))
        assert found.detection is not None
        variant = found.detection.variant
        result["is"] = (
            f"weights/nano, a SAT checkpoint: {variant.name}, {variant.task}, {variant.num_layers} "
            f"layers, {sum(file.parameters for file in found.files) / 1e6:.1f} M parameters"
        )
    with _stage("convert") as result:
        result["is"] = f"a diffusers folder: {_relative(convert_nano('nano', checkpoints))}"
    with _stage("pack") as result:
        lock_file = prepare_nano("nano", checkpoints)
        lock = read_lock(lock_file)
        result["is"] = f"a tarball of {lock.size} bytes and its lock: {_relative(lock_file)}"
    with _bucket() as bucket:
        with _stage("push") as result:
            lock, _ = push(lock, checkpoints / "nano.tar", f"{bucket}/nano.tar")
            pushed = checkpoints / "demo.lock.json"
            write_lock(lock, pushed)
            result["is"] = f"uploaded to {lock.url} and read back: {_relative(pushed)}"
        with _stage("fetch") as result:
            folder = install(read_lock(pushed), checkpoints / "installed" / "demo")
            result["is"] = f"{len(lock.files)} files verified against the lock: {_relative(folder)}"
    return folder


def _draw_image(png: Path) -> None:
    """The first frame for image-to-video: a yellow square in the middle of a dark ground."""
    from PIL import Image

    from training.nano.scenes import SIZE, Scene, render

    scene = Scene(
        colour="yellow",
        shape="square",
        direction="up",
        start=(SIZE / 2, SIZE / 2),
        radius=9.0,
        speed=2.0,
        background=(40, 44, 48),
    )
    with _stage("draw") as result:
        Image.fromarray(render(scene)[0]).save(png)
        result["is"] = f"an image to begin with: {_relative(png)}"


def _make_video(task: Task, weights: str, inputs: dict[str, Any], video: Path) -> None:
    """The real server, one request over HTTP, and a look at the answer."""
    from cli.prediction_client import predict
    from cli.runners import RUNNERS
    from cli.server import running_server
    from predictors.video import contact_sheet
    from weights.atomic import replacing

    inputs = inputs | {"num_inference_steps": _STEPS, "seed": _SEED}
    with ExitStack() as stack:
        with _stage("serve") as result:
            server = stack.enter_context(
                running_server(RUNNERS[task], weights=weights, on_line=lambda _: None)
            )
            result["is"] = f"the Cog server for {task} is ready at {server.url}"
        with _stage("predict") as result:
            with replacing(video) as file:
                file.write(predict(server.url, inputs).output)
            result["is"] = f'"{inputs["prompt"]}", {_STEPS} steps: {_relative(video)}'
    with _stage("look") as result:
        sheet = video.with_suffix(".png")
        contact_sheet(video, sheet)
        result["is"] = f"all frames as one picture: {_relative(sheet)}"


def run(options: argparse.Namespace) -> int:
    from cli.input_files import input_uri
    from cli.nano import prepare_nano
    from cli.runners import ROOT
    from cli.serve import end_on_sigterm

    end_on_sigterm()
    checkpoints, outputs = ROOT / "checkpoints", ROOT / "outputs"
    outputs.mkdir(exist_ok=True)
    weights = _prepare_weights(checkpoints)
    _make_video("t2v", str(weights), {"prompt": options.prompt}, outputs / "demo.mp4")
    image = outputs / "demo-image.png"
    _draw_image(image)
    inputs = {"prompt": _IMAGE_PROMPT, "image": input_uri("image", str(image))}
    lock = prepare_nano("nano-i2v", checkpoints)
    _make_video("i2v", str(lock), inputs, outputs / "demo-i2v.mp4")
    print(_NEXT)
    return 0
