"""The structural check of a weights folder, and the list of its files."""

import json
import os
import socket

import pytest

from weights.errors import UserError
from weights.folder import WeightsFolder, check_weights_folder, list_files, variant_of
from weights.variants import VARIANTS


def test_a_whole_folder_passes(folder):
    checked = check_weights_folder(folder)
    assert (checked.path, checked.pipeline) == (folder, "CogVideoXPipeline")
    assert (checked.variant, checked.dtype) == ("nano", "float32")


def test_a_folder_of_plain_diffusers_passes(folder):
    (folder / "conversion.json").unlink()
    checked = check_weights_folder(folder)
    assert (checked.variant, checked.dtype) == (None, None)


@pytest.mark.parametrize(
    "path",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/model-2.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(folder, path):
    (folder / path).unlink()
    with pytest.raises(UserError) as error:
        check_weights_folder(folder)
    file, component = path.rpartition("/")[2], path.partition("/")[0]
    assert file in str(error.value) or f"{component} has no .safetensors" in error.value.given
    assert error.value.expected
    assert error.value.remedy


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("model_index.json", "hello", "not valid JSON"),
        ("model_index.json", "[]", "not an object"),
        ("model_index.json", '{"vae": ["diffusers", "X"]}', "_class_name"),
        ("model_index.json", '{"_class_name": "P"}', "no component"),
        ("model_index.json", '{"_class_name": "P", "../x": ["a", "b"]}', "component"),
        ("model_index.json", '{"_class_name": "P", "vae": ["a", 1]}', "vae"),
        ("transformer/config.json", "{", "not valid JSON"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", "{}", "weight_map"),
        (
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            '{"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}',
            "not there",
        ),
        ("transformer/model-1.safetensors", "text", "not a whole"),
        ("conversion.json", '{"variant": 1, "dtype": "float32"}', "variant"),
        ("conversion.json", '{"variant": "mine", "dtype": "float32"}', "no variant named"),
        ("conversion.json", '{"variant": "nano", "dtype": ["int8"]}', "dtype"),
    ],
)
def test_a_damaged_file_is_named(folder, path, text, message):
    (folder / path).write_text(text)
    with pytest.raises(UserError, match=message):
        check_weights_folder(folder)


def test_a_file_and_nothing_are_no_folders(folder, tmp_path):
    for path in (folder / "model_index.json", tmp_path / "gone"):
        with pytest.raises(UserError, match="is not a folder"):
            check_weights_folder(path)


def test_a_huge_json_is_not_read(folder):
    with (folder / "conversion.json").open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(UserError, match="5368709120 bytes"):
        check_weights_folder(folder)


def test_lists_files_sorted(folder, files):
    (folder / ".install.json").write_text("{}")
    assert list_files(folder) == sorted(files)


@pytest.mark.parametrize(
    "name",
    ["new\nline", "escape\x1b[31m", "back\\slash", " leading", "trailing ", "bidi\u202e", b"\xff"],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_refuses_odd_names(folder, name, kind):
    path = os.path.join(os.fsencode(folder), os.fsencode(name))  # noqa: PTH118
    if kind == "file":
        with open(path, "wb"):  # noqa: PTH123
            pass
    else:
        os.mkdir(path)  # noqa: PTH102
    with pytest.raises(UserError) as error:
        list_files(folder)
    assert str(error.value).isprintable()


def _symlink(path):
    path.symlink_to("model_index.json")


def _folder_symlink(path):
    path.symlink_to("vae")


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [_symlink, _folder_symlink, _fifo, _socket])
def test_refuses_what_is_no_file(folder, make, monkeypatch):
    monkeypatch.chdir(folder)
    make(folder / "odd")
    with pytest.raises(UserError, match=r"'odd' .* is a"):
        list_files(folder)


def test_accepts_long_and_foreign_names(folder):
    names = ["n" * 255, "d/" * 80 + "deep", "обезьяна 猿.json", ".hidden"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(name))
    assert set(names) <= set(list_files(folder))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_is_told_from_the_others(variant, tmp_path):
    (tmp_path / "transformer").mkdir()
    config = {
        "num_layers": variant.num_layers,
        "num_attention_heads": variant.num_heads,
        "in_channels": variant.in_channels,
        "text_embed_dim": variant.text_embed_dim,
        "patch_size_t": variant.patch_size_t,
        "ofs_embed_dim": variant.ofs_embed_dim,
        "other": 1,
    }
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    assert variant_of(WeightsFolder(tmp_path, "CogVideoXPipeline", None, None)) == variant
