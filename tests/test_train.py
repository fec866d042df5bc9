"""The training API over HTTP, on the real Cog server; most trainings are a stand-in's."""

import base64
import io
import json
import re
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import requests
from safetensors import safe_open
from safetensors.numpy import load

from cli.prediction_client import health, openapi
from cli.runners import ROOT, RUNNERS, TRAINER, RunnerFile
from cli.server import running_server
from cli.training_client import cancel_training, train
from predictors.lora.archive import settle
from tests.conftest import RecordedLines, RecordedServer
from tests.predictors.guarding import Target
from tests.training.dataset.small_datasets import write_clip
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

# train.py as it is, with a training that takes a moment per step and keeps what it was told, unless
# the rank is 1: that is trained in earnest.
STAND_IN = f"""
import json
import os
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
from safetensors.numpy import save_file

from training.finetuning import training_request

spec = spec_from_file_location("train", "{TRAINER.path}")
sys.modules["train"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
train = module.train


def stand_in(base, clips, rules, settings, out):
    if settings.rank == 1:
        return finetune(base, clips, rules, settings, out)
    out.mkdir()
    print(f"temporary {{out.parent.parent}}", flush=True)
    for step in range(settings.steps):
        print(f"training: step {{step + 1}} of {{settings.steps}}", flush=True)
        time.sleep(0.02)
    (out / "README.md").write_text(json.dumps([clip.prompt for clip in clips]))
    if settings.validation_prompts:
        (out / "validation").mkdir()
        (out / "validation" / "1.mp4").write_text(settings.validation_prompts[0])
    save_file({{"seed": np.array(settings.seed)}}, out / "lora.safetensors")
    return out / "lora.safetensors"


finetune, training_request._finetune = training_request._finetune, stand_in
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder):
    file = tmp_path_factory.mktemp("trainer") / "stand_in.py"
    file.write_text(STAND_IN)
    lines = RecordedLines()
    with running_server(
        RUNNERS["t2v"],
        trainer=RunnerFile(file, "train", "train"),
        weights=str(tiny_folder),
        on_line=lines.add,
    ) as running:
        yield RecordedServer(running.url, lines)


@pytest.fixture(autouse=True)
def stays_healthy(server):
    yield
    # It says BUSY for a moment after it has answered.
    assert health(server.url).status in ("READY", "BUSY")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dataset of two clips, by name."""
    clip = write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()
    return {
        "videos/1.mp4": clip,
        "videos/2.mp4": clip,
        "labels/1.txt": "red",
        "labels/2.txt": "blue",
    }


def zip_uri(files):
    with io.BytesIO() as memory:
        with zipfile.ZipFile(memory, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return data_uri(memory.getvalue())


def data_uri(content):
    return f"data:application/zip;base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def videos(files):
    return zip_uri(files)


def test_a_zip_becomes_a_tar_that_a_predictor_takes(server, videos, tmp_path):
    asked = {"videos": videos, "steps": 2.0, "seed": 7, "validation_prompt": "a cat"}
    training = train(server.url, asked)
    with tarfile.open(fileobj=io.BytesIO(training.weights)) as tar:
        assert tar.extractfile("README.md").read() == b'["red", "blue"]'
        assert tar.extractfile("validation/1.mp4").read() == b"a cat"
    with (tmp_path / "lora.tar").open("w+b") as file:
        file.write(training.weights)
        settle(file, "the tar", 1 << 20)
        file.seek(0)
        assert load(file.read())["seed"] == 7
    assert "Used: 2 videos" in training.logs
    assert "training: step 2 of 2\n" in training.logs
    assert (training.metrics["clips"], training.metrics["left_out"]) == (2, 0)
    assert set(training.metrics["timing"]) == {"check", "train", "pack"}
    assert "Trainings are for nano (t2v)." in server.lines.since(0)


def test_a_lora_is_trained_and_comes_with_its_card(server, videos, tmp_path):
    asked = {"videos": videos, "steps": 2, "rank": 1, "trigger_word": "zig"}
    asked |= {"lr_schedule": "cosine", "targets": "attention+feed-forward"}
    training = train(server.url, asked)
    with tarfile.open(fileobj=io.BytesIO(training.weights)) as tar:
        card, name = tar.getnames()
        assert b"\n# nano" in tar.extractfile(card).read()
        lora = tmp_path / name
        lora.write_bytes(tar.extractfile(name).read())
    assert re.search(r"^Training: step 2 of 2, loss \d", training.logs, re.MULTILINE)
    with safe_open(lora, "np") as file:
        metadata = file.metadata()
    matrices = load(lora.read_bytes())
    trained = [matrix for name, matrix in matrices.items() if "lora_B" in name]
    assert len(matrices) == 2 * len(trained) == 2 * 6 * VARIANTS["nano"].num_layers
    assert metadata["variant"] == "nano"
    assert json.loads(metadata["settings"])["lr_schedule"] == "cosine"
    assert json.loads(metadata["trigger_prompts"]) == ["zig, red", "zig, blue"]
    # They begin as zeros.
    assert all(matrix.any() for matrix in trained)


def test_the_same_inputs_give_the_same_bytes(server, videos):
    asked = {"videos": videos, "steps": 1}
    assert train(server.url, asked).weights == train(server.url, asked).weights


def test_the_server_tells_its_schema(server):
    document = openapi(server.url)
    assert "videos" in document["components"]["schemas"]["TrainingInput"]["required"]
    assert "/trainings" in document["paths"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "videos: Field required"),
        ({"videos": 5}, 'videos: 5 is not of type "string"'),
        ({"steps": 0}, "steps: 0 is less than the minimum of 1"),
        ({"steps": 1.5}, 'steps: 1.5 is not of type "integer"'),
        ({"steps": 100_001}, "steps: 100001 is greater than the maximum of 100000"),
        ({"learning_rate": 0}, "learning_rate: 0 is less than the minimum of"),
        ({"lr_schedule": "piecewise_constant"}, 'lr_schedule: "piecewise_constant" is not one of'),
        ({"targets": "to_q"}, 'targets: "to_q" is not one of'),
        ({"rank": 1025}, "rank: 1025 is greater than"),
        ({"alpha": 0}, "alpha: 0 is less than"),
        ({"batch_size": 65}, "batch_size: 65 is greater than"),
        ({"gradient_checkpointing": "yes"}, 'gradient_checkpointing: "yes" is not of type'),
        ({"trigger_word": "x" * 101}, "trigger_word: "),
        ({"seed": 2**31}, "seed: 2147483648 is greater than"),
    ],
)
def test_invalid_inputs_are_refused_with_the_reason(server, videos, inputs, message):
    asked = {"videos": videos} | inputs if inputs else {}
    with pytest.raises(UserError) as caught:
        train(server.url, asked)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", ["/etc/hostname", "file:///etc/hostname", ""])
def test_a_file_of_the_server_is_not_read(server, given):
    with pytest.raises(OperationError, match=r"failed: videos is not a file that was sent along\."):
        train(server.url, {"videos": given})


def test_a_zip_is_not_fetched_from_where_the_server_is(server):
    with closing(Target()) as target:
        with pytest.raises(OperationError, match="not on the public internet"):
            train(server.url, {"videos": f"http://127.0.0.1:{target.port}/videos.zip"})
        assert not target.was_reached()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (data_uri(b"no zip"), "failed: videos.zip is neither a folder nor a zip."),
        (zip_uri({"../../escape.mp4": b"x"}), "failed: videos.zip holds '../../escape.mp4', which"),
        (zip_uri({"videos/1.mp4": b"x"}), "failed: videos.zip has no metadata.jsonl"),
    ],
    ids=["no zip", "an escape", "no labels"],
)
def test_what_is_no_dataset_is_refused(server, uri, message):
    with pytest.raises(OperationError) as caught:
        train(server.url, {"videos": uri})
    assert message in str(caught.value)


def test_a_bad_clip_is_named_and_can_be_skipped(server, files):
    videos = zip_uri(files | {"videos/2.mp4": b"no video"})
    with pytest.raises(OperationError, match=r"failed: 1 of 2 clips can't be used\..*skip_bad"):
        train(server.url, {"videos": videos})
    training = train(server.url, {"videos": videos, "skip_bad": True, "steps": 1})
    assert "Left out: videos/2.mp4: " in training.logs
    assert training.metrics["left_out"] == 1


def test_what_comes_in_as_a_prediction_is_checked_as_well(server, videos):
    """In this mode Cog checks nothing there."""

    def error(inputs):
        def ask():
            return requests.post(f"{server.url}/predictions", json={"input": inputs}, timeout=60)

        # The slot of the one before may just be being freed.
        while (answer := ask()).status_code == 409:
            pass
        assert answer.json()["status"] == "failed"
        return answer.json()["error"]

    assert "UserError: steps is 0. It must be a whole number" in error(
        {"videos": videos, "steps": 0}
    )
    assert "UserError: rank is many." in error({"videos": videos, "rank": "many"})
    assert "UserError: videos is not a file that was sent along." in error({})


def test_cancelling_ends_it_within_a_step_and_leaves_nothing(server, videos):
    since = server.lines.position()
    with ThreadPoolExecutor(1) as pool:
        asked = {"videos": videos, "steps": 100_000}
        running = pool.submit(train, server.url, asked, "to-be-cancelled")
        server.lines.wait_for("training: step 3 of 100000", since)
        assert cancel_training(server.url, "to-be-cancelled")
        before = len(server.lines.since(since))
        with pytest.raises(OperationError, match="The training canceled"):
            running.result(timeout=60)
    after = server.lines.since(since)[before:]
    assert sum(line.startswith("training: step") for line in after) <= 1
    (told,) = (line for line in server.lines.since(since) if line.startswith("temporary "))
    temporary = Path(told.removeprefix("temporary "))
    assert temporary.is_relative_to(ROOT / ".cache")
    kept = [path for path in temporary.rglob("*") if path.is_file()]
    assert all(path.suffix == ".tar" for path in kept), kept
    assert not list(temporary.glob("cogvideox-training-*"))


def test_there_is_no_training_to_cancel(server):
    assert not cancel_training(server.url, "nobody")


def test_weights_are_looked_for_when_the_server_starts():
    with (
        pytest.raises(OperationError, match=r"failed\. COGVIDEOX_WEIGHTS is '/nowhere', and"),
        running_server(RUNNERS["t2v"], trainer=TRAINER, weights="/nowhere"),
    ):
        pytest.fail("it must not become ready")
