"""Clips hold what the scenes show, in the words that training may use."""

from types import SimpleNamespace

import pytest
import torch

from training.nano.clips import Clips, load_clips, make_clips, save_clips
from training.nano.models import NANO
from training.nano.prompts import COMBINATIONS, HELD_OUT
from training.nano.scenes import COLOURS


class SeesAverages:
    """In place of a VAE: averages of 8×8 pixels of frames 0, 4 and 8; keeps what it encoded."""

    def __init__(self):
        self.pixels = []

    def encode(self, clips):
        self.pixels.append(clips)
        cells = torch.nn.functional.avg_pool3d(clips[:, :, ::4], (1, 8, 8))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=cells.repeat(1, 6, 1, 1, 1)))


def made(count, seed, *, independent_start=False):
    return make_clips(SeesAverages(), NANO, count, seed, independent_start=independent_start)


@pytest.fixture(scope="module", params=[False, True], ids=["t2v", "i2v"])
def encoded(request):
    """Clips and their pixels `[150, 3, 9, 64, 64]`."""
    vae = SeesAverages()
    clips = make_clips(vae, NANO, 150, 1, independent_start=request.param)
    return clips, torch.cat([pixels for pixels in vae.pixels if pixels.shape[2] == 9])


@pytest.fixture(scope="module")
def clips(encoded):
    return encoded[0]


def test_shapes_and_dtypes(clips):
    assert clips.latents.shape == (150, 3, 18, 8, 8)
    assert clips.images.shape == (150, 1, 18, 8, 8)
    assert clips.weights.shape == (150, 3, 1, 8, 8)
    assert clips.words.shape == (150,)
    assert clips.latents.dtype == clips.images.dtype == torch.float16
    assert (clips.weights.dtype, clips.words.dtype) == (torch.float32, torch.int64)


def test_images_are_of_the_first_frame(clips):
    assert torch.equal(clips.images, clips.latents[:, :1])


def test_held_out_combinations_are_never_drawn(clips):
    drawn = {COMBINATIONS[word] for word in clips.words}
    assert not drawn & HELD_OUT
    assert len(drawn) > 40


def test_weights_are_one_where_a_frame_shows_the_shape(encoded):
    clips, pixels = encoded
    ground = pixels.flatten(2).median(2).values.reshape(-1, 3, 1, 1, 1)
    shown = (pixels != ground).any(1)
    cells = shown.unflatten(3, (8, 8)).unflatten(2, (8, 8)).any(5).any(3)
    groups = [cells[:, :1].any(1), cells[:, 1:5].any(1), cells[:, 5:].any(1)]
    expected = torch.stack(groups, 1).unsqueeze(2)
    assert set(clips.weights.unique().tolist()) == {0, 1}
    assert (clips.weights.bool() >= expected).all()
    # A piece of less than a two-hundredth of a pixel can't be seen.
    assert (clips.weights.bool() != expected).float().mean() < 0.005


def test_words_say_what_is_seen(clips):
    """The middle of the weights goes where the words say, and their cells have its colour."""
    grid = torch.arange(8.0)
    for clip, word in enumerate(clips.words):
        colour, _, direction = COMBINATIONS[word]
        mask = clips.weights[clip, :, 0]
        x = (mask.sum(1) * grid).sum(1) / mask.sum((1, 2))
        y = (mask.sum(2) * grid).sum(1) / mask.sum((1, 2))
        moved = {"left": x[0] - x[2], "right": x[2] - x[0], "up": y[0] - y[2], "down": y[2] - y[0]}
        assert max(moved, key=moved.get) == direction
        seen = clips.latents[clip, :, :3].float()
        rgb = (seen.amax((0, 2, 3)) + 1) * 127.5
        nearest = min(COLOURS, key=lambda name: sum((rgb - torch.tensor(COLOURS[name])) ** 2))
        assert nearest == colour


def test_the_same_seed_gives_the_same_clips():
    few, again, other = made(3, 4), made(3, 4), made(3, 5)
    for name in Clips.__slots__:
        assert torch.equal(getattr(few, name), getattr(again, name))
    assert not torch.equal(few.latents, other.latents)


def test_more_clips_begin_with_the_same():
    few, more = made(23, 1), made(45, 1)
    assert len(few.latents) == len(few.words) == 23
    for name in Clips.__slots__:
        assert torch.equal(getattr(more, name)[:23], getattr(few, name))


def test_they_come_back_from_their_file(tmp_path, clips):
    path = tmp_path / "clips.safetensors"
    save_clips(clips, path)
    found = load_clips(path)
    for name in Clips.__slots__:
        assert torch.equal(getattr(found, name), getattr(clips, name))
    assert [file.name for file in tmp_path.iterdir()] == ["clips.safetensors"]
