"""Weights are told apart by what conversion wrote down, or by their bytes."""

import json
import shutil

import pytest

from sampling.clip_key import digest_of, file_digest, weights_identity


@pytest.fixture
def folder(tmp_path):
    """A weights folder of which nobody wrote down what is in it."""
    folder = tmp_path / "weights"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "a.safetensors").write_bytes(bytes(3_000_000))
    return folder


def test_a_digest_is_of_the_value_and_not_of_its_order():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})
    assert digest_of("\ud800") != digest_of("?")


def test_a_copy_has_the_same_identity(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert weights_identity(copy) == weights_identity(folder)


@pytest.mark.parametrize("position", [0, 1_500_000, 2_999_999])
def test_other_bytes_have_another(folder, position):
    before = weights_identity(folder)
    file = folder / "transformer" / "a.safetensors"
    content = bytearray(file.read_bytes())
    # As much as a row of weights, which a training changes all of.
    content[max(0, position - 200_000) : position + 200_000] = b"\1" * 400_000
    file.write_bytes(content[:3_000_000])
    assert weights_identity(folder) != before


def test_what_conversion_wrote_down_stands_for_the_tensors(folder, tmp_path):
    record = {"files": [{"path": "a", "digest": "sha256:1"}], "tool": "one"}
    (folder / "conversion.json").write_text(json.dumps(record))
    before = weights_identity(folder)
    (folder / ".installed").write_text("by a lock")
    (folder / "conversion.json").write_text(json.dumps(record | {"tool": "two"}))
    assert weights_identity(folder) == before
    record["files"][0]["digest"] = "sha256:2"
    (folder / "conversion.json").write_text(json.dumps(record))
    assert weights_identity(folder) != before


def test_a_record_without_files_is_none(folder):
    before = weights_identity(folder)
    (folder / "conversion.json").write_text('{"variant": "nano"}')
    assert weights_identity(folder) != before


def test_a_file_digest_is_that_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
