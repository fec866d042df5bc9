"""Entries have names, shapes and dtypes of their own, known before anything is encoded."""

import dataclasses

import pytest
import torch

from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_rules import ClipRules
from training.finetuning.cache_entries import cache_entries
from weights.variants import VARIANTS

RULES = ClipRules(fps=8, frames=49, width=720, height=480, images=False, first_frames=True)


@pytest.fixture
def base(tiny_folder):
    """Weights of which only names and files matter."""
    return ReadyWeights(folder=tiny_folder, variant=VARIANTS["cogvideox-5b-i2v"], dtype="bfloat16")


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a clip")
    return Clip(path=path, prompt="a caption", image=None, frames=49)


def entries(base, cache, rules=RULES, device="cuda", vae_tiling=False):
    return cache_entries(base, rules, cache, device=torch.device(device), vae_tiling=vae_tiling)


def test_sizes_are_those_of_the_released_models(base, clip, tmp_path):
    of_5b = entries(base, tmp_path)
    assert of_5b.moments(clip).shape == (32, 13, 60, 90)
    assert of_5b.prompt("").shape == (226, 4096)
    assert of_5b.image(clip).shape == (480, 720, 3)
    assert of_5b.moments(clip).dtype == of_5b.prompt("").dtype == torch.bfloat16
    assert of_5b.image(clip).dtype == torch.uint8
    longer = dataclasses.replace(RULES, frames=81, width=1360, height=768)
    of_1_5 = entries(
        dataclasses.replace(base, variant=VARIANTS["cogvideox1.5-5b"]), tmp_path, longer
    )
    assert of_1_5.moments(dataclasses.replace(clip, frames=81)).shape == (32, 21, 96, 170)
    assert of_1_5.prompt("").shape == (224, 4096)


def test_text_to_video_keeps_no_images(base, clip, tmp_path):
    rules = dataclasses.replace(RULES, first_frames=False)
    assert entries(base, tmp_path, rules).image(clip) is None


def test_another_device_computes_in_another_dtype(base, clip, tmp_path):
    on_gpu, on_cpu = entries(base, tmp_path), entries(base, tmp_path, device="cpu")
    assert (on_gpu.computed, on_cpu.computed) == ("bfloat16", "float32")
    assert on_gpu.prompt("").path != on_cpu.prompt("").path
    assert on_gpu.moments(clip).path != on_cpu.moments(clip).path
    assert on_gpu.image(clip) == on_cpu.image(clip)


def test_tiles_are_for_clips_alone(base, clip, tmp_path):
    whole, tiled = (entries(base, tmp_path, vae_tiling=tiling) for tiling in (False, True))
    assert whole.moments(clip).path != tiled.moments(clip).path
    assert whole.moments(clip).shape == tiled.moments(clip).shape
    assert whole.prompt("") == tiled.prompt("")
    assert whole.image(clip) == tiled.image(clip)


def test_the_same_file_may_be_clips_of_several_lengths(base, clip, tmp_path):
    # As many latent frames, so that the shape does not tell them apart.
    longer_clip = dataclasses.replace(clip, frames=50)
    of_5b = entries(base, tmp_path)
    assert of_5b.moments(longer_clip).shape == of_5b.moments(clip).shape
    assert of_5b.moments(longer_clip).path != of_5b.moments(clip).path


def test_other_token_counts_make_other_embeddings(base, tmp_path):
    other = dataclasses.replace(base, variant=VARIANTS["cogvideox1.5-5b-i2v"])
    assert entries(base, tmp_path).prompt("a").path != entries(other, tmp_path).prompt("a").path


def test_kinds_lie_apart(base, clip, tmp_path):
    of_5b = entries(base, tmp_path)
    kept = (of_5b.moments(clip), of_5b.prompt(""), of_5b.image(clip))
    assert [entry.path.parent for entry in kept] == [
        tmp_path / "latents",
        tmp_path / "prompts",
        tmp_path / "images",
    ]
    assert all(entry.path.suffix == ".safetensors" for entry in kept)
