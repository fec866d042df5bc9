"""A new word by HTTP alone: clips are posted as a zip, and their LoRA serves requests."""

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.input_files import input_uri
from cli.prediction_client import predict
from cli.runners import RUNNERS, TRAINER
from cli.server import running_server
from cli.training_client import train
from predictors.video import read_video
from tests.conftest import RecordedLines
from training.nano.prompts import combination_of
from training.nano.sampling import tasks
from training.nano.score import score
from training.nano.tracker import judge
from training.nano.zigzag import shows_zigzag, write_zigzags, zigzag_prompts
from training.nano.zigzag_proof import CLIPS, LEAST_AFTER, MOST_LOST, SETTINGS

ZIGZAGS, KNOWN = 36, 100


def zipped(folder):
    with io.BytesIO() as memory:
        with zipfile.ZipFile(memory, "w") as archive:
            for path in sorted(folder.rglob("*.*")):
                archive.write(path, path.relative_to(folder))
        return memory.getvalue()


def taught(folder):
    """The tar that the training endpoint makes of 64 clips."""
    write_zigzags(folder / "clips", CLIPS)
    (folder / "clips.zip").write_bytes(zipped(folder / "clips"))
    lines = RecordedLines()
    asked = {
        "videos": input_uri("videos", f"@{folder / 'clips.zip'}"),
        "steps": int(SETTINGS["steps"]),
        "batch_size": int(SETTINGS["batch"]),
        "learning_rate": float(SETTINGS["learning-rate"]),
        "lr_schedule": SETTINGS["lr-schedule"],
        "rank": int(SETTINGS["rank"]),
        "alpha": float(SETTINGS["alpha"]),
        "targets": "attention+feed-forward",
        "gradient_checkpointing": False,
    }
    with running_server(RUNNERS["t2v"], trainer=TRAINER, weights="nano", on_line=lines.add) as it:
        return train(it.url, asked).weights


@contextmanager
def files_of(folder) -> Iterator[str]:
    """A web server of these files, as the bucket that a training uploads to."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_word_is_taught_and_served_by_http_alone(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "zigzag.tar").write_bytes(taught(tmp_path))
    # The only way for a test without the internet: an operator who allows this machine.
    monkeypatch.setenv("COGVIDEOX_ALLOW_NETWORKS", "127.0.0.0/8")
    asked = tasks(KNOWN, held_out=False, independent_start=False)
    lines = RecordedLines()
    with (
        files_of(tmp_path / "served") as files,
        running_server(RUNNERS["t2v"], weights="nano", on_line=lines.add) as server,
    ):

        def clip(prompt, seed, **more):
            request = {"prompt": prompt, "seed": seed, "output_quality": 100} | more
            video = tmp_path / "answer.mp4"
            video.write_bytes(predict(server.url, request).output)
            frames, _ = read_video(video)
            return frames

        lora = f"{files}/zigzag.tar"
        prompts = zigzag_prompts(ZIGZAGS)
        zigzags = [
            shows_zigzag(judge(clip(prompt, seed, lora=lora)))
            for seed, prompt in enumerate(prompts)
        ]
        before = [
            shows_zigzag(judge(clip(prompt, seed))) for seed, prompt in enumerate(prompts[:12])
        ]
        off = clip(prompts[0], 0, lora=lora, lora_scale=0)
        assert (off == clip(prompts[0], 0)).all()
        known = [clip(task.prompt, task.seed, lora=lora) for task in asked]
    right = score(known, [combination_of(task.scene) for task in asked]).right
    print(f"zigzag {sum(zigzags)} of {ZIGZAGS}, {sum(before)} of 12 without; known {right:.0%}")
    assert sum(before) <= 1
    assert sum(zigzags) / ZIGZAGS >= LEAST_AFTER
    assert right >= 1 - MOST_LOST
