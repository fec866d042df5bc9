"""Requests are checked against the variant's rules, and blanks are filled in."""

import pytest

from predictors.request import MAX_SEED, validate
from weights.errors import UserError
from weights.variants import VARIANTS

NANO, FIVE_B, NEWER = VARIANTS["nano"], VARIANTS["cogvideox-5b"], VARIANTS["cogvideox1.5-5b"]
GOOD = {
    "prompt": "a panda",
    "num_inference_steps": 50,
    "guidance_scale": 6,
    "num_frames": None,
    "seed": 1,
}


@pytest.mark.parametrize(("variant", "frames"), [(NANO, 9), (FIVE_B, 49), (NEWER, 81)])
def test_blank_frames_are_the_variants_own(variant, frames):
    assert validate(variant, **GOOD).num_frames == frames


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_legal_frame_count_is_taken(variant):
    for frames in variant.legal_frames:
        assert validate(variant, **GOOD | {"num_frames": frames}).num_frames == frames


@pytest.mark.parametrize(
    ("variant", "frames", "message"),
    [
        (NANO, 12, "num_frames is 12. nano makes 9 frames. Use 9,"),
        (FIVE_B, 12, "cogvideox-5b makes 9, 17, … 49 frames, in steps of 8. Use 9 or 17,"),
        (FIVE_B, 8, "Use 9,"),
        (FIVE_B, 50, "Use 49,"),
        (NEWER, 81.5, "num_frames is 81.5. It must be a whole number"),
        (NEWER, 90, "Use 81 or 97,"),
    ],
)
def test_other_frame_counts_are_refused_with_the_nearest(variant, frames, message):
    with pytest.raises(UserError) as caught:
        validate(variant, **GOOD | {"num_frames": frames})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", ""),
        ("prompt", " \n"),
        ("num_inference_steps", 0),
        ("num_inference_steps", 501),
        ("num_inference_steps", 2.5),
        ("num_inference_steps", float("nan")),
        ("guidance_scale", 0.9),
        ("guidance_scale", 20.1),
        ("guidance_scale", float("nan")),
        ("num_frames", 0),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("seed", 1.5),
        ("fps", -1),
        ("fps", 61),
        ("fps", 7.5),
        ("width", 63),
        ("height", 480),
        ("scheduler", "euler"),
        ("lora_scale", 4.1),
        ("lora_scale", float("nan")),
        ("speed", "ludicrous"),
        ("output_format", "avi"),
        ("output_quality", 0),
        ("output_quality", 101),
        ("image_fit", "tile"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"^{name} is "):
        validate(NANO, **GOOD | {name: value})


def test_whole_numbers_may_come_as_floats():
    request = validate(NANO, **GOOD | {"num_inference_steps": 2.0, "num_frames": 9.0, "seed": 7.0})
    assert (request.num_inference_steps, request.num_frames, request.seed) == (2, 9, 7)
    assert all(type(n) is int for n in (request.num_inference_steps, request.num_frames))


def test_blank_seeds_are_drawn_from_the_whole_range():
    seeds = {validate(NANO, **GOOD | {"seed": None}).seed for _ in range(200)}
    assert len(seeds) > 190
    assert max(seeds) > 1 << 24
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


@pytest.mark.parametrize(
    ("variant", "scheduler", "dynamic"),
    [("cogvideox-2b", "ddim", False), ("cogvideox-5b", "dpm", True), ("nano", "dpm", True)],
)
def test_blank_scheduler_and_guidance_are_what_the_authors_use(variant, scheduler, dynamic):
    request = validate(VARIANTS[variant], **GOOD)
    assert (request.scheduler, request.dynamic_guidance) == (scheduler, dynamic)


@pytest.mark.parametrize("scheduler", ["dpm", "ddim"])
@pytest.mark.parametrize("dynamic", [None, True, False])
def test_guidance_is_dynamic_with_dpm_unless_said_otherwise(scheduler, dynamic):
    request = validate(NANO, **GOOD, scheduler=scheduler, dynamic_guidance=dynamic)
    assert request.scheduler == scheduler
    assert request.dynamic_guidance == (scheduler == "dpm" if dynamic is None else dynamic)


@pytest.mark.parametrize(("variant", "fps"), [(NANO, 8), (NEWER, 16)])
def test_no_fps_is_the_variants_own(variant, fps):
    assert validate(variant, **GOOD).fps == fps
    assert validate(variant, **GOOD, fps=24.0).fps == 24


def test_a_gif_plays_at_50_at_most():
    assert validate(NANO, **GOOD, fps=60).fps == 60
    assert validate(NANO, **GOOD, fps=50, output_format="gif").fps == 50
    with pytest.raises(UserError, match=r"^fps is 51\. It must be a whole number from 0 to 50"):
        validate(NANO, **GOOD, fps=51, output_format="gif")


def test_an_image_settles_the_size_where_the_variant_leaves_it_open():
    newer_i2v = VARIANTS["cogvideox1.5-5b-i2v"]
    upright = validate(newer_i2v, **GOOD, image_size=(900, 1600))
    assert (upright.width, upright.height) == (768, 1360)
    assert validate(newer_i2v, **GOOD, image_size=(500, 500)).width == 768


def test_what_is_refused_names_what_is_allowed():
    with pytest.raises(UserError, match="must be one of auto, dpm, ddim"):
        validate(NANO, **GOOD, scheduler="euler")
