"""The nano that ships is converted and packed once, and again when other weights ship."""

import json

import pytest

from cli.main import main
from cli.nano import NANO_MODELS, prepare_nano, shipped_checkpoint
from weights.lock import read_lock

MODEL = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in NANO_MODELS:
        prepare_nano(name, folder)
    return folder


def changed_at(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def tensor_files(lock):
    return {file for file in lock.files if file.path.endswith(".safetensors")}


@pytest.mark.parametrize("name", NANO_MODELS)
def test_what_ships_gives_the_lock_that_ships(prepared, name):
    """Conversion and packing write the same bytes everywhere, so the lock binds the checkpoint."""
    made = read_lock(prepared / f"{name}.lock.json")
    shipped = read_lock(shipped_checkpoint(name) / "lock.json")
    assert {(file.path, file.digest) for file in tensor_files(made)} == {
        (file.path, file.digest) for file in tensor_files(shipped)
    }
    assert len(tensor_files(made)) == 3


def test_a_second_time_nothing_is_made(prepared):
    before = changed_at(prepared)
    assert prepare_nano("nano", prepared) == prepared / "nano.lock.json"
    assert changed_at(prepared) == before


@pytest.mark.parametrize("lost", ["nano.lock.json", "nano.tar"])
def test_an_interrupted_run_is_taken_up_where_it_stopped(lost, prepared):
    converted = changed_at(prepared / "nano")
    digest = read_lock(prepared / "nano.lock.json").digest
    (prepared / lost).unlink()
    assert read_lock(prepare_nano("nano", prepared)).digest == digest
    assert changed_at(prepared / "nano") == converted


def test_other_weights_of_an_earlier_version_are_replaced(prepared):
    shipped = read_lock(prepared / "nano.lock.json")
    record = json.loads((prepared / "nano" / "conversion.json").read_bytes())
    lock = json.loads((prepared / "nano.lock.json").read_bytes())
    for content in (record, lock):
        model = next(file for file in content["files"] if file["path"] == MODEL)
        model["digest"] = "sha256:" + "0" * 64
    lock["setDigest"] = None
    (prepared / "nano" / "conversion.json").write_text(json.dumps(record))
    (prepared / "nano.lock.json").write_text(json.dumps(lock))
    assert read_lock(prepare_nano("nano", prepared)).digest == shipped.digest


@pytest.mark.parametrize(("names", "told"), [([], NANO_MODELS), (["nano-i2v"], ["nano-i2v"])])
def test_the_command_says_where_everything_is(names, told, prepared, monkeypatch, capsys):
    monkeypatch.setattr("cli.nano.CHECKPOINTS", prepared)
    assert main(["nano", *names, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": name,
            "checkpoint": str(shipped_checkpoint(name)),
            "folder": str(prepared / name),
            "tarball": str(prepared / f"{name}.tar"),
            "lock": str(prepared / f"{name}.lock.json"),
        }
        for name in told
    ]


def test_an_unknown_name_is_refused(capsys):
    assert main(["nano", "nano-v2v"]) == 2
    assert "no nano model named 'nano-v2v'. The names are nano and nano-i2v." in (
        capsys.readouterr().err
    )
