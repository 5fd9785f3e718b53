"""Persistence images: against the formula, quadrature, gudhi and the official code."""

import inspect
import json
from dataclasses import replace
from itertools import pairwise

import gudhi.representations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.stats import norm

from topokd_lib.topology import (
    PersistenceDiagrams,
    PersistenceImage,
    drawing,
    images,
    rips_diagrams,
    tgd_official,
)

WEIGHTS = {
    "constant": lambda b, p: 1.0,
    "persistence": lambda b, p: p,
    "tanh": lambda b, p: 10 * np.tanh(p),
    "topkd": lambda b, p: 10 * np.tanh(p) + 10 * np.log(100 * b + 1),
}
PLAIN = PersistenceImage((0.0, 1.0), (0.0, 2.0), bandwidth=0.3, resolution=(5, 4))
TWO = PersistenceDiagrams.from_list(
    [np.array([[0.1, 0.9], [0.3, 2.0], [0.5, 0.6]]), np.array([[0.2, 1.2]])], dimension=1
)


def surface(x, y, bars, image):
    """The persistence surface at one position, bar by bar."""
    h = image.bandwidth
    return sum(
        WEIGHTS[image.weight](b, d - b)
        * np.exp(-((x - b) ** 2 + (y - (d - b)) ** 2) / (2 * h**2))
        / (2 * np.pi * h**2)
        for b, d in np.asarray(bars)
    )


@pytest.fixture(params=["loop", "torch", "without numba"])
def route(request, monkeypatch):
    """Few bars are drawn by a compiled loop, many by torch, and without numba all by torch."""
    if request.param == "loop":
        pytest.importorskip("numba", reason="numba is optional (extra: fast)")
    elif request.param == "torch":
        monkeypatch.setattr(drawing, "_FEW", 0)
    else:
        monkeypatch.setattr(drawing, "compiled", lambda: None)


# Against other computations


@pytest.mark.parametrize("weight", WEIGHTS)
def test_density_is_the_surface_at_the_positions(weight, route):
    image = replace(PLAIN, weight=weight, scale=3.0)
    found = image(TWO)
    assert found.shape == (2, 5, 4)
    for index, bars in enumerate(TWO.to_list()):
        for row, y in enumerate(np.linspace(0, 2, 5)):
            for column, x in enumerate(np.linspace(0, 1, 4)):
                expected = surface(x, y, bars, image) / 3
                np.testing.assert_allclose(found[index, row, column], expected, rtol=1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_mass_is_the_integral_over_the_cells(weight, route):
    image = replace(PLAIN, weight=weight, value="mass", resolution=(3, 2))
    found = image(TWO)
    x, y = np.linspace(0, 1, 3), np.linspace(0, 2, 4)
    for index, bars in enumerate(TWO.to_list()):
        for row in range(3):
            for column in range(2):
                expected, _ = dblquad(
                    lambda p, b, bars=bars: surface(b, p, bars, image),
                    *x[column : column + 2],
                    *y[row : row + 2],
                    epsabs=1e-12,
                )
                np.testing.assert_allclose(found[index, row, column], expected, rtol=1e-9)


@pytest.mark.parametrize("weight", ["constant", "persistence"])
def test_density_is_gudhis(weight):
    image = replace(PLAIN, weight=weight, resolution=(6, 6))
    other = gudhi.representations.PersistenceImage(
        bandwidth=0.3,
        weight=lambda point: WEIGHTS[weight](*point),
        resolution=[6, 6],
        im_range=[0.0, 1.0, 0.0, 2.0],
    )
    expected = other.fit_transform([bars.numpy() for bars in TWO.to_list()])
    np.testing.assert_allclose(image(TWO).flatten(1), expected, rtol=1e-12)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_all_mass_is_in_a_window_that_is_wide_enough(seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64).cumsum(dim=2)
    diagrams = PersistenceDiagrams(pairs, torch.ones(2, 5, dtype=torch.bool), dimension=1)
    image = PersistenceImage((-9.0, 9.0), (-9.0, 9.0), bandwidth=0.5, resolution=(7, 3), value="mass")
    np.testing.assert_allclose(image(diagrams).sum(dim=(1, 2)), diagrams.persistence.sum(dim=1), rtol=1e-12)


def test_density_times_area_tends_to_the_mass():
    fine = {"bandwidth": 0.3, "resolution": (200, 200)}
    mass = PersistenceImage((0.0, 1.0), (0.0, 2.0), value="mass", **fine)(TWO)
    half = (0.5 / 200, 1.0 / 200)
    centres = PersistenceImage((half[0], 1 - half[0]), (half[1], 2 - half[1]), **fine)(TWO)
    np.testing.assert_allclose(mass, centres * (1 / 200) * (2 / 200), rtol=1e-3)


@pytest.mark.parametrize("group", ["normal_64x64", "normal_64x128", "structured_64x64", "structured_64x128"])
def test_official_images(group, golden):
    values = golden("topkd/pd_pi_A")
    points = torch.from_numpy(values[f"{group}/X"]).double()
    for dimension, diagrams in enumerate(rips_diagrams(points, dimensions=(0, 1))):
        key = f"{group}/h{dimension}"
        # The bandwidth depends on the order in which gudhi's simplex tree lists bars that die together.
        bars = [values[f"{key}_points"][a:b] for a, b in pairwise(values[f"{key}_offsets"])]
        listed = PersistenceDiagrams.from_gudhi(bars, dimension, infinite="drop")
        image = PersistenceImage.topkd_official(listed)
        np.testing.assert_allclose(image.bandwidth, values[f"{key}_sigma"], rtol=1e-9)
        np.testing.assert_allclose(
            [*image.birth_range, *image.persistence_range], values[f"{key}_im_range"], rtol=1e-9
        )
        np.testing.assert_allclose(image.scale, values[f"{key}_max"], rtol=1e-9)
        np.testing.assert_allclose(image(diagrams).flatten(1), values[f"{group}/pi{dimension}"], atol=1e-9)


def test_official_images_in_float32(golden):
    values = golden("topkd/pd_pi_A")
    points = torch.from_numpy(values["normal_64x64/X"])
    (diagrams,) = rips_diagrams(points)
    found = PersistenceImage.topkd_official(diagrams)(diagrams)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.flatten(1), values["normal_64x64/pi0"], atol=1e-4)


@pytest.mark.parametrize("edge", range(5))
def test_official_images_of_unusual_clouds(edge, golden):
    values = golden("topkd/pd_pi_A")
    fitted, diagrams = (
        rips_diagrams(
            torch.from_numpy(values[f"{key}/X"]).double().reshape(-1, *values[f"{key}/X"].shape[-2:])
        )[0]
        for key in ("normal_64x64", f"edge{edge}")
    )
    found = PersistenceImage.topkd_official(fitted)(diagrams)
    np.testing.assert_allclose(found.flatten(), values[f"edge{edge}/pi0_frozen"], atol=1e-9)


@pytest.mark.parametrize("part", ["train", "noisy"])
def test_images_of_the_ripsnet_tutorial(part, golden):
    values = golden("topkd/ripsnet_circles_A")
    x_first, x_last, y_first, y_last = values["pi_range"].tolist()
    image = PersistenceImage(
        (x_first, x_last),
        (y_first, y_last),
        float(values["pi_sigma"]),
        resolution=(50, 50),
        weight="tanh",
        scale=float(values["pi_max"]),
    )
    offsets = values[f"{part}_h1_off"]
    bars = [values[f"{part}_h1"][a:b] for a, b in pairwise(offsets)]
    found = image(PersistenceDiagrams.from_list(bars, dimension=1)).flatten(1)
    np.testing.assert_allclose(found, values[f"{part}_pi"], rtol=1e-5, atol=1e-6)


# Properties


@given(st.permutations(range(3)))
@settings(deadline=None, max_examples=10)
def test_order_of_the_bars_does_not_matter(order):
    bars = TWO[0]
    one, other = (PersistenceDiagrams.from_list([b], dimension=1) for b in (bars, bars[order]))
    np.testing.assert_allclose(PLAIN(one), PLAIN(other), rtol=1e-12)


@pytest.mark.parametrize("value", ["density", "mass"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_padding_and_chunks_do_not_matter(weight, value, monkeypatch):
    image = replace(PLAIN, weight=weight, value=value)
    together = image(TWO)
    monkeypatch.setattr(images, "_CHUNK", 1)
    np.testing.assert_allclose(image(TWO), together, rtol=1e-12)
    alone = [image(PersistenceDiagrams.from_list([bars], dimension=1)) for bars in TWO.to_list()]
    np.testing.assert_allclose(torch.cat(alone), together, rtol=1e-12)


def test_no_bar_is_a_dark_image():
    assert not PLAIN(PersistenceDiagrams.from_list([[], []], dimension=1)).any()


def test_dimension_0_has_equal_columns():
    (diagrams,) = rips_diagrams(torch.randn(3, 10, 4))
    image = PersistenceImage.fit(diagrams)
    assert image.birth_range == (0.0, 0.0)
    picture = image(diagrams)
    assert picture.shape == (3, 20, 20)
    assert (picture == picture[..., :1]).all()
    # The tanh and the TopKD weight differ by 10 ln(100 b + 1), which is 0 here.
    one, other = (replace(image, weight=weight)(diagrams) for weight in ("tanh", "topkd"))
    assert torch.equal(one, other)


def test_fitted_images_reach_exactly_one():
    diagrams = rips_diagrams(torch.randn(4, 12, 2, dtype=torch.float64), dimensions=(0, 1))
    for part in diagrams:
        picture = PersistenceImage.fit(part)(part)
        np.testing.assert_allclose(picture.max(), 1, rtol=1e-12)
        assert picture.min() >= 0


def test_fit_takes_the_quantile_of_all_distances_when_the_sample_is_large_enough():
    bars = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    diagrams = PersistenceDiagrams.from_list([bars], dimension=0)
    # Distances 1, 2 and 3, each twice.
    expected = np.quantile([1, 1, 2, 2, 3, 3], 0.2)
    assert PersistenceImage.fit(diagrams).bandwidth == pytest.approx(expected)
    assert PersistenceImage.fit(diagrams, quantile=1.0).bandwidth == pytest.approx(3)
    assert PersistenceImage.fit(diagrams, bandwidth=0.7).bandwidth == 0.7
    assert PersistenceImage.fit(diagrams, normalise=False).scale == 1.0


def test_fit_depends_on_the_seed_only_and_not_on_padding():
    (diagrams,) = rips_diagrams(torch.randn(20, 20, 3))
    fits = [PersistenceImage.fit(diagrams, sample=30, seed=seed) for seed in (0, 0, 1)]
    assert fits[0] == fits[1]
    assert fits[0].bandwidth != fits[2].bandwidth


@pytest.mark.parametrize("birth_range", [(0.0, 1.0), (0.1, 0.1)])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("value", ["density", "mass"])
def test_gradient_with_respect_to_the_bars(route, weight, value, birth_range):
    if value == "mass" and birth_range[0] == birth_range[1]:
        birth_range = (0.0, 0.5)
    image = replace(PLAIN, weight=weight, value=value, birth_range=birth_range)

    def pixels(pairs):
        return image(replace(TWO, pairs=pairs))

    pairs = TWO.pairs.clone().requires_grad_()
    assert torch.autograd.gradcheck(pixels, pairs)
    assert torch.autograd.gradgradcheck(pixels, pairs)


def test_gradient_where_nothing_depends_on_births(route):
    image = replace(PLAIN, weight="topkd", birth_range=(0.0, 0.0))
    pairs = TWO.pairs.clone()
    pairs[..., 0] = 0
    deaths = pairs[..., 1].clone().requires_grad_()

    def pixels(deaths):
        return image(replace(TWO, pairs=torch.stack([torch.zeros_like(deaths), deaths], dim=2)))

    assert torch.autograd.gradcheck(pixels, deaths)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("value", ["density", "mass"])
def test_all_ways_to_draw_give_the_same(weight, value, monkeypatch):
    image = replace(PLAIN, weight=weight, value=value, scale=2.0)
    pictures = []
    for few in (2**14, 0):
        monkeypatch.setattr(drawing, "_FEW", few)
        pairs = TWO.pairs.clone().requires_grad_()
        picture = image(replace(TWO, pairs=pairs))
        (picture * torch.arange(20.0).reshape(5, 4)).sum().backward()
        pictures += [image(TWO), picture.detach(), pairs.grad]
    for one, other in zip(pictures[:3], pictures[3:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_gradient_from_points_to_image():
    points = torch.randn(2, 6, 3, dtype=torch.float64)
    image = PersistenceImage.topkd_official(rips_diagrams(points)[0])

    def pixels(points):
        return image(rips_diagrams(points)[0])

    assert torch.autograd.gradcheck(pixels, points.requires_grad_())


@given(
    st.sampled_from(sorted(WEIGHTS)),
    st.sampled_from(["density", "mass"]),
    st.floats(0.01, 10),
    st.integers(1, 30),
)
@settings(deadline=None, max_examples=30)
def test_settings_survive_json(weight, value, bandwidth, rows):
    image = PersistenceImage((0.0, 0.5), (0.1, 2.0), bandwidth, (rows, 3), weight, value, scale=2.5)
    assert image.pixels == 3 * rows
    assert PersistenceImage.from_dict(json.loads(json.dumps(image.to_dict()))) == image


# What is refused


@pytest.mark.parametrize("death", [np.inf, np.nan])
def test_bars_that_never_end(death):
    diagrams = PersistenceDiagrams(
        torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, death]]]),
        torch.ones(2, 2, dtype=torch.bool),
        dimension=0,
    )
    with pytest.raises(ValueError, match=rf"diagram 1 has the bar .*\(0.0, {death}\).*essential='drop'"):
        PLAIN(diagrams)
    with pytest.raises(ValueError, match=r"infinite bar.*essential='drop'|both are numbers"):
        PersistenceImage.fit(diagrams)


def test_births_before_0_under_the_logarithm():
    diagrams = PersistenceDiagrams.from_list([[[-0.5, 1.0]]], dimension=0)
    with pytest.raises(ValueError, match=r"needs births of at least 0, found -0\.5"):
        replace(PLAIN, weight="topkd")(diagrams)
    assert PLAIN(diagrams).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth .* positive and finite, got 0.0"),
        ({"bandwidth": np.nan}, "bandwidth .* positive and finite, got nan"),
        ({"scale": -1.0}, "scale .* positive and finite, got -1.0"),
        ({"resolution": (20, 0)}, r"\(rows, columns\), at least one each, got \(20, 0\)"),
        ({"birth_range": (1.0, 0.0)}, r"birth_range is \(first, last\).*got \(1.0, 0.0\)"),
        ({"birth_range": (0.0, np.inf)}, "birth_range"),
        ({"persistence_range": (1.0, 1.0)}, "persistence_range .* positive width"),
        ({"persistence_range": (np.nan, 1.0)}, "persistence_range"),
        ({"birth_range": (0.0, 0.0), "value": "mass"}, "cells of width 0 hold no mass"),
        ({"weight": "topk"}, "no weight 'topk'. Did you mean 'topkd'. Known: constant"),
        ({"value": "integral"}, "no value 'integral'. Known: density, mass"),
    ],
)
def test_settings_out_of_range(change, message):
    image = object.__new__(PersistenceImage)
    vars(image).update(vars(PLAIN) | change)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(PersistenceImage.__post_init__)(image)


@pytest.mark.parametrize(
    ("bars", "options", "message"),
    [
        ([[], []], {}, "no bar in these 2 diagrams of dimension 0"),
        ([[[0.0, 1.0]]], {}, "no two of the 1 bars are more than 1e-05 apart; give bandwidth"),
        ([[[0.0, 1.0]] * 4], {}, "no two of the 4 bars"),
        ([[[0.0, 1.0]] * 4], {"bandwidth": 0.1}, "persistence_range .* positive width"),
        ([[[0.0, 1.0], [0.0, 2.0]]], {"quantile": 1.5}, "quantile=1.5"),
        ([[[0.0, 1.0], [0.0, 2.0]]], {"sample": 1}, "sample=1"),
        ([[[0.0, 1.0], [0.0, 2.0]]], {"value": "mass"}, "take value='density', or a range such as"),
    ],
)
def test_diagrams_that_nothing_can_be_fitted_to(bars, options, message):
    with pytest.raises(ValueError, match=message):
        PersistenceImage.fit(PersistenceDiagrams.from_list(bars, dimension=0), **options)


def test_images_without_light_cannot_be_normalised():
    far = PersistenceDiagrams.from_list([[[0.0, 1e6]]], dimension=0)
    with pytest.raises(ValueError, match=r"largest pixel .* is 0\.0, nothing to normalise by"):
        PLAIN.normalised(far)


def test_settings_that_are_missing_or_unknown():
    wrong = PLAIN.to_dict() | {"sigma": 1.0}
    del wrong["bandwidth"]
    with pytest.raises(ValueError, match=r"missing: \['bandwidth'\], unknown: \['sigma'\]"):
        PersistenceImage.from_dict(wrong)


# TGD's images


@pytest.mark.parametrize("scan", ["row", "col"])
def test_official_images_of_tgd(scan, golden):
    values = golden("tgd/pi_golden")
    bars = [values[f"dgm_{scan}"][a:b] for a, b in pairwise(values[f"dgm_{scan}_offsets"])]
    diagrams = PersistenceDiagrams.from_list(bars, dimension=0)
    found = tgd_official(diagrams).reshape(12, 3, 50, 50).permute(0, 2, 3, 1).numpy()
    expected = values[f"pi_u8_{scan}"]
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).sum() <= 3
    # Black where the official code divides nothing but tails.
    dark = values[f"pi_raw_{scan}"].max(axis=(2, 3)).reshape(-1) < 1e-6
    found = tgd_official(diagrams, faintest=1e-6)
    assert found[torch.from_numpy(dark)].sum() == 0
    assert (found[torch.from_numpy(~dark)].amax(dim=(1, 2)) == 255).all()


def test_tgd_draws_each_bar_by_the_formula():
    diagrams = PersistenceDiagrams.from_list([np.array([[0.05, 0.15], [0.2, 0.25]])], dimension=0)
    lower = np.linspace(0, 0.3, 50)
    expected = np.zeros((50, 50))
    for birth, persistence in ((0.05, 0.1), (0.2, 0.05)):
        along, across = (
            norm.cdf(lower + 0.006, centre, 0.01) - norm.cdf(lower, centre, 0.01)
            for centre in (persistence, birth)
        )
        expected += persistence * np.outer(along[::-1], across)
    expected = (expected / expected.max() * 255).astype(np.uint8)
    np.testing.assert_allclose(tgd_official(diagrams)[0].numpy().astype(int), expected, atol=1)


def test_tgd_leaves_out_short_and_essential_bars(monkeypatch):
    lonely = [[0.1, 0.2]]
    crowded = [[0.1, 0.2], [0.1, 0.12], [0.0, np.inf], [0.15, 0.15]]
    diagrams = PersistenceDiagrams.from_list([lonely, crowded, [], [[0.1, 0.11]]], dimension=0)
    found = tgd_official(diagrams)
    assert torch.equal(found[0], found[1])
    assert not found[2:].any()
    monkeypatch.setattr(images, "_CHUNK", 1)
    assert torch.equal(tgd_official(diagrams), found)


def test_tgd_draws_tails_at_full_brightness_unless_told_otherwise():
    bright = PersistenceDiagrams.from_list([np.array([[0.4, 0.5]])], dimension=0)
    assert tgd_official(bright).max() == 255
    assert not tgd_official(bright, faintest=1e-6).any()


@pytest.mark.parametrize("faintest", [-1.0, np.nan])
def test_tgd_images_fainter_than_nothing(faintest):
    with pytest.raises(ValueError, match=f"largest value of at least 0, got {faintest}"):
        tgd_official(TWO, faintest=faintest)
