"""A request to train becomes a tar, or an error that speaks of the zip; nothing stays behind."""

import ctypes
import io
import shutil
import tarfile
import tempfile
import threading
import zipfile
from contextlib import suppress

import cog
import numpy as np
import pytest
from safetensors.numpy import save_file

from predictors.outputs import output_directory
from predictors.weights_source import resolve_weights
from tests.training.dataset.small_datasets import write_clip, write_picture
from training.finetuning import training_request
from training.finetuning.training_request import train_lora, with_trigger
from weights.errors import OperationError, UserError

DEFAULTS = {
    "trigger_word": "",
    "steps": 2,
    "learning_rate": 1e-3,
    "lr_schedule": "constant",
    "targets": "attention",
    "rank": 4,
    "alpha": 1,
    "batch_size": 1,
    "gradient_checkpointing": True,
    "validation_prompt": "",
    "images": False,
    "skip_bad": False,
    "seed": 42,
}


class Stop(BaseException):
    """Stands for Cog's cancellation."""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where everything temporary lies."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def base(tiny_folder, monkeypatch):
    base = resolve_weights(str(tiny_folder), "t2v")
    monkeypatch.setattr(training_request, "base_model", lambda: base)
    return base


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the training; what it was given, and what it does."""

    class Trained:
        def __init__(self):
            self.calls = []
            self.act = lambda out: None

        def __call__(self, base, clips, rules, settings, out):
            self.calls.append((base, clips, rules, settings))
            assert all(clip.path.is_file() for clip in clips)
            out.mkdir()
            (out / "README.md").write_text("a card")
            save_file({"a": np.zeros(2)}, out / "lora.safetensors")
            self.act(out)
            return out / "lora.safetensors"

    trained = Trained()
    monkeypatch.setattr(training_request, "_finetune", trained)
    return trained


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a video that can be used."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


@pytest.fixture
def train(tmp_path):
    """Train on a zip of these files, with these inputs."""

    def train(files, **inputs):
        (tmp_path / "upload").write_bytes(zipped(files))
        videos = cog.Path(tmp_path / "upload")
        metrics = {}
        given = DEFAULTS | {"videos": videos} | inputs
        tar = train_lora(given, record_metric=metrics.__setitem__)
        return tar, metrics

    return train


def zipped(files):
    with io.BytesIO() as memory:
        with zipfile.ZipFile(memory, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return memory.getvalue()


def dataset(clip, *captions):
    files = {f"labels/{n}.txt": caption for n, caption in enumerate(captions)}
    return files | {f"videos/{n}.mp4": clip for n in range(len(captions))}


def test_a_zip_becomes_a_tar_and_leaves_nothing_else(train, trained, clip, base, temporary, capsys):
    tar, metrics = train(dataset(clip, "red", "blue"))
    assert tar.parent == output_directory()
    with tarfile.open(tar) as archive:
        assert archive.getnames() == ["README.md", "lora.safetensors"]
    ((given_base, clips, rules, settings),) = trained.calls
    assert given_base is base
    assert [clip.prompt for clip in clips] == ["red", "blue"]
    assert (rules.frames, rules.width, rules.height, rules.fps) == (9, 64, 64, 8)
    assert (settings.steps, settings.rank, settings.checkpointing) == (2, 4, True)
    assert (metrics["clips"], metrics["left_out"]) == (2, 0)
    assert {"timing.check", "timing.train", "timing.pack"} <= metrics.keys()
    assert list(temporary.iterdir()) == [output_directory()]
    assert list(output_directory().iterdir()) == [tar]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Used: 2 videos, each brought to 64×64")
    assert [line.split()[0] for line in said[1:]] == ["check", "train", "pack"]
    assert not any("red" in line for line in said)


def test_the_trigger_goes_before_each_caption_without_it(train, trained, clip):
    train(dataset(clip, "red", "a ZIG"), trigger_word="zig")
    ((_, clips, _, _),) = trained.calls
    assert [clip.prompt for clip in clips] == ["zig, red", "a ZIG"]


@pytest.mark.parametrize(
    ("prompt", "trigger", "expected"),
    [
        ("a cat", "", "a cat"),
        ("a cat", "TOK", "TOK, a cat"),
        ("a tok cat", "TOK", "a tok cat"),
        ("a token", "TOK", "TOK, a token"),
        ("in (my+style)", "my+style", "in (my+style)"),
    ],
)
def test_a_trigger_is_a_word_and_not_a_part_of_one(prompt, trigger, expected):
    assert with_trigger(prompt, trigger) == expected


def test_the_trigger_counts_towards_the_tokens_of_a_caption(train, trained, clip):
    files = dataset(clip, "abcdefghij")
    train(files)
    with pytest.raises(UserError, match=r"labels/0\.txt|videos/0\.mp4"):
        train(files, trigger_word="zigzag")


def test_bad_clips_are_refused_with_what_the_api_calls_it(train, trained, clip):
    files = dataset(clip, "red", "blue") | {"videos/1.mp4": b"no video"}
    with pytest.raises(UserError) as caught:
        train(files)
    message = str(caught.value)
    assert message.startswith("1 of 2 clips can't be used.")
    assert "or leave them out with skip_bad" in message
    assert "\n  videos/1.mp4: " in message
    assert trained.calls == []


def test_bad_clips_can_be_left_out_and_are_named(train, trained, clip, capsys):
    files = dataset(clip, "red", "blue") | {"videos/1.mp4": b"no video"}
    _, metrics = train(files, skip_bad=True)
    assert (metrics["clips"], metrics["left_out"]) == (1, 1)
    assert "\nLeft out: videos/1.mp4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", r"^videos\.zip is neither a folder nor a zip\. "),
        (zipped({}), r"^videos\.zip is empty\. "),
        (zipped({"a.txt": "x"}), r"^videos\.zip has no metadata\.jsonl"),
        (zipped({"../a.mp4": b"x"}), r"^videos\.zip holds '\.\./a\.mp4', which"),
        (zipped({"/etc/passwd": b"x"}), r"^videos\.zip holds '/etc/passwd', which is absolute"),
    ],
    ids=["no zip", "an empty zip", "no dataset", "an escape", "an absolute path"],
)
def test_what_is_no_dataset_is_refused_without_the_servers_paths(
    content, message, trained, tmp_path, temporary
):
    (tmp_path / "upload").write_bytes(content)
    inputs = DEFAULTS | {"videos": cog.Path(tmp_path / "upload")}
    with pytest.raises(UserError, match=message) as caught:
        train_lora(inputs, record_metric=lambda name, value: None)
    assert str(tmp_path) not in str(caught.value)
    assert not list(temporary.iterdir())
    assert trained.calls == []


@pytest.mark.parametrize("error", [Stop(), OperationError("Values are not finite.", "", "")])
def test_a_training_that_ends_early_leaves_nothing(train, trained, clip, temporary, error):
    def act(out):
        (out / "cache").mkdir()
        raise error

    trained.act = act
    with pytest.raises(type(error)):
        train(dataset(clip, "red"))
    assert not list(temporary.iterdir())


def test_a_cancellation_while_packing_leaves_nothing(train, trained, clip, temporary, monkeypatch):
    def pack(folder, lora, tar):
        raise Stop

    monkeypatch.setattr(training_request, "pack_result", pack)
    with suppress(Stop):
        train(dataset(clip, "red"))
    assert list(temporary.rglob("*")) == [output_directory()]


def test_a_cancellation_while_clearing_up_does_not_stop_it(
    train, trained, clip, temporary, monkeypatch
):
    """As Cog cancels: an exception is raised in the thread that trains, wherever that is."""

    def rmtree(folder, **options):
        if folder.parent == temporary:
            raise_in(ctypes.c_ulong(trains), ctypes.py_object(Stop))
        remove(folder, **options)

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    trains, remove = threading.get_ident(), shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    others = set(threading.enumerate())
    with pytest.raises(Stop):
        train(dataset(clip, "red"))
    for thread in set(threading.enumerate()) - others:
        thread.join()
    assert [path.suffix for path in temporary.rglob("*") if path.is_file()] == [".tar"]
    assert list(temporary.iterdir()) == [output_directory()]


def test_images_are_trained_on_where_they_are_asked_for(train, trained, tmp_path):
    files = {
        "metadata.jsonl": '{"file_name": "a.png", "prompt": "red"}',
        "a.png": write_picture(tmp_path / "a.png").read_bytes(),
    }
    with pytest.raises(UserError, match=r"a\.png: It is an image.*Use images to train on images"):
        train(files)
    train(files, images=True)
    ((_, (clip,), _, _),) = trained.calls
    assert clip.frames == 1


def test_errors_of_the_training_speak_of_inputs(train, trained, clip):
    def act(out):
        raise UserError(
            f"{out}/x does not fit.", "Use less.", "Try --checkpointing, --batch 1 or --rank-x."
        )

    trained.act = act
    with pytest.raises(UserError) as caught:
        train(dataset(clip, "red"))
    assert caught.value.given == "nano-lora/x does not fit."
    assert caught.value.remedy == "Try gradient_checkpointing, batch_size 1 or --rank-x."


def test_inputs_are_checked_before_anything_is_unpacked(train, trained, clip, temporary):
    with pytest.raises(UserError, match=r"^steps is 0"):
        train(dataset(clip, "red"), steps=0)
    assert not list(temporary.iterdir())
