"""Clips are encoded once, as plain diffusers does it, and again only where something changed."""

import dataclasses
import shutil
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from PIL import Image

from predictors.video import write_video
from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_frames import read_clip
from training.dataset.clip_rules import ClipRules
from training.finetuning import cache_filling
from training.finetuning.encoded_clips import encode_clips
from weights.errors import OperationError
from weights.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
RULES = ClipRules(fps=8, frames=9, width=64, height=64, images=True, first_frames=False)
GIVE_MEMORY_BACK = cache_filling._give_memory_back
PROMPTS = ("a red circle", "a blue square", "a red circle")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos and a picture; the first and the last have the same caption."""
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for place in range(2):
        frames = np.random.default_rng(place).integers(0, 256, (9, 64, 64, 3), np.uint8)
        write_video(frames, folder / f"{place}.mp4", fps=8)
        made.append(folder / f"{place}.mp4")
    made.append(write_picture(folder / "2.png", 2))
    return tuple(
        Clip(path=path, prompt=prompt, image=None, frames=1 if path.suffix == ".png" else 9)
        for path, prompt in zip(made, PROMPTS, strict=True)
    )


def write_picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def base(tiny_folder):
    return ReadyWeights(folder=tiny_folder, variant=VARIANTS["nano"], dtype="float32")


@pytest.fixture
def work(monkeypatch):
    """What is done, one after the other, by stand-ins: models loaded, and things encoded or kept.

    Moments tell which clip they are of by its first pixel.
    """
    done = []

    def load_text_encoder(base, device):
        done.append("t5")

        def embed(prompt):
            done.append("prompts")
            variant = base.variant
            return torch.full((variant.text_tokens, variant.text_embed_dim), float(len(prompt)))

        return embed

    def load_vae(base, device):
        done.append("vae")
        return SimpleNamespace(enable_tiling=lambda: done.append("tiling"))

    def encode_frames(vae, frames):
        done.append("clips")
        count, height, width, _ = frames.shape
        shape = (32, (count - 1) // 4 + 1, height // 8, width // 8)
        return torch.full(shape, float(frames[0, 0, 0, 0]))

    def read_image(clip, rules):
        done.append("images")
        return np.zeros((rules.height, rules.width, 3), np.uint8)

    monkeypatch.setattr(cache_filling, "load_text_encoder", load_text_encoder)
    monkeypatch.setattr(cache_filling, "load_vae", load_vae)
    monkeypatch.setattr(cache_filling, "encode_frames", encode_frames)
    monkeypatch.setattr(cache_filling, "read_image", read_image)
    # It takes long in a process that has as much loaded as this one.
    monkeypatch.setattr(cache_filling, "_give_memory_back", lambda device: None)
    return done


def entries(cache):
    return sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())


def test_the_numbers_are_those_of_plain_diffusers(base, clips, tmp_path):
    encoded = encode_clips(base, clips, RULES, tmp_path, device=CPU, more_prompts=["more"])
    vae = AutoencoderKLCogVideoX.from_pretrained(base.folder / "vae")
    pipe = CogVideoXPipeline.from_pretrained(base.folder)
    assert len(encoded) == 3
    with torch.no_grad():
        for number, clip in enumerate(clips):
            frames = torch.from_numpy(read_clip(clip, RULES)).float() / 255 * 2 - 1
            expected = vae.encode(frames.permute(3, 0, 1, 2)[None]).latent_dist
            sample = encoded.sample(number)
            mean, logvar = sample.moments.chunk(2)
            assert torch.allclose(mean, expected.mean[0], atol=1e-5)
            assert torch.allclose(logvar, expected.logvar[0], atol=1e-5)
            assert torch.equal(sample.prompt, pipe_embedding(pipe, clip.prompt))
            assert sample.image is None
        assert torch.equal(encoded.empty_prompt, pipe_embedding(pipe, ""))
        assert torch.equal(encoded.prompt("more"), pipe_embedding(pipe, "more"))
    assert [encoded.frames(number) for number in range(3)] == [9, 9, 1]
    assert [encoded.sample(number).moments.shape[1] for number in range(3)] == [3, 3, 1]


def pipe_embedding(pipe, prompt):
    return pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=16)[0][
        0
    ]


def test_image_to_video_has_its_own_image_or_the_first_frame(tiny_i2v_folder, clips, tmp_path):
    base = ReadyWeights(folder=tiny_i2v_folder, variant=VARIANTS["nano-i2v"], dtype="float32")
    picture = write_picture(tmp_path / "image.png", 7)
    rules = dataclasses.replace(RULES, first_frames=True)
    pair = (clips[0], dataclasses.replace(clips[0], image=picture))
    encoded = encode_clips(base, pair, rules, tmp_path / "cache", device=CPU)
    own, first = np.asarray(Image.open(picture)), read_clip(clips[0], RULES)[0]
    for number, pixels in enumerate((first, own)):
        image = encoded.sample(number).image
        assert image.shape == (3, 64, 64)
        assert torch.equal(image, torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1)
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 2
    assert len(list((tmp_path / "cache" / "latents").iterdir())) == 1


def test_everything_is_made_once_and_no_model_loaded_again(base, clips, work, tmp_path):
    encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert Counter(work) == {"t5": 1, "vae": 1, "prompts": 3, "clips": 3}
    work.clear()
    encoded = encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert not work
    assert encoded.sample(0).prompt[0, 0] == len(PROMPTS[0])
    assert {path.parent.name for path in entries(tmp_path)} == {"latents", "prompts"}


def test_only_what_is_new_is_made(base, clips, work, tmp_path):
    encode_clips(base, clips[:1], RULES, tmp_path, device=CPU)
    work.clear()
    encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert Counter(work) == {"t5": 1, "vae": 1, "prompts": 1, "clips": 2}
    work.clear()
    renamed = dataclasses.replace(clips[0], prompt="another caption")
    encode_clips(base, [renamed], RULES, tmp_path, device=CPU)
    assert Counter(work) == {"t5": 1, "prompts": 1}


def test_a_changed_file_is_encoded_again_and_a_copy_is_not(base, clips, work, tmp_path):
    path = tmp_path / "clip.png"
    shutil.copy(clips[2].path, path)
    clip = dataclasses.replace(clips[2], path=path)
    cache = tmp_path / "cache"
    encode_clips(base, [clip, clips[2]], RULES, cache, device=CPU)
    assert work.count("clips") == 1
    before = encode_clips(base, [clip], RULES, cache, device=CPU).sample(0)
    write_picture(path, 3)
    after = encode_clips(base, [clip], RULES, cache, device=CPU).sample(0)
    assert work.count("clips") == 2
    assert after.moments[0, 0, 0, 0] != before.moments[0, 0, 0, 0]


@pytest.mark.parametrize(
    "change", [{"fps": 4}, {"frames": 8}, {"width": 48}, {"height": 48}], ids=str
)
def test_other_rules_make_other_moments_and_images(base, clips, work, tmp_path, change):
    rules = dataclasses.replace(RULES, first_frames=True)
    encode_clips(base, clips[:1], rules, tmp_path, device=CPU)
    work.clear()
    encode_clips(base, clips[:1], dataclasses.replace(rules, **change), tmp_path, device=CPU)
    assert Counter(work) == {"vae": 1, "clips": 1, "images": 1}


def test_tiles_make_other_moments(base, clips, work, tmp_path):
    encode_clips(base, clips[:1], RULES, tmp_path, device=CPU)
    work.clear()
    encode_clips(base, clips[:1], RULES, tmp_path, device=CPU, vae_tiling=True)
    assert Counter(work) == {"vae": 1, "tiling": 1, "clips": 1}


def test_clips_are_encoded_in_tiles_where_that_is_asked_for(base, clips, tmp_path):
    # Larger than the tiles of diffusers, of 240 by 360 pixels.
    rules = dataclasses.replace(RULES, frames=1, width=384, height=256)
    clip = dataclasses.replace(clips[2], path=write_picture(tmp_path / "a.png", 0))
    whole, tiled = (
        encode_clips(base, [clip], rules, tmp_path, device=CPU, vae_tiling=tiling).sample(0)
        for tiling in (False, True)
    )
    vae = AutoencoderKLCogVideoX.from_pretrained(base.folder / "vae")
    vae.enable_tiling()
    frames = torch.from_numpy(read_clip(clip, rules)).float() / 255 * 2 - 1
    with torch.no_grad():
        expected = vae.encode(frames.permute(3, 0, 1, 2)[None]).latent_dist.mean[0]
    assert torch.allclose(tiled.moments.chunk(2)[0], expected, atol=1e-5)
    assert not torch.allclose(tiled.moments, whole.moments, atol=1e-3)


@pytest.mark.parametrize(
    ("part", "again"),
    [
        ("vae/config.json", {"vae": 1, "clips": 1}),
        ("vae/diffusion_pytorch_model.safetensors", {"vae": 1, "clips": 1}),
        ("text_encoder/model.safetensors", {"t5": 1, "prompts": 2}),
        ("tokenizer/tokenizer.json", {"t5": 1, "prompts": 2}),
        ("transformer/config.json", {}),
    ],
)
def test_another_model_makes_what_it_is_used_for_again(base, clips, work, tmp_path, part, again):
    cache, other = tmp_path / "cache", tmp_path / "other"
    encode_clips(base, clips[:1], RULES, cache, device=CPU)
    work.clear()
    shutil.copytree(base.folder, other)
    with (other / part).open("ab") as file:
        file.write(b" ")
    other = dataclasses.replace(base, folder=other)
    encode_clips(other, clips[:1], RULES, cache, device=CPU)
    assert Counter(work) == again


def test_what_other_weights_are_computed_in_makes_a_difference(base, clips, work, tmp_path):
    half = dataclasses.replace(base, dtype="bfloat16")
    encode_clips(base, clips[:1], RULES, tmp_path, device=CPU)
    work.clear()
    # On a CPU both compute in float32, and only what is kept differs: it is found by its dtype.
    encoded = encode_clips(half, clips[:1], RULES, tmp_path, device=CPU)
    assert Counter(work) == {"t5": 1, "vae": 1, "prompts": 2, "clips": 1}
    assert encoded.clips[0].moments.dtype == torch.bfloat16
    assert encoded.sample(0).moments.dtype == encoded.sample(0).prompt.dtype == torch.float32


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, empty])
def test_a_damaged_entry_is_made_anew(base, clips, work, tmp_path, damage):
    encode_clips(base, clips, RULES, tmp_path, device=CPU)
    whole = {path: (tmp_path / path).read_bytes() for path in entries(tmp_path)}
    for path in whole:
        damage(tmp_path / path)
        work.clear()
        encode_clips(base, clips, RULES, tmp_path, device=CPU)
        assert work.count("prompts") + work.count("clips") == 1
        assert {path: (tmp_path / path).read_bytes() for path in entries(tmp_path)} == whole


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_share_the_work(base, clips, work, tmp_path, count):
    met = threading.Barrier(count, timeout=60)

    def first_number(process):
        encoded = encode_clips(
            base, clips, RULES, tmp_path, device=CPU, process=(process, count), barrier=met.wait
        )
        # All is there by now, whoever made it.
        return encoded.sample(2).moments[0, 0, 0, 0].item()

    with ThreadPoolExecutor(count) as processes:
        found = list(processes.map(first_number, range(count)))
    assert len(set(found)) == 1
    assert (work.count("prompts"), work.count("clips")) == (3, 3)
    assert work.count("t5") == work.count("vae") == count


def test_nobody_writes_before_all_have_looked(base, clips, work, tmp_path):
    seen = []
    encode_clips(
        base,
        clips,
        RULES,
        tmp_path,
        device=CPU,
        process=(0, 2),
        barrier=lambda: seen.append(len(entries(tmp_path))),
    )
    # Half of three prompts and of three clips, rounded up.
    assert seen == [0, 4]


def test_the_t5_is_gone_before_the_vae_comes(base, clips, work, tmp_path, monkeypatch):
    loaded = []
    load_text_encoder, load_vae = cache_filling.load_text_encoder, cache_filling.load_vae

    def load_t5(*arguments):
        embed = load_text_encoder(*arguments)
        embed.itself = embed
        loaded.append(weakref.ref(embed))
        return embed

    def load_after(*arguments):
        assert loaded[0]() is None
        return load_vae(*arguments)

    monkeypatch.setattr(cache_filling, "load_text_encoder", load_t5)
    monkeypatch.setattr(cache_filling, "load_vae", load_after)
    monkeypatch.setattr(cache_filling, "_give_memory_back", GIVE_MEMORY_BACK)
    encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert "vae" in work


def test_latents_that_are_not_finite_name_the_clip(base, clips, work, tmp_path, monkeypatch):
    moments = torch.full((32, 3, 8, 8), float("nan"))
    monkeypatch.setattr(cache_filling, "encode_frames", lambda *_: moments)
    with pytest.raises(OperationError, match=r"0\.mp4 are not finite.*as float32.*variants"):
        encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert not (tmp_path / "latents").exists()


def test_prompts_that_overflow_name_the_prompt(base, clips, work, tmp_path, monkeypatch):
    half = dataclasses.replace(base, dtype="float16")
    huge = torch.full((16, 64), 1e5)
    monkeypatch.setattr(cache_filling, "load_text_encoder", lambda *_: lambda prompt: huge)
    with pytest.raises(OperationError, match=r"prompt '' is not finite.*kept as float16"):
        encode_clips(half, clips, RULES, tmp_path, device=CPU)


@pytest.mark.parametrize("short", [0, 1])
def test_a_full_disk_is_noticed_before_any_work(base, clips, work, tmp_path, monkeypatch, short):
    rules = dataclasses.replace(RULES, first_frames=True)
    latents, prompts, images = 32 * (3 + 3 + 1) * 8 * 8, 3 * 16 * 64, 3 * 64 * 64 * 3
    needed = 4 * (latents + prompts) + images
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - short)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if not short:
        encode_clips(base, clips, rules, tmp_path, device=CPU)
        # By now nothing is needed any more.
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        encode_clips(base, clips, rules, tmp_path, device=CPU)
        return
    with pytest.raises(OperationError, match="needed"):
        encode_clips(base, clips, rules, tmp_path, device=CPU)
    assert not work
    assert not entries(tmp_path)


def test_a_sample_that_was_damaged_meanwhile_comes_back_with_the_next_start(
    base, clips, work, tmp_path
):
    encoded = encode_clips(base, clips, RULES, tmp_path, device=CPU)
    encoded.clips[0].moments.write(torch.full((32, 3, 8, 8), float("inf")))
    with pytest.raises(OperationError, match="start again"):
        encoded.sample(0)
    again = encode_clips(base, clips, RULES, tmp_path, device=CPU)
    assert torch.isfinite(again.sample(0).moments).all()
