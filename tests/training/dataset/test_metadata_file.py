"""metadata.jsonl line by line: what is right is listed, what is wrong names its number."""

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.dataset.small_datasets import write_metadata
from training.dataset import metadata_file
from training.dataset.metadata_file import list_metadata, parse_line
from weights.errors import UserError

LISTED = {"images": False, "first_frames": False}


def with_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("caption", ["text", "prompt"])
def test_a_line_has_a_file_and_a_caption(caption):
    line = parse_line(json.dumps({"file_name": "./a/1.mp4", caption: " hi ", "id": 7}).encode())
    assert line.file_name == PurePosixPath("a/1.mp4")
    assert (line.prompt, line.image) == ("hi", None)


def test_an_image_may_be_named_or_be_null():
    fields = {"file_name": "1.mp4", "text": "hi", "prompt": "hi"}
    assert parse_line(json.dumps(fields | {"image": "1.png"}).encode()).image == PurePosixPath(
        "1.png"
    )
    assert parse_line(json.dumps(fields | {"image": None}).encode()).image is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b"[]", "not a JSON object: it is not an object"),
        (b'{"text": "a", "text": "b"}', "a field is there twice"),
        (b"[" * 100_000, "not a JSON object: it is nested too deeply"),
        (b'{"file_name": "1.mp4", "text": "\xff"}', "not UTF-8"),
        (b'{"text": "hi"}', "has no file_name"),
        (b'{"file_name": 7, "text": "hi"}', "file_name is not a text"),
        (b'{"file_name": "1.mp4"}', "neither text nor prompt"),
        (b'{"file_name": "1.mp4", "text": null}', "neither text nor prompt"),
        (b'{"file_name": "1.mp4", "text": ["hi"]}', "text is not a text"),
        (b'{"file_name": "1.mp4", "text": "a", "prompt": "b"}', "has two captions"),
        (b'{"file_name": "1.mp4", "text": "\\ud800"}', "half a character"),
        (b'{"file_name": "", "text": "hi"}', "'' is not a path"),
        (b'{"file_name": ".", "text": "hi"}', "'.' is not a path"),
        (b'{"file_name": "a\\u0000", "text": "hi"}', "is not a path"),
        (b'{"file_name": "/etc/passwd", "text": "hi"}', "'/etc/passwd' leaves the folder"),
        (b'{"file_name": "a/../../1.mp4", "text": "hi"}', "leaves the folder"),
        (b'{"file_name": "a/../1.mp4", "text": "hi"}', "leaves the folder"),
        (b'{"file_name": "..\\\\1.mp4", "text": "hi"}', "has a backslash"),
        (b'{"file_name": ".git/1.mp4", "text": "hi"}', "is a hidden file"),
        (b'{"file_name": "1.mp4", "text": "hi", "image": "/1.png"}', "image '/1.png' leaves"),
    ],
)
def test_a_line_that_is_wrong_says_why(line, message):
    with pytest.raises(ValueError, match=message):
        parse_line(line)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_folder(name):
    line = json.dumps({"file_name": name, "text": "hi"}).encode()
    try:
        path = parse_line(line).file_name
    except ValueError:
        return
    assert PurePosixPath("/data") in (PurePosixPath("/data") / path).parents
    assert ".." not in path.parts


def test_clips_come_in_the_order_of_the_lines(tmp_path):
    with_files(tmp_path, "2.mp4", "a/1.mp4", "still.png", "other.png", "notes.txt")
    write_metadata(
        tmp_path,
        {"file_name": "a/1.mp4", "text": "one", "image": "still.png"},
        b"  ",
        {"file_name": "2.mp4", "prompt": "two"},
    )
    listing = list_metadata(tmp_path, images=False, first_frames=True)
    assert [(clip.path, clip.prompt, clip.image) for clip in listing.clips] == [
        (tmp_path / "a" / "1.mp4", "one", tmp_path / "still.png"),
        (tmp_path / "2.mp4", "two", None),
    ]
    assert listing.left_out == ()
    without = list_metadata(tmp_path, **LISTED)
    assert [clip.image for clip in without.clips] == [None, None]


def test_lines_that_are_wrong_are_left_out_by_number(tmp_path):
    with_files(tmp_path, "1.mp4", "2.mp4")
    path = write_metadata(
        tmp_path,
        b"\xef\xbb\xbf" + json.dumps({"file_name": "1.mp4", "text": "one"}).encode(),
        b"",
        b"{'file_name': '2.mp4'}",
        {"file_name": "2.mp4", "text": "two"},
        {"file_name": "./2.mp4", "text": "too"},
        {"file_name": "3.mp4", "text": "three"},
        {"file_name": "4" * 300 + ".mp4", "text": "four"},
    )
    listing = list_metadata(tmp_path, **LISTED)
    assert [clip.prompt for clip in listing.clips] == ["one", "two"]
    malformed, twice, missing, endless = listing.left_out
    assert malformed.path == path
    assert malformed.found.startswith("Line 3 can't be used: it is not a JSON object: ")
    assert '{"file_name": "1.mp4", "text": "a caption"}' in malformed.remedy
    assert twice.path == tmp_path / "2.mp4"
    assert twice.found == "Line 5 of metadata.jsonl names it, as line 4 did before."
    assert missing.path == tmp_path / "3.mp4"
    assert missing.found == "Line 6 of metadata.jsonl names it, and there is no such file."
    assert "Line 7" in endless.found


def test_what_no_line_names_is_left_out(tmp_path):
    with_files(tmp_path, "1.mp4", "2.mp4", "1.png", ".3.mp4")
    write_metadata(tmp_path, {"file_name": "1.mp4", "text": "one"})
    left_out = list_metadata(tmp_path, **LISTED).left_out
    assert [(item.path.name, item.found) for item in left_out] == [
        ("2.mp4", "No line of metadata.jsonl names it.")
    ]
    left_out = list_metadata(tmp_path, images=True, first_frames=False).left_out
    assert [item.path.name for item in left_out] == ["1.png", "2.mp4"]


def test_files_may_be_links_as_in_the_hugging_face_cache(tmp_path):
    with_files(tmp_path, "blobs/abc")
    write_metadata(tmp_path / "data", {"file_name": "1.mp4", "text": "one"})
    (tmp_path / "data" / "1.mp4").symlink_to(tmp_path / "blobs" / "abc")
    assert len(list_metadata(tmp_path / "data", **LISTED).clips) == 1


def test_other_files_than_videos_are_left_out(tmp_path):
    with_files(tmp_path, "1.png", "1.heic")
    write_metadata(
        tmp_path, {"file_name": "1.png", "text": "one"}, {"file_name": "1.heic", "text": "two"}
    )
    image, other = list_metadata(tmp_path, **LISTED).left_out
    assert "--images" in image.remedy
    assert other.found.startswith(".heic is neither")


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata_file, "_MAX_BYTES", 50)
    write_metadata(tmp_path, {"file_name": "1.mp4", "text": "a long caption"}, b"{}" * 20)
    with pytest.raises(UserError, match=r"metadata\.jsonl has \d+ bytes\."):
        list_metadata(tmp_path, **LISTED)
