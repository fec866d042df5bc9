"""Settings so small that a recipe is done in seconds, what it starts from, and how to stop it."""

import dataclasses
import signal

import torch
import yaml

from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from training.nano.clips import Clips
from training.nano.denoiser_settings import DenoiserSettings, Focus, Guided, OwnPredictions
from training.nano.denoiser_steps import Denoiser
from training.nano.models import NANO, new_transformer, new_vae
from training.nano.text_to_video_recipe import save_pipeline
from training.nano.vae_recipe import Stage, VaeSettings
from training.run_folder import RunFolder

VAE = VaeSettings(
    seed=1,
    stages=(Stage(16, 1, 2, 2), Stage(16, 9, 1, 2)),
    learning_rate=0.002,
    warmup_steps=1,
    weight_decay=0.001,
    clip_norm=1.0,
    shape_weight=3.0,
    kl_weight=0.0001,
    moments_weight=0.02,
    decoder_noise=0.1,
    save_every=3,
)
DENOISER = DenoiserSettings(
    seed=1,
    clips=2,
    batch=3,
    steps=4,
    learning_rate=0.001,
    warmup_steps=1,
    weight_decay=0.01,
    clip_norm=1.0,
    ema_decay=0.9,
    prompt_dropout=0.1,
    shape_weight=8.0,
    opening_steps=1,
    focus=Focus(0.75, 600.0, 170.0),
    guided=Guided(2, 1000, 7.0),
    own_predictions=OwnPredictions(1, 1, 300, 800, 20, 200),
    save_every=2,
)


def write_settings(settings, path, **changed):
    """Write settings as YAML; `changed` replaces some, None takes one away."""
    values = dataclasses.asdict(settings)
    if "stages" in values:
        values["stages"] = list(values["stages"])
    values = {name: value for name, value in (values | changed).items() if value is not None}
    path.write_text(yaml.safe_dump(values))
    return path


def untrained_vae(seed=0):
    torch.manual_seed(seed)
    return new_vae().eval()


def untrained_denoiser(folder, seed=0):
    """A text-to-video denoiser; `folder` gets its tokenizer."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    return Denoiser(new_transformer(), new_text_encoder(NANO, write_tokenizer(folder)))


def untrained_pipeline(folder):
    """Save a text-to-video pipeline of nano with random weights."""
    tokenizer = folder.with_name("tokenizer")
    denoiser = untrained_denoiser(tokenizer)
    # Only a model in evaluation mode gives the same twice.
    return save_pipeline(folder, denoiser.eval(), untrained_vae(), tokenizer)


def random_clips(count):
    """Clips whose latents are noise, and that have every combination of words in turn."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(count, 3, 16, 8, 8, generator=generator).half()
    weights = (torch.rand(count, 3, 1, 8, 8, generator=generator) < 0.2).float()
    return Clips(latents, 2 * latents[:, :1], weights, torch.arange(count) % 72)


def press_ctrl_c_after_save(monkeypatch, step):
    """Press Ctrl-C as soon as the state of this step is saved."""
    save = RunFolder.save

    def saves(run, state):
        save(run, state)
        if state["step"] == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "save", saves)


def weights_in(folder):
    """The bytes of every safetensors file, by its path in the folder."""
    files = {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")
    }
    assert files
    return files


def refusal(main, arguments, capsys):
    """The message of a command that has to refuse its input, with exit code 2 and no traceback."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err
