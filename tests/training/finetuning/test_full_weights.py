"""A full fine-tune is a weights folder like any other; all but the transformer is the base's."""

import errno
import json
import os
import shutil

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from conversion.convert import convert
from conversion.file_digest import file_digest
from conversion.plan import ConversionOptions, plan_conversion
from predictors.weights_source import ReadyWeights, resolve_weights
from tests.training.finetuning.tiny_variants import GOLDEN
from training.finetuning.full_weights import save_full_weights
from weights.errors import OperationError, UserError
from weights.folder import check_weights_folder
from weights.packing.tarball import pack
from weights.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SETTINGS = {"full": True, "steps": 3, "targets": ["to_q"]}
PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")


def ready(folder, name="nano", dtype="float32"):
    return ReadyWeights(folder=folder, variant=VARIANTS[name], dtype=dtype)


@pytest.fixture
def base(tiny_folder, tmp_path):
    """A copy of nano's folder, to be changed."""
    shutil.copytree(tiny_folder, tmp_path / "base")
    return tmp_path / "base"


def trained_parameters(folder, seed=1):
    """The transformer's parameters after a training that changed all of them, in float32."""
    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
    generator = torch.Generator().manual_seed(seed)
    return {
        name: parameter.detach().float() + 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
    }


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_it_is_served_loaded_and_packed(task, tiny_folder, tiny_i2v_folder, tmp_path):
    folder, name, pipeline = {
        "t2v": (tiny_folder, "nano", CogVideoXPipeline),
        "i2v": (tiny_i2v_folder, "nano-i2v", CogVideoXImageToVideoPipeline),
    }[task]
    trained = trained_parameters(folder)
    before = files(folder)
    save_full_weights(trained, ready(folder, name), tmp_path / "tuned", settings=SETTINGS)
    assert files(folder) == before
    after = files(tmp_path / "tuned")
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {WEIGHTS, "conversion.json"}
    checked = check_weights_folder(tmp_path / "tuned")
    assert (checked.variant, checked.dtype) == (name, "float32")
    served = resolve_weights(str(tmp_path / "tuned"), task)
    assert (served.variant.name, served.dtype) == (name, "float32")
    pipe = pipeline.from_pretrained(tmp_path / "tuned", dtype=torch.float32)
    loaded = dict(pipe.transformer.named_parameters())
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[n], trained[n]) for n in trained)
    lock = pack(tmp_path / "tuned", tmp_path / "tuned.tar")
    assert {file.path for file in lock.files} == after.keys()
    assert lock.variant == name


def test_the_transformer_has_the_bases_dtypes_tensor_by_tensor(base, tmp_path):
    tensors = {name: tensor.half() for name, tensor in load_file(base / WEIGHTS).items()}
    tensors["norm_out.norm.weight"] = tensors["norm_out.norm.weight"].float()
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    trained = trained_parameters(base)
    save_full_weights(trained, ready(base, dtype="float16"), tmp_path / "new", settings={})
    saved = load_file(tmp_path / "new" / WEIGHTS)
    assert {name: t.dtype for name, t in saved.items()} == {n: t.dtype for n, t in tensors.items()}
    assert all(torch.equal(saved[n], trained[n].to(t.dtype)) for n, t in tensors.items())
    assert json.loads((tmp_path / "new" / "conversion.json").read_text())["dtype"] == "float16"


def test_what_is_no_parameter_comes_from_the_base(tmp_path):
    """The learned position table is a buffer in diffusers."""
    options = ConversionOptions(
        config=GOLDEN / "5b_i2v" / "model.yaml", vae=GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt"
    )
    convert(plan_conversion(GOLDEN / "5b_i2v" / "sat", options), tmp_path / "base")
    trained = trained_parameters(tmp_path / "base")
    table = "patch_embed.pos_embedding"
    assert table not in trained
    weights = ready(tmp_path / "base", "cogvideox-5b-i2v")
    save_full_weights(trained, weights, tmp_path / "new", settings={})
    before, after = (load_file(tmp_path / folder / WEIGHTS) for folder in ("base", "new"))
    assert after.keys() == before.keys() == trained.keys() | {table}
    assert torch.equal(after[table], before[table])
    assert all(torch.equal(after[name], trained[name]) for name in trained)


def test_large_ones_are_split_as_save_pretrained_does(base, tmp_path):
    trained = trained_parameters(base)
    limit = 2_000_000
    save_full_weights(trained, ready(base), tmp_path / "a", settings={}, max_shard_bytes=limit)
    model = CogVideoXTransformer3DModel.from_pretrained(base / "transformer")
    model.save_pretrained(tmp_path / "b", max_shard_size=limit)
    assert left_behind(tmp_path / "a" / "transformer") == left_behind(tmp_path / "b")
    assert len(left_behind(tmp_path / "b")) > 4
    assert all(p.stat().st_size < limit + 20_000 for p in (tmp_path / "a/transformer").iterdir())
    check_weights_folder(tmp_path / "a")
    loaded = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "a" / "transformer")
    assert all(torch.equal(p, trained[name]) for name, p in loaded.named_parameters())


def test_a_split_base_becomes_one_file_where_that_is_enough(base, tmp_path):
    model = CogVideoXTransformer3DModel.from_pretrained(base / "transformer")
    shutil.rmtree(base / "transformer")
    model.save_pretrained(base / "transformer", max_shard_size=2_000_000)
    trained = trained_parameters(base)
    save_full_weights(trained, ready(base), tmp_path / "new", settings={})
    assert left_behind(tmp_path / "new" / "transformer") == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert resolve_weights(str(tmp_path / "new"), "t2v").variant.name == "nano"


def test_the_record_is_the_bases_with_the_training(base, tmp_path):
    record = {
        "tool": "cog-cogvideox",
        "version": "0.0.1",
        "variant": "nano",
        "dtype": "float32",
        "settings": {"alpha": None},
        "sources": [{"path": "a.pt", "size": 1, "digest": "sha256:0"}],
        "files": [{"path": WEIGHTS, "size": 1, "digest": "sha256:0"}],
        "left_out": ["x"],
    }
    (base / "conversion.json").write_text(json.dumps(record))
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings=SETTINGS)
    ours = json.loads((tmp_path / "new" / "conversion.json").read_text())
    kept = ("tool", "version", "variant", "dtype", "settings", "sources", "left_out")
    assert {name: ours[name] for name in kept} == {name: record[name] for name in kept}
    assert ours["finetuned"]["settings"] == SETTINGS
    assert ours["finetuned"]["tool"] == "cog-cogvideox"
    paths = [file["path"] for file in ours["files"]]
    assert paths == sorted(files(tmp_path / "new").keys() - {"conversion.json"})
    for file in ours["files"]:
        path = tmp_path / "new" / file["path"]
        assert (path.stat().st_size, file_digest(path)) == (file["size"], file["digest"])


def test_a_base_that_plain_diffusers_saved_gets_a_record(base, tmp_path):
    (base / "conversion.json").unlink()
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings={})
    checked = check_weights_folder(tmp_path / "new")
    assert (checked.variant, checked.dtype) == ("nano", "float32")


def test_links_become_files_and_only_what_makes_the_model_is_taken(base, tmp_path):
    """A download of Hugging Face's is links to blobs; an install has its marker."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for n, path in enumerate(sorted(p for p in base.rglob("*") if p.is_file())):
        path.rename(blobs / str(n))
        path.symlink_to(blobs / str(n))
    for name in (
        "README.md",
        ".gitattributes",
        ".install.json",
        "vae/.hidden",
        "LICENSE",
        "Notice",
    ):
        (base / name).write_text(name)
    (base / "samples").mkdir()
    (base / "samples" / "a.mp4").write_text("x")
    expected = files(base).keys() - {"README.md", ".gitattributes", ".install.json"}
    expected -= {"vae/.hidden", "samples/a.mp4"}
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings={})
    assert files(tmp_path / "new").keys() == expected
    assert not any(path.is_symlink() for path in (tmp_path / "new").rglob("*"))
    assert len(pack(tmp_path / "new", tmp_path / "new.tar").files) == len(expected)


def test_the_new_folder_is_its_own(base, tmp_path):
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings={})
    before = files(tmp_path / "new")
    for path in base.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"overwritten")
    assert files(tmp_path / "new") == before


def test_where_the_kernel_does_not_copy_python_does(base, tmp_path, monkeypatch):
    """Also after the kernel has begun: whole files come out."""
    real, calls = os.copy_file_range, []

    def copy_a_little_then_fail(source, destination, count):
        calls.append(count)
        if len(calls) % 2 == 0:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(source, destination, 7)

    monkeypatch.setattr(os, "copy_file_range", copy_a_little_then_fail)
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings={})
    assert len(calls) > 10
    before, after = files(base), files(tmp_path / "new")
    assert {p: after[p] for p in after if p.startswith(PARTS)} == {
        p: before[p] for p in before if p.startswith(PARTS)
    }


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_a_taken_destination_is_refused(taken, base, tmp_path):
    new = tmp_path / "new"
    if taken == "file":
        new.write_text("mine")
    else:
        new.mkdir()
        (new / "mine").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(UserError, match="is there already"):
        save_full_weights(trained_parameters(base), ready(base), new, settings={})
    assert files(tmp_path) == before


def test_an_empty_folder_is_filled(base, tmp_path):
    (tmp_path / "new").mkdir()
    save_full_weights(trained_parameters(base), ready(base), tmp_path / "new", settings={})
    check_weights_folder(tmp_path / "new")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_the_base_cannot_hold_leave_nothing(value, base, tmp_path):
    """1e6 is a number in float32 and infinite in the base's float16."""
    tensors = {name: tensor.half() for name, tensor in load_file(base / WEIGHTS).items()}
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    trained = trained_parameters(base)
    trained["proj_out.weight"][-1, -1] = value
    with pytest.raises(OperationError, match=r"proj_out\.weight infinite or NaN"):
        save_full_weights(trained, ready(base), tmp_path / "new", settings={})
    assert left_behind(tmp_path) == ["base"]


def test_tensors_of_another_model_are_refused(base, tmp_path):
    trained = trained_parameters(base)
    for faulty, fault in (
        (trained | {"x": torch.zeros(1)}, "1 are not in the base or have another shape there: x"),
        (trained | {"proj_out.weight": torch.zeros(3, 3)}, "there: proj_out.weight"),
        ({}, "has 0 tensors"),
    ):
        with pytest.raises(UserError) as refused:
            save_full_weights(faulty, ready(base), tmp_path / "new", settings={})
        assert fault in refused.value.given
    assert left_behind(tmp_path) == ["base"]


def test_a_full_disk_is_told_before_anything_is_written(base, tmp_path, monkeypatch):
    total = sum(map(len, files(base).values()))
    usage = shutil.disk_usage(tmp_path)
    trained = trained_parameters(base)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=total - 100_000))
    with pytest.raises(OperationError, match=r"free\. .* are needed"):
        save_full_weights(trained, ready(base), tmp_path / "new", settings={})
    assert left_behind(tmp_path) == ["base"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=total + 100_000))
    save_full_weights(trained, ready(base), tmp_path / "new", settings={})
