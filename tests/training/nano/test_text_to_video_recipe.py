"""The text-to-video recipe: what a run makes, how it goes on, and what it refuses."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from conversion.nano_text_encoder import write_tokenizer
from tests.training.nano.tiny_runs import (
    DENOISER,
    press_ctrl_c_after_save,
    random_clips,
    refusal,
    untrained_denoiser,
    untrained_vae,
    weights_in,
    write_settings,
)
from training.nano.clips import load_clips
from training.nano.denoiser_settings import DenoiserSettings
from training.nano.denoiser_steps import losses
from training.nano.prompts import COMBINATIONS, HELD_OUT
from training.nano.text_to_video_recipe import (
    SETTINGS,
    main,
    train_denoiser,
    train_text_to_video,
)
from training.run_folder import RunFolder
from training.settings import read_settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "vae"
    untrained_vae().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, vae_folder):
    folder = tmp_path_factory.mktemp("t2v") / "run"
    train_text_to_video(folder, vae_folder, DENOISER)
    return folder


def test_plain_diffusers_loads_the_result_and_samples(run):
    from diffusers import CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(run / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
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


def test_the_pipeline_has_the_averaged_weights(run):
    from diffusers import CogVideoXTransformer3DModel

    state = torch.load(run / "state.pt", weights_only=True)
    transformer = CogVideoXTransformer3DModel.from_pretrained(run / "pipeline" / "transformer")
    weight = transformer.proj_out.weight
    name = "transformer.proj_out.weight"
    assert torch.equal(weight, state["ema"]["average"][name])
    assert not torch.equal(weight, state["denoiser"][name])


def test_what_is_saved_is_on_the_cpu(run):
    state = torch.load(run / "state.pt", weights_only=True)
    moments = [value["exp_avg"] for value in state["optimizer"]["state"].values()]
    tensors = [*state["denoiser"].values(), *state["ema"]["average"].values(), *moments]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_the_run_draws_no_held_out_combination(run):
    words = load_clips(run / "clips.safetensors").words
    assert len(words) == DENOISER.clips
    assert not {COMBINATIONS[word] for word in words} & HELD_OUT


class Factor(torch.nn.Module):
    """In place of a denoiser: a multiple of the noisy latents."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, noisy, timesteps, tokens, condition):
        return self.factor * noisy


def trained(folder, denoiser, *, steps=4, **own_predictions):
    """The last state of a short training on random clips."""
    from transformers import T5Tokenizer

    own = dataclasses.replace(DENOISER.own_predictions, **own_predictions)
    settings = dataclasses.replace(DENOISER, steps=steps, own_predictions=own)
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer")
    run = RunFolder(folder / "run", dataclasses.asdict(settings))
    train_denoiser(
        run,
        settings,
        denoiser,
        random_clips(3),
        T5Tokenizer.from_pretrained(folder / "tokenizer"),
        device=torch.device("cpu"),
        image_to_video=False,
        label="Test",
    )
    return run.load()


@pytest.mark.parametrize(
    ("own_predictions", "expected"),
    [
        ({"from_step": 2}, [2, 3]),
        ({"from_step": 4}, []),
        ({"from_step": 0, "samples": 0}, []),
    ],
)
def test_own_predictions_are_learned_from_their_step_on(
    tmp_path, monkeypatch, own_predictions, expected
):
    made, learned = [], []

    def makes(denoiser, batch, empty, alphas, settings, step):
        made.append(dataclasses.replace(batch))
        return made[-1]

    def learns(denoiser, batch, empty, settings, step):
        learned.extend(step for own in made if own is batch)
        return losses(denoiser, batch, empty, settings, step)

    monkeypatch.setattr("training.nano.text_to_video_recipe.with_own_predictions", makes)
    monkeypatch.setattr("training.nano.text_to_video_recipe.losses", learns)
    trained(tmp_path, Factor(), **own_predictions)
    assert learned == expected
    assert len(made) == len(expected)


def test_own_predictions_leave_no_parameter_untaught(tmp_path):
    """Older torch gives no gradient to weights that autocast has cast without one."""
    denoiser = untrained_denoiser(tmp_path / "tokenizer")
    state = trained(tmp_path, denoiser, steps=1, from_step=0)
    assert len(state["optimizer"]["state"]) == len(list(denoiser.parameters()))


def test_interrupted_it_goes_on_bit_for_bit(run, vae_folder, tmp_path, monkeypatch, capsys):
    settings = write_settings(DENOISER, tmp_path / "settings.yaml")
    again = tmp_path / "again"
    arguments = [str(again), "--vae", str(vae_folder), "--settings", str(settings)]
    with monkeypatch.context() as patch:
        press_ctrl_c_after_save(patch, 2)
        assert main(arguments) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == (
        "text_to_video_recipe: interrupted. The same command goes on from step 2."
    )
    assert "Traceback" not in said
    assert main([*arguments, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{again / 'pipeline'}\n"
    assert weights_in(again) == weights_in(run)


def test_interrupted_before_the_first_save_it_begins_again(
    tmp_path, vae_folder, monkeypatch, capsys
):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.nano.text_to_video_recipe.make_clips", interrupted)
    assert main([str(tmp_path / "run"), "--vae", str(vae_folder)]) == 130
    assert "goes on from step 0." in capsys.readouterr().err


def test_another_seed_gives_other_weights(run, vae_folder, tmp_path):
    settings = dataclasses.replace(DENOISER, seed=2, steps=1)
    train_text_to_video(tmp_path / "other", vae_folder, settings)
    other, own = weights_in(tmp_path / "other"), weights_in(run)
    assert other.keys() == own.keys()
    same = {name for name in own if own[name] == other[name]}
    assert same == {"pipeline/vae/diffusion_pytorch_model.safetensors"}


def test_the_shipped_settings_are_sound():
    assert read_settings(SETTINGS, DenoiserSettings).batch >= 1


def test_settings_that_make_no_sense_are_refused(tmp_path, capsys, vae_folder):
    settings = write_settings(DENOISER, tmp_path / "settings.yaml", steps=0)
    arguments = [tmp_path / "run", "--vae", vae_folder, "--settings", settings]
    message = refusal(main, arguments, capsys)
    assert message.startswith("text_to_video_recipe: The setting steps is 0.")
    assert not (tmp_path / "run").exists()


def refused_vae(folder, tmp_path, capsys):
    """The message for a VAE's folder; the run's is not even made."""
    message = refusal(main, [tmp_path / "run", "--vae", folder], capsys)
    assert message.startswith(f"text_to_video_recipe: --vae {folder}")
    assert "training.nano.vae_recipe is expected" in message
    assert not (tmp_path / "run").exists()
    return message


def test_a_missing_vae_is_refused(tmp_path, capsys):
    assert "is no folder." in refused_vae(tmp_path / "none", tmp_path, capsys)


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert "config.json can't be read" in refused_vae(tmp_path, tmp_path, capsys)


@pytest.fixture
def vae_copy(vae_folder, tmp_path):
    return shutil.copytree(vae_folder, tmp_path / "copy")


def changed_config(folder, **changed):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize("text", ["{", "[]", '"vae"', "\0"])
def test_a_config_that_is_none_is_refused(tmp_path, capsys, vae_copy, text):
    (vae_copy / "config.json").write_text(text)
    assert "config.json" in refused_vae(vae_copy, tmp_path, capsys)


def test_another_class_is_refused(tmp_path, capsys, vae_copy):
    changed_config(vae_copy, _class_name="AutoencoderKL")
    assert "holds the class AutoencoderKL instead" in refused_vae(vae_copy, tmp_path, capsys)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"latent_channels": 8}, "has the latent_channels 8 where nano has 16."),
        (
            {"block_out_channels": [16, 32, 64]},
            "has the block_out_channels [16, 32, 64] where nano has (16, 32, 32, 64).",
        ),
        ({"temporal_compression_ratio": 8}, "temporal_compression_ratio 8 where nano has 4."),
        ({"scaling_factor": 0.7}, "has the scaling_factor 0.7 where nano has 1.0."),
    ],
)
def test_a_vae_of_other_dimensions_is_refused(tmp_path, capsys, vae_copy, changed, said):
    changed_config(vae_copy, **changed)
    message = refused_vae(vae_copy, tmp_path, capsys)
    assert said in message
    assert "3×8×8" in message


def without_a_weight(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["encoder.conv_out.conv.bias"]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "can't be loaded ("),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "can't be loaded ("),
        (lambda path: path.write_bytes(b""), "can't be loaded ("),
        (without_a_weight, "lacks the weight encoder.conv_out.conv.bias."),
    ],
    ids=["none", "half", "empty", "one missing"],
)
def test_damaged_weights_are_refused(tmp_path, capsys, vae_copy, damage, said):
    damage(vae_copy / "diffusion_pytorch_model.safetensors")
    assert said in refused_vae(vae_copy, tmp_path, capsys)


def test_another_run_is_refused_and_left_alone(run, tmp_path, vae_folder, capsys):
    before = weights_in(run)
    settings = write_settings(DENOISER, tmp_path / "settings.yaml", steps=9)
    message = refusal(main, [run, "--vae", vae_folder, "--settings", settings], capsys)
    assert f"{run} holds a run with other settings." in message
    assert weights_in(run) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path, capsys, vae_folder):
    arguments = [tmp_path / "run", "--vae", vae_folder, "--device", "cuda"]
    assert "torch finds no CUDA device here." in refusal(main, arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "text_to_video_recipe runs/t2v --vae runs/vae/vae\n" in capsys.readouterr().out
