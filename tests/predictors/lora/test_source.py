"""The input `lora`: each form means what it says, and all else is told the forms."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predictors.lora.source import (
    CivitaiModel,
    HubRepo,
    LocalFile,
    LoraPlaces,
    WebFile,
    lora_places_from_environment,
    parse_source,
)
from tests.weights.surroundings import check_message
from weights.errors import UserError

NOWHERE = LoraPlaces()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = "https://huggingface.co"

FORMS = {
    "https://files.test/a.safetensors": WebFile("https://files.test/a.safetensors"),
    "  https://files.test/a.tar ": WebFile("https://files.test/a.tar"),
    "HTTPS://Files.TEST:443/A?sig=x%2F#top": WebFile("https://files.test/A?sig=x%2F"),
    "http://files.test:80": WebFile("http://files.test/"),
    "https://files.test:8443/a b": WebFile("https://files.test:8443/a b"),
    "https://[::1]:443/a": WebFile("https://[::1]/a"),
    "owner/repo": HubRepo("owner/repo"),
    "owner/repo/": HubRepo("owner/repo"),
    "o-1/re.po_2/a/b c.safetensors": HubRepo("o-1/re.po_2", file="a/b c.safetensors"),
    f"{HUB}/owner/repo": HubRepo("owner/repo"),
    f"{HUB}/owner/repo/": HubRepo("owner/repo"),
    f"{HUB}/owner/repo?library=diffusers": HubRepo("owner/repo"),
    "https://hf.co/owner/repo": HubRepo("owner/repo"),
    f"{HUB}/owner/repo/tree/main": HubRepo("owner/repo"),
    f"{HUB}/owner/repo/tree/refs%2Fpr%2F1": HubRepo("owner/repo", "refs/pr/1"),
    f"{HUB}/owner/repo/blob/main/a.safetensors": HubRepo("owner/repo", file="a.safetensors"),
    f"{HUB}/owner/repo/resolve/{COMMIT}/d/a%20b.safetensors?download=true": HubRepo(
        "owner/repo", COMMIT, "d/a b.safetensors"
    ),
    f"{HUB}/datasets/owner/repo/resolve/main/a.safetensors": WebFile(
        f"{HUB}/datasets/owner/repo/resolve/main/a.safetensors"
    ),
    "https://civitai.com/models/123": CivitaiModel(123),
    "https://civitai.com/models/123/a-name": CivitaiModel(123),
    "https://www.civitai.com/models/123/a-name?modelVersionId=456": WebFile(
        "https://civitai.com/api/download/models/456"
    ),
    "https://civitai.com/models/123?modelVersionId=x": CivitaiModel(123),
    "https://civitai.com/api/download/models/456?token=t": WebFile(
        "https://civitai.com/api/download/models/456?token=t"
    ),
    "https://civitai.com.evil.test/models/123": WebFile("https://civitai.com.evil.test/models/123"),
}


@pytest.mark.parametrize("text", FORMS)
def test_each_form_is_understood(text):
    assert parse_source(text, NOWHERE) == FORMS[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "repo",
        "a.safetensors",
        "ftp://files.test/a.safetensors",
        "file:///etc/passwd",
        "s3://bucket/a.safetensors",
        "s3://[bucket/a.safetensors?x=SECRET",
        "https://",
        "https:///a",
        "https://[::1/a",
        "https://files.test:99999/a",
        "https://files.test/a\nHost: x",
        "https:/files.test/a",
        "data:application/octet-stream;base64,AAAA",
        "../etc/passwd",
        "./a/b",
        "~/a.safetensors",
        "a/../b",
        "-a/b",
        "a--b/c",
        "a b/c",
        "owner/repo/../x.safetensors",
        "owner/repo//x.safetensors",
        "owner/repo/d\\x.safetensors",
        "ownér/repo",
        "a" * 97 + "/b",
        "a/b" * 2000,
        "owner/repo\x00",
    ],
)
def test_what_is_none_of_the_forms_is_told_them(text):
    with pytest.raises(UserError, match="owner/repo/file\\.safetensors on Hugging Face") as error:
        parse_source(text, NOWHERE)
    check_message(error.value, "SECRET")


@pytest.mark.parametrize("file", ["lora.bin", "lora.pt", "model.ckpt", "lora", "tree/main"])
def test_other_formats_are_refused_before_they_are_fetched(file):
    for text in (f"owner/repo/{file}", f"{HUB}/owner/repo/blob/main/{file}"):
        with pytest.raises(UserError, match="can run code when they are read") as error:
            parse_source(text, NOWHERE)
        check_message(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:SECRET@files.test/a",
        "https://SECRET@files.test/a",
        "https://@files.test/a",
        "https://files.test\\@127.0.0.1/SECRET",
        f"https://huggingface.co@127.0.0.1/{'SECRET'}",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_shown(url):
    with pytest.raises(UserError, match="user's name or a password") as error:
        parse_source(url, NOWHERE)
    check_message(error.value, "SECRET")


@given(st.text() | st.text(st.sampled_from("/:@?#[].%a1-_ \\"), max_size=20))
@example("0? #")
def test_any_text_is_a_source_or_an_error(text):
    for start in ("", "https://", "https://huggingface.co/", "a/b/", "/"):
        try:
            source = parse_source(start + text, NOWHERE)
        except UserError as error:
            check_message(error)  # most texts are no error
        else:
            assert not isinstance(source, LocalFile)
            # What a form means is written in that form, or as a URL that means itself.
            if isinstance(source, WebFile):
                assert parse_source(source.url, NOWHERE) == source


@pytest.fixture
def folders(tmp_path):
    """An allowed folder with a file, a neighbour with one, and links between them."""
    allowed, private = tmp_path / "loras", tmp_path / "loras-private"
    for folder in (allowed, private):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.safetensors").write_bytes(b"")
        (folder / "a.txt").write_bytes(b"")
    (allowed / "out.safetensors").symlink_to(private / "sub" / "a.safetensors")
    (allowed / "out").symlink_to(private)
    (private / "in.safetensors").symlink_to(allowed / "sub" / "a.safetensors")
    (allowed / "circle.safetensors").symlink_to(allowed / "circle.safetensors")
    return allowed, private


def test_a_path_in_an_allowed_folder_is_used(folders):
    allowed, private = folders
    places = LoraPlaces((Path("/nowhere"), allowed))
    real = LocalFile(allowed / "sub" / "a.safetensors")
    assert parse_source(f"{allowed}/sub/a.safetensors", places) == real
    assert parse_source(f"{allowed}/sub/../sub/./a.safetensors", places) == real
    assert parse_source(f"{private}/in.safetensors", places) == real


@pytest.mark.parametrize("text", ["a.safetensors", "a.txt", "sub", ""])
def test_a_path_that_is_allowed_but_no_lora_is_told(folders, text):
    allowed, _ = folders
    with pytest.raises(UserError, match="There is no LoRA file") as error:
        parse_source(f"{allowed}/{text}", LoraPlaces((allowed,)))
    check_message(error.value)


def test_outside_nobody_learns_what_is_there(folders):
    allowed, private = folders
    there = [
        f"{private}/sub/a.safetensors",
        f"{allowed}/../loras-private/sub/a.safetensors",
        f"{allowed}/out.safetensors",
        f"{allowed}/out/sub/a.safetensors",
        "/etc/passwd",
        "/",
    ]
    not_there = [
        f"{private}/b.safetensors",
        f"{allowed}/../b.safetensors",
        f"{allowed}/out/b.safetensors",
        f"{allowed}/circle.safetensors",
        "/etc/passwd/x",
        f"/{'a' * 300}",
        "/a" * 2000,
    ]
    for places in (LoraPlaces((allowed,)), NOWHERE):
        said = set()
        for text in there + not_there:
            with pytest.raises(UserError, match="not in a folder for LoRAs") as error:
                parse_source(text, places)
            check_message(error.value)
            said.add((error.value.expected, error.value.remedy))
        assert len(said) == 1


def test_the_operators_places(tmp_path):
    assert lora_places_from_environment({}) == LoraPlaces()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    environment = {
        "COGVIDEOX_LORA_PATHS": f"{tmp_path}{os.pathsep}{tmp_path}/b{os.pathsep}",
        "HF_ENDPOINT": "https://mirror.test/hf/",
    }
    assert lora_places_from_environment(environment) == LoraPlaces(
        (tmp_path, tmp_path / "a"), "https://mirror.test/hf"
    )


@pytest.mark.parametrize("text", ["relative", "/does/not/exist", "/etc/passwd"])
def test_a_place_that_is_no_folder_is_told(text):
    with pytest.raises(UserError, match=f"COGVIDEOX_LORA_PATHS names '{text}'") as error:
        lora_places_from_environment({"COGVIDEOX_LORA_PATHS": text})
    check_message(error.value, "SECRET")


@pytest.mark.parametrize(
    "url",
    [
        "mirror.test",
        "ftp://mirror.test",
        "https://",
        "https://a:b",
        "https://me:SECRET@mirror.test",
    ],
)
def test_a_mirror_that_is_no_url_is_told(url):
    with pytest.raises(UserError, match="HF_ENDPOINT is") as error:
        lora_places_from_environment({"HF_ENDPOINT": url})
    check_message(error.value, "SECRET")
