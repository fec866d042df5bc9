"""The image-to-video recipe: the image beside the noise, what a run makes, what it refuses."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from tests.conftest import save_tiny_pipeline
from tests.training.nano.tiny_runs import (
    DENOISER,
    press_ctrl_c_after_save,
    random_clips,
    refusal,
    untrained_pipeline,
    weights_in,
    write_settings,
)
from training.nano.clips import load_clips
from training.nano.denoiser_settings import DenoiserSettings
from training.nano.denoiser_steps import Denoiser, draw_batch, losses
from training.nano.image_to_video_recipe import SETTINGS, main, train_image_to_video, widened
from training.nano.models import NANO, NANO_I2V, new_transformer
from training.nano.prompts import COMBINATIONS, HELD_OUT
from training.nano.trained_models import load_text_to_video
from training.noise_schedule import alphas_cumprod
from training.settings import read_settings

pytestmark = pytest.mark.usefixtures("one_thread")
TABLE = torch.arange(73 * 13 * 16).reshape(73, 13, 16) % 100


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return untrained_pipeline(tmp_path_factory.mktemp("t2v") / "pipeline")


@pytest.fixture(scope="module")
def run(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("i2v") / "run"
    train_image_to_video(folder, source, DENOISER)
    return folder


@pytest.fixture(scope="module")
def batch():
    alphas = alphas_cumprod(1.0).float()
    return draw_batch(DENOISER, random_clips(20), TABLE, alphas, 2, image_to_video=True)


def test_the_condition_is_the_image_in_frame_0_and_zeros_after(batch):
    images = random_clips(20).images[:, 0].float()
    assert batch.condition.shape == batch.noisy.shape == (3, 3, 16, 8, 8)
    assert batch.condition.dtype == torch.float32
    for condition in batch.condition:
        assert (images == condition[0]).all((1, 2, 3)).sum() == 1
        assert not condition[1:].any()


def test_the_condition_is_of_the_clip_that_is_learned(batch):
    """random_clips has images of twice the clips' first frames."""
    alphas = alphas_cumprod(1.0).float()[batch.timesteps].reshape(-1, 1, 1, 1, 1)
    clean = alphas.sqrt() * batch.noisy - (1 - alphas).sqrt() * batch.target
    assert torch.allclose(batch.condition[:, 0], 2 * clean[:, 0], atol=1e-3)


def test_everything_else_is_drawn_as_for_text_to_video(batch):
    alphas = alphas_cumprod(1.0).float()
    without = draw_batch(DENOISER, random_clips(20), TABLE, alphas, 2, image_to_video=False)
    for name in ("noisy", "target", "weights", "timesteps", "tokens", "prompted"):
        assert torch.equal(getattr(batch, name), getattr(without, name))


def test_the_widened_transformer_gives_the_same_whatever_the_image():
    torch.manual_seed(3)
    narrow = new_transformer().eval()
    wide = widened(narrow).eval()
    assert wide.config.in_channels == NANO_I2V.in_channels == 32
    latents, image = torch.randn(2, 2, 3, 16, 8, 8).unbind(0)
    text = torch.randn(2, 16, 64)
    timesteps = torch.tensor([0, 900])
    with torch.no_grad():
        expected = narrow(latents, text, timesteps, return_dict=False)[0]
        found = wide(torch.cat([latents, image], 2), text, timesteps, return_dict=False)[0]
    assert expected.abs().max() > 0.1
    assert torch.equal(found, expected)


def test_the_widened_transformer_learns_to_see_the_image(source, batch):
    parts = load_text_to_video(source)
    denoiser = Denoiser(widened(parts.transformer), parts.text_encoder)
    plain, guided = losses(denoiser, batch, TABLE[72, :1], DENOISER, 2)
    (plain + guided).backward()
    gradient = denoiser.transformer.patch_embed.proj.weight.grad
    assert gradient[:, 16:].abs().max() > 0


def test_the_loss_falls_on_one_batch(source, batch):
    parts = load_text_to_video(source)
    denoiser = Denoiser(widened(parts.transformer), parts.text_encoder)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.002)
    both = []
    for _ in range(12):
        plain, guided = losses(denoiser, batch, TABLE[72, :1], DENOISER, 2)
        optimizer.zero_grad()
        (plain + guided).backward()
        optimizer.step()
        both.append((plain + guided).item())
    assert both[-1] < 0.8 * both[0]


def test_plain_diffusers_loads_the_result_and_samples(run):
    from diffusers import CogVideoXImageToVideoPipeline

    pipe = CogVideoXImageToVideoPipeline.from_pretrained(run / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        "a red circle moving left",
        width=64,
        height=64,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=16,
        output_type="np",
        generator=torch.Generator().manual_seed(1),
    ).frames
    assert frames.shape == (1, 9, 64, 64, 3)
    assert math.isfinite(frames.sum())


def test_all_but_the_vae_is_trained(run, source):
    before, after = weights_in(source), weights_in(run / "pipeline")
    assert before.keys() == after.keys()
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert {name for name in after if after[name] == before[name]} == {vae}


def test_the_run_draws_no_held_out_combination(run):
    words = load_clips(run / "clips.safetensors").words
    assert not {COMBINATIONS[word] for word in words} & HELD_OUT


def test_interrupted_it_goes_on_bit_for_bit(run, source, tmp_path, monkeypatch, capsys):
    settings = write_settings(DENOISER, tmp_path / "settings.yaml")
    again = tmp_path / "again"
    arguments = [str(again), "--text-to-video", str(source), "--settings", str(settings)]
    with monkeypatch.context() as patch:
        press_ctrl_c_after_save(patch, 2)
        assert main(arguments) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == (
        "image_to_video_recipe: interrupted. The same command goes on from step 2."
    )
    assert "Traceback" not in said
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{again / 'pipeline'}\n"
    assert weights_in(again) == weights_in(run)


def test_another_seed_gives_other_weights(run, source, tmp_path):
    train_image_to_video(tmp_path / "other", source, dataclasses.replace(DENOISER, seed=2))
    other, own = weights_in(tmp_path / "other"), weights_in(run)
    same = {name for name in own if own[name] == other[name]}
    assert same == {"pipeline/vae/diffusion_pytorch_model.safetensors"}


def test_the_shipped_settings_are_sound():
    assert read_settings(SETTINGS, DenoiserSettings).batch >= 1


def refused_source(folder, tmp_path, capsys):
    """The message for a text-to-video folder; the run's is not even made."""
    message = refusal(main, [tmp_path / "run", "--text-to-video", folder], capsys)
    assert message.startswith(f"image_to_video_recipe: --text-to-video {folder}")
    assert "The pipeline of training.nano.text_to_video_recipe is expected." in message
    assert not (tmp_path / "run").exists()
    return message


@pytest.fixture
def source_copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def changed_json(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_missing_pipeline_is_refused(tmp_path, capsys):
    assert "is no folder." in refused_source(tmp_path / "none", tmp_path, capsys)


def test_a_folder_without_a_pipeline_is_refused(tmp_path, capsys, source):
    assert "model_index.json can't be read" in refused_source(source / "vae", tmp_path, capsys)


def test_an_image_to_video_pipeline_is_refused(tmp_path, capsys, run):
    said = refused_source(run / "pipeline", tmp_path, capsys)
    assert "holds the class CogVideoXImageToVideoPipeline instead of CogVideoXPipeline." in said


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("transformer", {"num_layers": 30}, "has the num_layers 30 where nano has 4."),
        ("transformer", {"in_channels": 32}, "has the in_channels 32 where nano has 16."),
        ("transformer", {"sample_height": 60}, "has the sample_height 60 where nano has 8."),
        ("vae", {"latent_channels": 4}, "has the latent_channels 4 where nano has 16."),
        ("text_encoder", {"d_model": 4096}, "has the d_model 4096 where nano has 64."),
    ],
)
def test_parts_of_other_dimensions_are_refused(tmp_path, capsys, source_copy, part, changed, said):
    changed_json(source_copy / part / "config.json", **changed)
    message = refused_source(source_copy, tmp_path, capsys)
    assert f"{source_copy / part} {said}" in message


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder", "tokenizer"])
def test_a_missing_part_is_refused(tmp_path, capsys, source_copy, part):
    shutil.rmtree(source_copy / part)
    assert f"{source_copy / part} is no folder." in refused_source(source_copy, tmp_path, capsys)


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_damaged_weights_are_refused(tmp_path, capsys, source_copy, part):
    (file,) = (source_copy / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:3000])
    said = refused_source(source_copy, tmp_path, capsys)
    assert f"{source_copy / part} can't be loaded (" in said


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_a_missing_weight_is_refused(tmp_path, capsys, source_copy, part):
    from safetensors.torch import load_file, save_file

    (file,) = (source_copy / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in sorted(weights) if "weight" in name and "embed" not in name)
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    assert f"lacks the weight {name}." in refused_source(source_copy, tmp_path, capsys)


def test_an_empty_tokenizer_is_refused(tmp_path, capsys, source_copy):
    shutil.rmtree(source_copy / "tokenizer")
    (source_copy / "tokenizer").mkdir()
    assert str(source_copy / "tokenizer") in refused_source(source_copy, tmp_path, capsys)


def test_a_tokenizer_without_nano_s_words_is_refused(tmp_path, capsys):
    save_tiny_pipeline(NANO, tmp_path / "letters")
    said = refused_source(tmp_path / "letters", tmp_path, capsys)
    assert "has no token for the word 'a'." in said


def test_settings_that_make_no_sense_are_refused(tmp_path, capsys, source):
    settings = write_settings(DENOISER, tmp_path / "settings.yaml", steps=0)
    arguments = [tmp_path / "run", "--text-to-video", source, "--settings", settings]
    assert "The setting steps is 0." in refusal(main, arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_another_run_is_refused_and_left_alone(run, tmp_path, source, capsys):
    before = weights_in(run)
    settings = write_settings(DENOISER, tmp_path / "settings.yaml", steps=9)
    arguments = [run, "--text-to-video", source, "--settings", settings]
    assert f"{run} holds a run with other settings." in refusal(main, arguments, capsys)
    assert weights_in(run) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path, capsys, source):
    arguments = [tmp_path / "run", "--text-to-video", source, "--device", "cuda"]
    assert "torch finds no CUDA device here." in refusal(main, arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "image_to_video_recipe runs/i2v --text-to-video runs/t2v/pipeline" in said
