"""The VAE's recipe: what it makes, how it goes on, and what it refuses."""

import dataclasses

import pytest
import torch
import yaml

from tests.training.nano.tiny_runs import (
    VAE,
    press_ctrl_c_after_save,
    refusal,
    untrained_vae,
    weights_in,
    write_settings,
)
from training.nano.models import NANO
from training.nano.vae_recipe import (
    SETTINGS,
    Stage,
    VaeSettings,
    batch_at,
    loss_of,
    main,
    train_vae,
)
from training.settings import read_settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    train_vae(folder, VAE)
    return folder


def test_plain_diffusers_loads_the_result(run):
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX.from_pretrained(run / "vae", local_files_only=True)
    assert tuple(vae.config.block_out_channels) == NANO.vae_channels
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert all(parameter.is_contiguous() for parameter in vae.parameters())


def test_what_is_saved_is_on_the_cpu(run):
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["step"] == 4
    assert {tensor.device.type for tensor in state["vae"].values()} == {"cpu"}


def test_interrupted_it_goes_on_bit_for_bit(run, tmp_path, monkeypatch, capsys):
    settings = write_settings(VAE, tmp_path / "vae.yaml")
    arguments = [str(tmp_path / "again"), "--settings", str(settings)]
    with monkeypatch.context() as patch:
        press_ctrl_c_after_save(patch, 3)
        assert main(arguments) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == (
        "vae_recipe: interrupted. The same command goes on from step 3."
    )
    assert "Traceback" not in said
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'again' / 'vae'}\n"
    assert weights_in(tmp_path / "again" / "vae") == weights_in(run / "vae")


def test_another_seed_gives_other_weights(run, tmp_path):
    train_vae(tmp_path / "other", dataclasses.replace(VAE, seed=2))
    assert weights_in(tmp_path / "other" / "vae") != weights_in(run / "vae")


def test_stages_follow_each_other():
    settings = dataclasses.replace(VAE, stages=(Stage(16, 1, 2, 2), Stage(32, 9, 1, 1)))
    shapes = [batch_at(settings, step)[0].shape for step in (0, 1, 2, 9)]
    assert shapes == [(2, 3, 1, 16, 16)] * 2 + [(1, 3, 9, 32, 32)] * 2


def test_a_batch_shows_shapes_and_weighs_them(run):
    clips, weights = batch_at(dataclasses.replace(VAE, stages=(Stage(32, 9, 8, 1),)), 0)
    assert clips.dtype == weights.dtype == torch.float32
    assert clips.min() >= -1
    assert clips.max() <= 1
    assert weights.shape == (8, 1, 9, 32, 32)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    low, high = weights.unique().tolist()
    assert high / low == pytest.approx(1 + VAE.shape_weight)
    # Where it weighs little there is nothing but the background, of one colour a clip.
    for clip, weight in zip(clips, weights, strict=True):
        ground = clip[:, weight[0] == low]
        assert (ground == ground[:, :1]).all()
        assert (weight == high).any()


def test_the_loss_falls_on_one_batch():
    vae = untrained_vae()
    clips, weights = batch_at(VAE, 0)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.003)
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        loss, values = loss_of(vae, clips, weights, VAE, 0.0)
        assert values["loss"] == loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_shipped_settings_are_sound():
    assert read_settings(SETTINGS, VaeSettings).stages[-1].pixels == NANO.width


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": -1}, "The setting seed is -1."),
        ({"learning_rate": 0.0}, "The setting learning_rate is 0.0. A number above 0"),
        ({"kl_weight": float("nan")}, "The setting kl_weight is nan."),
        ({"moments_weight": float("inf")}, "The setting moments_weight is inf. A finite number"),
        ({"save_every": 0}, "The setting save_every is 0."),
        ({"stages": []}, "The setting stages is empty."),
        ({"save_every": "often"}, "has save_every: 'often'"),
        ({"clip_norm": None}, "does not have the setting clip_norm"),
        ({"colour": "red"}, "has the unknown setting colour"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, capsys, changed, said):
    settings = write_settings(VAE, tmp_path / "vae.yaml", **changed)
    message = refusal(main, [tmp_path / "run", "--settings", settings], capsys)
    assert message.startswith("vae_recipe: ")
    assert said in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "stages[1].steps is 0."),
        ({"batch": -4}, "stages[1].batch is -4."),
        ({"pixels": 20}, "stages[1].pixels is 20. A multiple of 8"),
        ({"pixels": 128}, "stages[1].pixels is 128. A number from 8 to 64"),
        ({"frames": 17}, "stages[1].frames is 17. A number from 1 to 9"),
        # The decoder would make eight frames of its two latents.
        ({"frames": 5}, "stages[1].frames is 5. A multiple of 8 and one more"),
    ],
)
def test_stages_that_make_no_sense_are_refused(tmp_path, capsys, changed, said):
    stages = [dataclasses.asdict(stage) for stage in VAE.stages]
    stages[1] |= changed
    settings = write_settings(VAE, tmp_path / "vae.yaml", stages=stages)
    assert said in refusal(main, [tmp_path / "run", "--settings", settings], capsys)


@pytest.mark.parametrize("text", ["", "seed: [", "- 1", "\0"])
def test_files_that_hold_no_settings_are_refused(tmp_path, capsys, text):
    (tmp_path / "vae.yaml").write_text(text)
    arguments = [tmp_path / "run", "--settings", tmp_path / "vae.yaml"]
    assert "vae.yaml" in refusal(main, arguments, capsys)


def test_a_missing_settings_file_is_refused(tmp_path, capsys):
    arguments = [tmp_path / "run", "--settings", tmp_path / "none.yaml"]
    assert "none.yaml can't be read" in refusal(main, arguments, capsys)


def test_another_run_is_refused_and_left_alone(run, tmp_path, capsys):
    before = weights_in(run)
    settings = write_settings(VAE, tmp_path / "vae.yaml", seed=7)
    message = refusal(main, [run, "--settings", settings], capsys)
    assert f"{run} holds a run with other settings." in message
    assert weights_in(run) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "run").write_text("text")
    assert "is a file" in refusal(main, [tmp_path / "run"], capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path, capsys):
    message = refusal(main, [tmp_path / "run", "--device", "cuda"], capsys)
    assert "--device cuda: torch finds no CUDA device here." in message
    assert not (tmp_path / "run").exists()


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "python -m training.nano.vae_recipe runs/vae\n" in said
    assert "130 interrupted" in said


def test_settings_come_back_from_their_file(tmp_path):
    path = write_settings(VAE, tmp_path / "vae.yaml")
    assert yaml.safe_load(path.read_text())["seed"] == 1
    assert read_settings(path, VaeSettings) == VAE
