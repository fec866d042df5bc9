"""The fit of ideal masks, against masks painted point by point."""

import numpy as np
import pytest

from training.nano.outline import centroids, fit_outline, half_way, measure_blemish, measure_edge
from training.nano.scenes import SHAPES, SIZE, coverage, gauge

FINE = (np.arange(2 * SIZE) + 0.5) / 2


def ideal(shape, x, y, radius):
    return (gauge(shape, FINE[None, :] - x, FINE[:, None] - y) <= radius)[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_ideal_mask_fits_itself(shape):
    masks = np.concatenate([ideal(shape, 30.25, 33.5, 9.0), ideal(shape, 25.0, 40.75, 9.0)])
    fit = fit_outline(masks, shape)
    assert fit.centres.tolist() == [[30.25, 33.5], [25.0, 40.75]]
    assert fit.radius == pytest.approx(9.0, abs=0.3)
    assert fit.ious.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", SHAPES)
def test_the_iou_is_that_of_the_masks(shape, other):
    masks = ideal(other, 30.1, 33.4, 9.3)
    fit = fit_outline(masks, shape)
    own = ideal(shape, *fit.centres[0], fit.radius)
    assert fit.ious[0] == pytest.approx((own & masks).sum() / (own | masks).sum())


def test_sizes_that_scenes_do_not_have_do_not_fit():
    assert fit_outline(ideal("circle", 32, 32, 5.0), "circle").ious[0] < 0.6


def test_one_radius_holds_for_all_frames():
    masks = np.concatenate([ideal("circle", 32, 32, 8.0), ideal("circle", 32, 32, 11.0)])
    assert fit_outline(masks, "circle").ious.min() < 0.8


def test_half_way_finds_edges_between_pixels():
    covered = coverage("square", np.array([[32.0, 32.0], [32.25, 31.5]]), 9.0)
    assert np.allclose(centroids(half_way(covered)), [[32, 32], [32.25, 31.5]], atol=0.25)


def test_a_clean_object_has_no_blemish_and_a_narrow_edge():
    covered = coverage("triangle", np.array([[32.0, 32.0]]), 10.0)
    fit = fit_outline(half_way(covered), "triangle")
    assert measure_blemish(fit, covered, 1 - covered) == 0
    assert measure_edge(fit, covered) < 1


def test_a_blemish_is_measured_by_its_area():
    covered = coverage("circle", np.array([[32.0, 32.0]]), 10.0)
    fit = fit_outline(half_way(covered), "circle")
    covered[0, 2:6, 2:6] = 1
    covered[0, 31:33, 31:33] = 0
    assert measure_blemish(fit, covered, 1 - covered) == pytest.approx(20 / (np.pi * 100), rel=0.1)
