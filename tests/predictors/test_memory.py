"""Which way of holding a model is chosen for which card."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.memory import (
    CHOICES,
    MARGIN,
    compute_dtype,
    cpu_policy,
    encoding_policy,
    memory_choice,
    memory_policy,
    usable_memory,
)
from predictors.memory_estimate import (
    PLACEMENTS,
    VideoSize,
    estimated_peak,
    largest_video,
    text_encoder_only,
    variant_sizes,
    without_text_encoder,
)
from weights.errors import UserError
from weights.variants import VARIANTS


def policy(name, card, **options):
    variant = VARIANTS[name]
    sizes = variant_sizes(variant, variant.dtype)
    return memory_policy(variant, sizes, usable_memory(card), **options)


@pytest.mark.parametrize(
    ("name", "card", "placement", "tiling"),
    [
        ("cogvideox-5b", 80, "resident", False),
        ("cogvideox-5b", 48, "resident", True),
        ("cogvideox-5b", 24, "model-offload", True),
        ("cogvideox-5b", 12, "group-offload", True),
        ("cogvideox-2b", 24, "resident", True),
        ("cogvideox1.5-5b", 80, "resident", True),
        ("cogvideox1.5-5b", 24, "group-offload", True),
        ("nano", 4, "resident", False),
    ],
)
def test_the_fastest_way_that_fits_a_card_is_chosen(name, card, placement, tiling):
    chosen = policy(name, card)
    assert (chosen.placement, chosen.vae_tiling, chosen.warning) == (placement, tiling, "")
    assert chosen.device == "cuda"


@given(st.sampled_from(sorted(VARIANTS)), st.integers(1, 120 * 10**9))
def test_what_is_chosen_fits_with_a_margin_or_is_warned_of(name, free):
    variant = VARIANTS[name]
    sizes = variant_sizes(variant, variant.dtype)
    chosen = memory_policy(variant, sizes, free)
    needed = estimated_peak(
        variant, sizes, chosen.placement, largest_video(variant), vae_tiling=chosen.vae_tiling
    )
    assert bool(chosen.warning) == (needed * MARGIN > free)
    more = memory_policy(variant, sizes, 2 * free)
    assert chosen.warning or PLACEMENTS.index(more.placement) <= PLACEMENTS.index(chosen.placement)


def test_the_reason_is_one_line_with_the_numbers():
    assert policy("cogvideox-5b", 24).reason == (
        "each part on the GPU only while it works (model offload): 49 frames of 720×480 need "
        "14.1 GB of 24.0 GB free (resident would need 27.7 GB to be safe); VAE tiling on"
    )
    assert policy("nano", 24).reason == (
        "resident on the GPU: 9 frames of 64×64 need 0.1 GB of 24.0 GB free; VAE tiling off"
    )


def test_where_the_longest_video_does_not_fit_the_usual_one_is_planned_for():
    chosen = policy("cogvideox1.5-5b", 12)
    assert chosen.placement == "group-offload"
    assert "81 frames" in chosen.reason
    assert chosen.warning == (
        "Requests larger than 81 frames of 1360×768 may fail for want of GPU memory."
    )


def test_where_nothing_fits_it_goes_layer_by_layer_with_a_warning():
    chosen = policy("cogvideox-5b", 2)
    assert chosen.placement == "sequential"
    assert chosen.warning == ("Requests may fail for want of GPU memory. No other choice is safe.")


def test_a_smaller_video_allows_a_faster_way():
    small = VideoSize(17, 768, 768)
    assert policy("cogvideox1.5-5b", 24, video=small).placement == "model-offload"


@pytest.mark.parametrize("choice", PLACEMENTS)
def test_the_operators_choice_is_followed_and_named(choice):
    chosen = policy("cogvideox-5b", 80, choice=choice)
    assert (chosen.placement, chosen.warning) == (choice, "")
    assert "as COGVIDEOX_MEMORY says" in chosen.reason


def test_a_choice_that_does_not_fit_is_followed_with_a_warning_of_what_would():
    chosen = policy("cogvideox-5b", 24, choice="resident")
    assert chosen.placement == "resident"
    assert chosen.warning == (
        "Requests may fail for want of GPU memory. COGVIDEOX_MEMORY=model-offload is safe."
    )


@pytest.mark.parametrize("choice", CHOICES)
def test_the_environment_names_the_choice(choice):
    assert memory_choice({"COGVIDEOX_MEMORY": choice}) == choice


@pytest.mark.parametrize("environment", [{}, {"COGVIDEOX_MEMORY": ""}])
def test_without_a_setting_it_is_automatic(environment):
    assert memory_choice(environment) == "auto"


def test_another_setting_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match="must be one of auto, resident, model-offload, group-off"):
        memory_choice({"COGVIDEOX_MEMORY": "cpu"})


def test_a_machine_without_a_gpu_has_nowhere_to_move_anything():
    chosen = cpu_policy()
    assert (chosen.placement, chosen.device, chosen.vae_tiling) == ("resident", "cpu", True)
    assert chosen.warning == ""
    assert "no effect without a CUDA device" in cpu_policy("sequential").warning


@pytest.mark.parametrize(
    ("stored", "device", "int8", "dtype"),
    [
        ("float16", "cuda", False, "float16"),
        ("bfloat16", "cuda", False, "bfloat16"),
        ("float16", "cuda", True, "bfloat16"),
        ("float16", "cpu", False, "float32"),
        ("bfloat16", "cpu", True, "float32"),
    ],
)
def test_the_dtype_follows_weights_device_and_quantisation(stored, device, int8, dtype):
    assert compute_dtype(stored, device, int8=int8) == dtype


def test_without_its_text_encoder_a_model_fits_where_it_did_not():
    variant = VARIANTS["cogvideox-5b"]
    sizes = variant_sizes(variant, variant.dtype)
    free = usable_memory(24)
    assert memory_policy(variant, sizes, free).placement == "model-offload"
    alone = memory_policy(variant, without_text_encoder(sizes), free)
    assert (alone.placement, alone.warning) == ("resident", "")
    assert sizes.text_encoder.total > 9e9


def test_a_batch_is_planned_for():
    single, four = (policy("cogvideox-5b", 24, batch=batch) for batch in (1, 4))
    variant = VARIANTS["cogvideox-5b"]
    sizes = variant_sizes(variant, variant.dtype)
    needed = estimated_peak(
        variant, sizes, four.placement, largest_video(variant), vae_tiling=True, passes=8
    )
    assert needed * MARGIN <= usable_memory(24)
    assert PLACEMENTS.index(four.placement) > PLACEMENTS.index(single.placement)
    assert "4 videos at once of 49 frames" in four.reason


def encoding(name, card, **options):
    variant = VARIANTS[name]
    sizes = text_encoder_only(variant_sizes(variant, variant.dtype))
    return encoding_policy(variant, sizes, usable_memory(card), prompts=16, **options)


@pytest.mark.parametrize(
    ("card", "placement"), [(24, "resident"), (12, "resident"), (8, "group-offload")]
)
def test_a_text_encoder_alone_is_held_as_fast_as_it_fits(card, placement):
    chosen = encoding("cogvideox-5b", card)
    assert (chosen.placement, chosen.warning, chosen.vae_tiling) == (placement, "", False)
    assert chosen.peak * MARGIN <= usable_memory(card)
    assert "16 prompts need" in chosen.reason


def test_for_a_text_encoder_too_the_operators_offloading_is_followed():
    assert encoding("cogvideox-5b", 80, choice="sequential").placement == "sequential"
    assert encoding("cogvideox-5b", 80, choice="group-offload").placement == "group-offload"
    assert encoding("cogvideox-5b", 80, choice="model-offload").placement == "resident"


def test_a_text_encoder_that_does_not_fit_is_warned_of():
    chosen = encoding("cogvideox-5b", 0.5)
    assert chosen.placement == "sequential"
    assert "Encoding prompts may fail" in chosen.warning
