"""Which layouts there are for a number of devices, and what each gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.memory_estimate import VideoSize, largest_video
from sampling.parallel.layouts import (
    Layout,
    chosen_layout,
    legal_devices,
    parallel_layouts,
    share,
    video_tokens,
)
from weights.errors import UserError
from weights.variants import VARIANTS

B2, B5, NANO = VARIANTS["cogvideox-2b"], VARIANTS["cogvideox-5b"], VARIANTS["nano"]
V15 = VARIANTS["cogvideox1.5-5b"]
VIDEO = VideoSize(49, 720, 480)


def layouts(*pairs):
    return tuple(Layout(ulysses=ulysses, cfg=cfg) for ulysses, cfg in pairs)


@pytest.mark.parametrize(
    ("variant", "devices", "expected"),
    [
        (B5, 1, layouts((1, 1))),
        (B5, 2, layouts((1, 2), (2, 1))),
        (B5, 3, layouts((3, 1))),
        (B5, 4, layouts((2, 2), (4, 1))),
        (B5, 5, ()),
        (B5, 8, layouts((4, 2), (8, 1))),
        (B2, 4, layouts((2, 2))),  # 30 heads on four devices: no
        (B2, 8, ()),
        (NANO, 4, layouts((2, 2))),
        (B5, 0, ()),
        (B5, -2, ()),
    ],
)
def test_layouts_with_split_guidance_first(variant, devices, expected):
    assert parallel_layouts(variant, devices, largest_video(variant)) == expected


def test_without_guidance_there_is_one_pass():
    assert parallel_layouts(B5, 2, VIDEO, guidance=False) == layouts((2, 1))
    assert parallel_layouts(B2, 4, VIDEO, guidance=False) == ()
    assert legal_devices(NANO, largest_video(NANO)) == (1, 2, 4)
    assert legal_devices(NANO, largest_video(NANO), guidance=False) == (1, 2)


@given(st.sampled_from(list(VARIANTS.values())), st.integers(1, 100), st.booleans(), st.booleans())
def test_all_that_is_legal_is_found(variant, devices, guidance, small):
    video = VideoSize(9, 64, 64) if small else largest_video(variant)
    found = {
        (layout.ulysses, layout.cfg)
        for layout in parallel_layouts(variant, devices, video, guidance=guidance)
    }
    tokens = min(variant.text_tokens, video_tokens(variant, video))
    assert found == {
        (ulysses, cfg)
        for ulysses in range(1, devices + 1)
        for cfg in ((1, 2) if guidance else (1,))
        if ulysses * cfg == devices and variant.num_heads % ulysses == 0 and ulysses <= tokens
    }
    assert (devices in legal_devices(variant, video, guidance=guidance)) == bool(found)


@pytest.mark.parametrize(
    ("variant", "devices", "nearest"),
    [(B2, 8, "Use 6 or 10."), (B5, 7, "Use 6 or 8."), (NANO, 9, "Use 4."), (B5, 0, "Use 1.")],
)
def test_a_number_without_layout_is_refused_with_the_nearest(variant, devices, nearest):
    with pytest.raises(UserError) as refusal:
        chosen_layout(variant, devices, largest_video(variant))
    assert refusal.value.remedy == nearest
    assert f"{variant.num_heads} heads" in refusal.value.expected


def test_the_first_layout_is_chosen():
    assert chosen_layout(B5, 4, VIDEO) == Layout(ulysses=2, cfg=2)
    assert chosen_layout(B5, 4, VIDEO, guidance=False) == Layout(ulysses=4, cfg=1)


def test_tokens_of_published_sizes():
    # 13 latent frames of 30 by 45 patches; 1.5 patches two frames, of 21 and one of padding.
    assert video_tokens(B5, VIDEO) == 17_550
    assert video_tokens(V15, VideoSize(81, 1360, 768)) == 11 * 48 * 85


def test_a_share_is_the_largest_one():
    even = share(B5, Layout(ulysses=2, cfg=1), VIDEO)
    assert (even.heads, even.text_tokens, even.video_tokens) == (24, 113, 8775)
    assert (even.passes, even.uneven) == (2, False)
    uneven = share(B5, Layout(ulysses=4, cfg=2), VIDEO)
    assert (uneven.heads, uneven.text_tokens, uneven.video_tokens) == (12, 57, 4388)
    assert (uneven.passes, uneven.uneven) == (1, True)
    assert share(B5, Layout(ulysses=2, cfg=1), VIDEO, guidance=False).passes == 1
