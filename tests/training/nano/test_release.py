"""From nothing to what ships: every stage runs, tiny, and what it leaves is whole and honest."""

import dataclasses
import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conversion.convert import convert
from conversion.inspection import inspect
from conversion.plan import plan_conversion
from tests.training.nano.tiny_runs import DENOISER, VAE, weights_in, write_settings
from training.nano import __main__ as command
from training.nano import image_to_video_recipe, release, text_to_video_recipe, vae_recipe
from training.nano.model_card import curve_table
from training.nano.release import check_equal, release_one
from weights.errors import UserError
from weights.lock import read_lock

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {"nano", "nano-i2v"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The command's folder after a run of tiny settings, and what it said."""
    root = tmp_path_factory.mktemp("nano")
    denoiser = dataclasses.replace(DENOISER, steps=20, save_every=20)
    with pytest.MonkeyPatch.context() as patch:
        for recipe, settings in (
            (vae_recipe, VAE),
            (text_to_video_recipe, denoiser),
            (image_to_video_recipe, denoiser),
        ):
            path = root / f"{recipe.__name__}.yaml"
            write_settings(settings, path)
            patch.setattr(recipe, "SETTINGS", path)
        patch.setattr(release, "PROMPTS", 1)
        patch.setattr(release, "GUIDANCES", [1.0])
        patch.setattr(release, "STEPS", 1)
        patch.setattr("training.nano.evaluate._HELD_OUT_EACH", 1)
        assert command.main([str(root / "run")]) == 0
        finished = weights_in(root / "run")
        assert command.main([str(root / "run")]) == 0
        assert weights_in(root / "run") == finished
        assert command.main([str(root / "run"), "--seed", "2"]) == 2
    return root / "run"


def test_both_models_are_written_with_card_sheet_curve_and_lock(tiny):
    assert {path.name for path in (tiny / "release").iterdir()} == NAMES
    for name in NAMES:
        folder = tiny / "release" / name
        assert inspect(folder).detection.variant.name == name
        with Image.open(folder / "contact_sheet.png") as sheet:
            assert sheet.width > 1000
        card = (folder / "README.md").read_text()
        assert f"# {name}\n" in card
        assert '"steps": 20' in card
        assert "| guidance |" in card
        assert re.search(r"stages took in this run: vae [\d.]+, text-to-video [\d.]+, image", card)
        assert json.loads((folder / "training.jsonl").read_text())["step"] == 20
        assert read_lock(folder / "lock.json").variant == name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_ships_is_what_was_trained_in_float16(name, tiny, tmp_path):
    convert(plan_conversion(tiny / "release" / name), tmp_path / name)
    trained = tiny / release.STAGES[name] / "pipeline"
    check_equal(trained, tmp_path / name)
    path = tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    tensors["proj_out.bias"][0] += 1
    save_file(tensors, path)
    with pytest.raises(RuntimeError, match=r"the transformer of .* is not what was trained"):
        check_equal(trained, tmp_path / name)


def test_what_is_there_is_left_alone(tiny):
    with pytest.raises(UserError, match="is there already"):
        release_one(tiny, "nano", tiny / "release" / "nano")


def test_the_minutes_of_every_stage_are_kept(tiny):
    minutes = json.loads((tiny / "minutes.json").read_text())
    assert list(minutes) == ["vae", "text-to-video", "image-to-video", "release"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main([str(tmp_path / "file")]) == 2
    assert "file is a file." in capsys.readouterr().err


def test_the_curve_has_a_dozen_means():
    log = [{"step": 20 * n, "loss": float(n)} for n in range(1, 49)]
    lines = curve_table(log).splitlines()
    assert len(lines) == 2 + 12
    assert lines[0] == "| step | loss |"
    assert lines[2] == "| 80 | 2.5000 |"
    assert lines[-1] == "| 960 | 46.5000 |"
