"""A file of this machine becomes a data URI; what is one already, or a URL, stays as it is."""

import base64

import pytest

from cli import input_files
from cli.input_files import input_uri
from weights.errors import UserError


@pytest.mark.parametrize("prefix", ["", "@"])
def test_a_path_becomes_a_data_uri_with_its_type(tmp_path, prefix):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    encoded = base64.b64encode(b"\xff\xd8\xff").decode()
    assert input_uri("image", f"{prefix}{tmp_path / 'photo.jpg'}") == (
        f"data:image/jpeg;base64,{encoded}"
    )


@pytest.mark.parametrize(
    "text", ["https://e.com/a.png", "http://e.com/a", "data:image/png;base64,"]
)
def test_urls_stay_as_they_are(text):
    assert input_uri("image", text) == text


def test_what_can_not_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"^image: .*photo\.jpg can't be read"):
        input_uri("image", str(tmp_path / "photo.jpg"))
    with pytest.raises(UserError, match="can't be read"):
        input_uri("image", str(tmp_path))


def test_what_no_request_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(input_files, "_LIMIT", 2)
    (tmp_path / "photo.jpg").write_bytes(b"123")
    with pytest.raises(UserError, match="holds files of up to"):
        input_uri("image", str(tmp_path / "photo.jpg"))
