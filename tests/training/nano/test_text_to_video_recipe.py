"""The text-to-video recipe: what a step learns from, what a run makes, and what it refuses."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch

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
from training.nano.prompts import COMBINATIONS, HELD_OUT
from training.nano.text_to_video_recipe import (
    SETTINGS,
    DenoiserSettings,
    Focus,
    Guided,
    draw_batch,
    losses,
    main,
    tokenize,
    train_text_to_video,
)
from training.noise_schedule import alphas_cumprod
from training.settings import read_settings

pytestmark = pytest.mark.usefixtures("one_thread")
MANY = dataclasses.replace(DENOISER, batch=2000, opening_steps=1, prompt_dropout=0.2)
ALPHAS = alphas_cumprod(1.0).float()
# In place of tokens: the row and column of the table.
ROWS, WAYS = 73, 13
TABLE = torch.stack(torch.meshgrid(torch.arange(ROWS), torch.arange(WAYS), indexing="ij"), dim=-1)


def drawn(step, settings=MANY, clips=None, *, image_to_video=False):
    clips = clips or random_clips(144)
    return draw_batch(settings, clips, TABLE, ALPHAS, step, image_to_video=image_to_video)


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


def test_opening_steps_say_the_canonical_prompt_alone():
    ways = drawn(0).tokens[:, 1]
    assert set(ways.tolist()) == {0}


def test_later_the_canonical_prompt_comes_every_other_time():
    ways = drawn(1).tokens[:, 1]
    assert set(ways.tolist()) == set(range(WAYS))
    assert (ways == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_opening_steps_have_every_timestep_alike():
    settings = dataclasses.replace(MANY, focus=Focus(1.0, 100.0, 1.0))
    timesteps = drawn(0, settings).timesteps
    assert timesteps.dtype == torch.int64
    counts = torch.histc(timesteps.float(), 10, 0, 1000)
    assert counts.min() > 140
    assert counts.max() < 260


def test_later_timesteps_are_focused():
    settings = dataclasses.replace(MANY, focus=Focus(0.75, 600.0, 20.0))
    timesteps = drawn(1, settings).timesteps
    near = ((timesteps - 600).abs() < 60).float().mean().item()
    assert near == pytest.approx(0.75 * 0.997 + 0.25 * 0.12, abs=0.04)
    wide = drawn(1, dataclasses.replace(MANY, focus=Focus(1.0, 900.0, 900.0))).timesteps
    assert (wide.min(), wide.max()) == (0, 999)


def test_a_left_out_prompt_is_the_empty_one():
    batch = drawn(1)
    rows = batch.tokens[:, 0]
    assert torch.equal(rows == ROWS - 1, ~batch.prompted)
    assert batch.prompted.float().mean().item() == pytest.approx(0.8, abs=0.04)
    for share, expected in ((0.0, True), (1.0, False)):
        settings = dataclasses.replace(MANY, prompt_dropout=share)
        assert set(drawn(1, settings).prompted.tolist()) == {expected}


def test_noisy_latents_and_targets_give_the_clip_back():
    """x = √a·noisy − √(1−a)·v, and the rest is noise of variance 1."""
    clips = random_clips(144)
    batch = drawn(1, clips=clips)
    alphas = ALPHAS[batch.timesteps].reshape(-1, 1, 1, 1, 1)
    clean = alphas.sqrt() * batch.noisy - (1 - alphas).sqrt() * batch.target
    noise = (1 - alphas).sqrt() * batch.noisy + alphas.sqrt() * batch.target
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    for sample in range(50):
        distances = (clips.latents.float() - clean[sample]).abs().amax((1, 2, 3, 4))
        clip = int(distances.argmin())
        assert distances[clip] < 1e-4
        if batch.prompted[sample]:
            assert batch.tokens[sample, 0] == clips.words[clip]


def test_weights_have_mean_1_and_the_two_values_of_the_settings():
    weights = drawn(1).weights
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    low, high = weights.unique().tolist()
    assert high / low == pytest.approx(1 + MANY.shape_weight)


def test_a_step_s_batch_is_always_the_same():
    first, again, next_one = drawn(3), drawn(3), drawn(4)
    other = drawn(3, dataclasses.replace(MANY, seed=2))
    for name in ("noisy", "target", "weights", "timesteps", "tokens", "prompted"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.noisy, next_one.noisy)
    assert not torch.equal(first.noisy, other.noisy)
    assert first.condition is None


def test_a_batch_moves_as_it_is():
    batch = drawn(1).on(torch.device("cpu"))
    assert torch.equal(batch.noisy, drawn(1).noisy)
    assert batch.condition is None


class Linear:
    """In place of a denoiser: a multiple of its input, plus `words` where there is a prompt."""

    def __init__(self, words):
        self.factor = torch.tensor(0.7, requires_grad=True)
        self.words = words

    def __call__(self, noisy, timesteps, tokens, condition):
        prompted = (tokens[:, 0] != ROWS - 1).float().reshape(-1, 1, 1, 1, 1)
        return self.factor * noisy + self.words * prompted


FEW = dataclasses.replace(
    MANY, batch=12, opening_steps=0, prompt_dropout=0.4, guided=Guided(8, 700, 7.0)
)
EMPTY = torch.tensor([[ROWS - 1, 0]])


def fitting(batch):
    """The samples that the guided loss is about."""
    chosen = [n for n in range(8) if batch.prompted[n] and batch.timesteps[n] < 700]
    assert 0 < len(chosen) < 8
    return chosen


def sample_loss(batch, output, sample):
    return float((batch.weights[sample] * (output - batch.target[sample]) ** 2).mean())


def scales_of(monkeypatch, scales):
    """Have the guidance drawn as these."""
    import training.nano.text_to_video_recipe as recipe

    generator = SimpleNamespace(uniform=lambda low, high, count: scales.double().numpy())
    monkeypatch.setattr(recipe.np.random, "default_rng", lambda seed: generator)


def test_the_plain_loss_is_the_weighted_squared_error():
    batch = drawn(2, FEW)
    plain, _ = losses(Linear(0.0), batch, EMPTY, FEW, 2)
    expected = [sample_loss(batch, 0.7 * batch.noisy[n], n) for n in range(12)]
    assert plain.item() == pytest.approx(sum(expected) / 12, rel=1e-4)


def test_where_the_prompt_changes_nothing_the_guided_loss_is_the_plain_over_the_square(monkeypatch):
    batch = drawn(2, FEW)
    scales = torch.linspace(1, 7, 8)
    scales_of(monkeypatch, scales)
    _, guided = losses(Linear(0.0), batch, EMPTY, FEW, 2)
    expected = sum(
        sample_loss(batch, 0.7 * batch.noisy[n], n) / float(scales[n]) ** 2 for n in fitting(batch)
    )
    assert guided.item() == pytest.approx(expected / 12, rel=1e-4)


def test_the_guided_loss_is_that_of_what_guidance_makes(monkeypatch):
    """What the pipeline computes: without + scale · (with − without)."""
    batch = drawn(2, FEW)
    scales = torch.linspace(1, 7, 8)
    scales_of(monkeypatch, scales)
    _, guided = losses(Linear(0.3), batch, EMPTY, FEW, 2)
    expected = 0.0
    for n in fitting(batch):
        without = 0.7 * batch.noisy[n]
        with_prompt = without + 0.3
        taken = without + scales[n] * (with_prompt - without)
        expected += sample_loss(batch, taken, n) / float(scales[n]) ** 2
    assert guided.item() == pytest.approx(expected / 12, rel=1e-4)


def test_the_guided_loss_teaches_where_the_prompt_changes_nothing():
    denoiser = Linear(0.0)
    _, guided = losses(denoiser, drawn(2, FEW), EMPTY, FEW, 2)
    guided.backward()
    assert denoiser.factor.grad.abs() > 1e-3


@pytest.mark.parametrize("changed", [{"below": 0}, {"samples": 0}])
def test_without_fitting_samples_the_guided_loss_is_0(changed):
    settings = dataclasses.replace(FEW, guided=dataclasses.replace(FEW.guided, **changed))
    plain, guided = losses(Linear(0.3), drawn(2, settings), EMPTY, settings, 2)
    assert plain > 0
    assert guided == 0


def test_in_the_opening_there_is_no_guided_loss():
    settings = dataclasses.replace(FEW, opening_steps=3)
    _, guided = losses(Linear(0.3), drawn(2, FEW), EMPTY, settings, 2)
    assert guided == 0


def test_the_guidance_is_always_the_same_for_a_step():
    batch = drawn(2, FEW)
    values = [losses(Linear(0.3), batch, EMPTY, FEW, step)[1].item() for step in (2, 2, 3)]
    assert values[0] == values[1] != values[2]


def test_the_loss_falls_on_one_batch(tmp_path):
    denoiser = untrained_denoiser(tmp_path)
    settings = dataclasses.replace(DENOISER, opening_steps=0)
    table = torch.arange(73 * 13 * 16).reshape(73, 13, 16) % 100
    batch = draw_batch(settings, random_clips(3), table, ALPHAS, 1, image_to_video=False)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.002)
    both = []
    for _ in range(12):
        plain, guided = losses(denoiser, batch, table[72, :1], settings, 1)
        optimizer.zero_grad()
        (plain + guided).backward()
        optimizer.step()
        both.append((plain + guided).item())
    assert both[-1] < 0.8 * both[0]


def test_prompts_are_padded_to_what_the_transformer_reads(run):
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(run / "tokenizer")
    ids = tokenize(tokenizer, ["", "a red circle moving left"])
    assert ids.shape == (2, 16)
    assert ids[0].tolist() == [1] + [0] * 15
    assert ids[1, 5:].tolist() == [1] + [0] * 10


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


def test_a_state_without_random_numbers_still_goes_on(run, vae_folder, tmp_path):
    """Runs of before they were saved."""
    again = tmp_path / "again"
    shutil.copytree(run, again)
    state = torch.load(again / "state.pt", weights_only=True)
    del state["random"]
    torch.save(state, again / "state.pt")
    shutil.rmtree(again / "pipeline")
    train_text_to_video(again, vae_folder, DENOISER)
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "The setting steps is 0. A finite number of at least 1"),
        ({"batch": 0, "guided": {"samples": 0, "below": 1, "highest": 1.0}}, "batch is 0."),
        ({"clips": 0}, "The setting clips is 0."),
        ({"save_every": 0}, "The setting save_every is 0."),
        ({"seed": -1}, "The setting seed is -1."),
        ({"warmup_steps": -1}, "The setting warmup_steps is -1."),
        ({"opening_steps": -1}, "The setting opening_steps is -1."),
        ({"learning_rate": -0.1}, "The setting learning_rate is -0.1. A number above 0"),
        ({"clip_norm": 0.0}, "The setting clip_norm is 0.0. A number above 0"),
        ({"weight_decay": float("nan")}, "The setting weight_decay is nan."),
        ({"shape_weight": float("inf")}, "The setting shape_weight is inf."),
        ({"ema_decay": 1.5}, "The setting ema_decay is 1.5. A number from 0 to 1"),
        ({"prompt_dropout": -0.1}, "The setting prompt_dropout is -0.1. A number from 0 to 1"),
        ({"focus": {"share": 1.1, "mean": 0.0, "spread": 1.0}}, "The setting focus.share is 1.1."),
        ({"focus": {"share": 1.0, "mean": 0.0, "spread": -1.0}}, "focus.spread is -1.0."),
        ({"focus": {"share": 1.0, "mean": 1001.0, "spread": 1.0}}, "focus.mean is 1001.0."),
        (
            {"guided": {"samples": 4, "below": 600, "highest": 7.0}},
            "The setting guided.samples is 4. A number from 0 to 3",
        ),
        ({"guided": {"samples": 1, "below": 1001, "highest": 7.0}}, "guided.below is 1001."),
        ({"guided": {"samples": 1, "below": 600, "highest": 0.5}}, "guided.highest is 0.5."),
        ({"guided": {"samples": 1, "below": 600}}, "does not have the setting guided.highest"),
        ({"focus": 3}, "has no settings at focus."),
        ({"steps": 2.5}, "has steps: 2.5"),
        ({"clips": None}, "does not have the setting clips"),
        ({"colour": "red"}, "has the unknown setting colour"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, capsys, vae_folder, changed, said):
    settings = write_settings(DENOISER, tmp_path / "settings.yaml", **changed)
    arguments = [tmp_path / "run", "--vae", vae_folder, "--settings", settings]
    message = refusal(main, arguments, capsys)
    assert message.startswith("text_to_video_recipe: ")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_an_opening_longer_than_the_training_is_fine():
    assert dataclasses.replace(DENOISER, opening_steps=100).opening_steps > DENOISER.steps


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
