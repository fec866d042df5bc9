"""A LoRA comes out of a tarball untouched, and what else was downloaded is called by its name."""

import gzip
import io
import json
import pickle
import subprocess
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictors.lora import archive
from predictors.lora.archive import settle
from tests.weights.conftest import safetensors_bytes, shard
from tests.weights.fetching.hostile_tars import END_MARK, MEMBERS, SPOILED, Writer, tar_with
from tests.weights.surroundings import check_message
from weights.errors import UserError

LORA = shard("lora_A")
URL = "https://files.test/lora"
LIMIT = 1 << 20


def settled(folder, data: bytes, limit_bytes: int = LIMIT) -> bytes:
    path = folder / "lora.partial"
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        settle(file, URL, limit_bytes)
    return path.read_bytes()


def refused(folder, data: bytes, match: str, limit_bytes: int = LIMIT) -> None:
    with pytest.raises(UserError, match=match) as error:
        settled(folder, data, limit_bytes)
    check_message(error.value, str(folder))
    assert URL in str(error.value)


def tar_of(files: dict[str, bytes]) -> bytes:
    tar = Writer()
    tar.add_files(files)
    return bytes(tar.data) + END_MARK


TRAINERS = {
    "./output/config.yaml": b"rank: 16\n" * 1000,
    "./output/lora.safetensors": LORA,
    "./output/._lora.safetensors": b"Mac OS X",
    "./output/log.txt": b"step 1\n",
}


def test_a_lora_stays_as_it_is(tmp_path):
    assert settled(tmp_path, LORA) == LORA


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_trainers_tarball_becomes_its_lora(tmp_path, pack):
    assert settled(tmp_path, pack(tar_of(TRAINERS))) == LORA


def test_a_tarball_of_gnu_tar_becomes_its_lora(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "lora.safetensors").write_bytes(LORA)
    (folder / "link").symlink_to("/etc/passwd")
    for options in ("-cf", "-czf"):
        made = subprocess.run(
            ["tar", "-C", folder, options, "-", "."], capture_output=True, check=True
        )
        assert settled(tmp_path, made.stdout) == LORA


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 3000), before=st.integers(0, 3000), chunk=st.integers(1, 700))
def test_moving_within_the_file_loses_nothing(tmp_path, size, before, chunk):
    """Where the chunks are larger than the way that they go, and where they are smaller."""
    span = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    lora = safetensors_bytes({"a": span}, bytes(i * 7 % 256 for i in range(size)))
    tar = tar_of({"first": bytes(before), "a.safetensors": lora, "last": bytes(5)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_CHUNK_BYTES", chunk)
        assert settled(tmp_path, tar) == lora


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_hostile_member_is_refused_or_does_nothing(tmp_path, name, pack):
    work, outside = tmp_path / "w", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    tar = tar_with(name, {"a.txt": b"text", "lora.safetensors": LORA, "z.txt": b"z"}, outside)
    try:
        assert settled(work, pack(tar.data)) == LORA
    except UserError as error:
        check_message(error, str(tmp_path))
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_bytes() == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "w"]
    assert [path.name for path in work.iterdir()] == ["lora.partial"]


@pytest.mark.parametrize("name", ["../lora.safetensors", "/lora.safetensors", "a/../../x"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    refused(tmp_path, tar_of({name: LORA}), "is an archive, but it holds a file that")


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_tarball_gives_the_whole_lora_or_nothing(tmp_path, spoil):
    data = SPOILED[spoil](tar_of({"lora.safetensors": LORA, "z.txt": b"z"}))
    try:
        assert settled(tmp_path, data) == LORA
    except UserError as error:
        check_message(error, str(tmp_path))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a.safetensors": LORA, "b.safetensors": LORA}, "it holds 2 .safetensors files"),
        ({"lora.bin": LORA}, "it holds no .safetensors files"),
        ({}, "it holds no .safetensors files|is not a whole"),
    ],
)
def test_a_tarball_holds_exactly_one_lora(tmp_path, files, found):
    refused(tmp_path, tar_of(files) if files else gzip.compress(tar_of(files)), found)


def test_a_link_is_no_lora(tmp_path):
    tar = Writer()
    tar.add("lora.safetensors", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    refused(tmp_path, bytes(tar.data) + END_MARK, "holds no .safetensors")


def test_a_lora_in_a_tarball_is_checked_too(tmp_path):
    cut = tar_of({"lora.safetensors": LORA[:-1]})
    refused(tmp_path, cut, "is not a whole .safetensors file")
    refused(tmp_path, tar_of({"lora.safetensors": b"<html>"}), "is a web page")


def test_a_bomb_is_refused_at_the_limit(tmp_path):
    bomb = gzip.compress(tar_of({"zeros": bytes(4 * LIMIT), "lora.safetensors": LORA}))
    assert len(bomb) < LIMIT / 10
    refused(tmp_path, bomb, "more than 1.0 MB inside")


def test_a_tarball_of_nothing_but_names_ends(tmp_path):
    tar = tar_of({f"{number}": b"" for number in range(4000)} | {"lora.safetensors": LORA})
    refused(tmp_path, tar, "no tar, or a damaged one", limit_bytes=4 * LIMIT)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_chain_of_headers_ends(tmp_path, pack):
    tar = Writer()
    for _ in range(3000):
        tar.header(b"x", b"L", b"%011o" % 0)
    refused(tmp_path, pack(bytes(tar.data)), "no tar, or a damaged one", 4 * LIMIT)


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (json.dumps({"error": "no such model"}).encode(), "a JSON document"),
        (pickle.dumps({"lora": [1, 2]}), "a pickle, which can run code"),
        (zip_bytes(), "a zip, as PyTorch's"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS's pointer"),
        (gzip.compress(b"text"), "an archive, but it is no tar"),
        (gzip.compress(tar_of(TRAINERS))[:-20], "cut off or damaged"),
        (gzip.compress(tar_of(TRAINERS)) + b"junk", "cut off or damaged"),
        (b"\x1f\x8b\x08junk", "cut off or damaged"),
        (LORA[:-1], "is not a whole .safetensors file"),
        (LORA + b"x", "is not a whole .safetensors file"),
        (b"\x80" + LORA[1:], "is not a whole .safetensors file"),
        (b"what is this?", "is not a whole .safetensors file"),
    ],
)
def test_what_came_instead_is_said(tmp_path, data, name):
    refused(tmp_path, data, name)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x80\x02", b"\0" * 257]))
def test_any_bytes_are_a_lora_or_an_error(tmp_path, data, start):
    for content in (start + data, start + b"ustar" + data, gzip.compress(data)):
        with pytest.raises(UserError) as error:
            settled(tmp_path, content)
        check_message(error.value, str(tmp_path))
