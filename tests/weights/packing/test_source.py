"""What packing begins with: the files as they are, and whether they stayed so."""

import os

import pytest

from weights.errors import OperationError, UserError
from weights.packing.source import (
    check_lock_fields,
    check_unchanged,
    default_name,
    read_blocks,
    read_source,
)


def test_holds_size_and_time_of_every_file_in_order(folder, files):
    os.utime(folder / "vae" / "config.json", ns=(1, 1_700_000_000_123_456_789))
    source = read_source(folder)
    assert list(source.files) == sorted(files)
    assert {path: file.size for path, file in source.files.items()} == {
        path: len(content) for path, content in files.items()
    }
    assert source.files["vae/config.json"].mtime_ns == 1_700_000_000_123_456_789
    assert (source.path, source.size) == (folder, sum(map(len, files.values())))


def test_reading_it_is_no_change(folder, files):
    source = read_source(folder)
    for path, content in files.items():
        assert b"".join(read_blocks(folder / path, len(content))) == content
    (folder / "empty").mkdir()
    check_unchanged(source)


def test_a_new_time_is_a_change_even_with_the_same_bytes(folder):
    source = read_source(folder)
    before = (folder / "vae" / "config.json").stat().st_mtime_ns
    os.utime(folder / "vae" / "config.json", ns=(0, before + 1))
    with pytest.raises(OperationError, match=r"vae/config\.json changed"):
        check_unchanged(source)


def test_blocks_are_small_and_stop_at_the_size(tmp_path):
    (tmp_path / "x").write_bytes(bytes(5 << 20))
    assert [len(block) for block in read_blocks(tmp_path / "x", (2 << 20) + 1)] == [
        1 << 20,
        1 << 20,
        1,
    ]
    assert list(read_blocks(tmp_path / "x", 0)) == []
    with pytest.raises(OperationError, match="x changed"):
        list(read_blocks(tmp_path / "x", (5 << 20) + 1))


@pytest.mark.parametrize("url", [None, "x.tar", "s3://bucket/x.tar", "https://example.com/x?key=1"])
@pytest.mark.parametrize("name", [None, "x", "my-1.5_b"])
def test_accepts_what_a_lock_can_hold(name, url):
    check_lock_fields(name, url)


@pytest.mark.parametrize(
    ("name", "url"), [("", None), ("a b", None), ("../x", None), (None, "/x"), (None, "ftp://x/y")]
)
def test_refuses_what_a_lock_can_not_hold(name, url):
    with pytest.raises(UserError):
        check_lock_fields(name, url)


@pytest.mark.parametrize(
    ("stem", "expected"), [("my model.1", "my-model-1"), ("漢", "weights"), ("x" * 300, "x" * 100)]
)
def test_the_default_name_is_the_variants_or_made_of_the_place(folder, stem, expected):
    assert default_name(read_source(folder), stem) == "nano"
    (folder / "conversion.json").unlink()
    assert default_name(read_source(folder), stem) == expected
