"""Cubical persistence: against gudhi's values, in both constructions, with gradients."""

import sys
from importlib.util import find_spec

import gudhi
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.topology import cubical, cubical_diagrams, merging

quick = settings(max_examples=40)
GREY = st.integers(0, 6).map(float)
CONSTRUCTIONS = ["vertices", "top-cells"]
NUMBA = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed (extra: fast)")
ENGINES = ["gudhi", pytest.param("numba", marks=NUMBA)]


def images():
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
    volumes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
    return hnp.arrays(np.float64, st.one_of(shapes, volumes), elements=GREY).map(torch.from_numpy)


def gudhi_diagram(image, construction, dimension):
    option = "vertices" if construction == "vertices" else "top_dimensional_cells"
    grid = gudhi.CubicalComplex(**{option: image.numpy()})
    grid.compute_persistence()
    return in_order(grid.persistence_intervals_in_dimension(dimension).reshape(-1, 2))


def in_order(bars):
    bars = np.asarray(bars)
    return bars[np.lexsort(bars.T)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gradient", [False, True])
@given(batch=images(), construction=st.sampled_from(CONSTRUCTIONS), superlevel=st.booleans())
@quick
def test_diagrams_are_those_of_gudhi(engine, gradient, batch, construction, superlevel):
    if engine == "numba" and batch.ndim > 3:
        engine = "auto"
    found = cubical_diagrams(
        batch.requires_grad_(gradient),
        construction=construction,
        dimensions=(1, 0, 2),
        superlevel=superlevel,
        essential="keep",
        engine=engine,
    )
    batch = batch.detach()
    for diagrams in found:
        for ours, image in zip(diagrams.to_list(), -batch if superlevel else batch, strict=True):
            theirs = gudhi_diagram(image, construction, diagrams.dimension)
            np.testing.assert_array_equal(in_order(ours.detach()), theirs)


@given(hnp.arrays(np.float64, (2, 4, 5), elements=GREY).map(torch.from_numpy))
@quick
def test_the_two_constructions_are_dual(batch):
    """Alexander duality: holes of pixels joined by sides are components of the rest joined by corners.

    The rest reaches round the image, so that a frame brighter than all pixels stands for the outside.
    """
    framed = torch.nn.functional.pad(batch, (1, 1, 1, 1), value=10.0)
    (holes,) = cubical_diagrams(framed, construction="vertices", dimensions=(1,))
    (parts,) = cubical_diagrams(framed, construction="top-cells", dimensions=(0,), superlevel=True)
    for hole, part in zip(holes.to_list(), parts.to_list(), strict=True):
        np.testing.assert_array_equal(in_order(hole), in_order(-part.flip(1)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("superlevel", [False, True])
def test_gradients(engine, construction, superlevel):
    pixels = torch.randperm(48).double().reshape(2, 4, 6).requires_grad_()

    def lengths(values):
        found = cubical_diagrams(values, construction=construction, superlevel=superlevel, engine=engine)
        return tuple(diagrams.persistence.square() for diagrams in found)

    assert all(part.numel() for part in lengths(pixels))
    assert torch.autograd.gradcheck(lengths, (pixels,))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_by_hand(engine):
    """The valley 2.5 meets the valley 1 over the pixel 7, and both meet the valley 0 over the pixel 8."""
    image = torch.tensor([[[0.0, 9.0, 1.0], [8.0, 7.5, 7.0], [2.5, 3.0, 4.0]]], requires_grad=True)
    (h0,) = cubical_diagrams(image, construction="vertices", dimensions=(0,), engine=engine)
    assert in_order(h0[0].detach()).tolist() == [[2.5, 7.0], [1.0, 8.0]]
    h0.persistence.sum().backward()
    assert image.grad.tolist() == [[[0, 0, -1], [1, 0, 1], [-1, 0, 0]]]


@NUMBA
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_engines_name_the_same_pixels(construction):
    """All pixels differ, so that there is nothing to choose."""
    pixels = torch.randperm(600).float().reshape(2, 15, 20)
    gradients = []
    for engine in ("gudhi", "numba"):
        leaf = pixels.clone().requires_grad_()
        found = cubical_diagrams(leaf, construction=construction, engine=engine)
        sum(((k + 1) * diagrams.pairs).square().sum() for k, diagrams in enumerate(found)).backward()
        gradients.append(leaf.grad)
    assert gradients[0].count_nonzero() > 300
    assert torch.equal(*gradients)


@NUMBA
def test_auto_takes_the_engine_that_is_faster(monkeypatch):
    used = []
    for name in ("_values", "_merged_places", "_critical_pixels"):
        original = getattr(cubical, name)
        monkeypatch.setattr(
            cubical, name, lambda *args, name=name, original=original: used.append(name) or original(*args)
        )

    def engine(construction, *, gradient, shape=(1, 3, 3)):
        used.clear()
        cubical_diagrams(torch.rand(shape, requires_grad=gradient), construction=construction)
        return used[0]

    assert engine("top-cells", gradient=False) == "_values"
    assert engine("top-cells", gradient=True) == "_merged_places"
    assert engine("vertices", gradient=False) == "_merged_places"
    assert engine("vertices", gradient=True, shape=(1, 3, 3, 3)) == "_critical_pixels"
    monkeypatch.setattr(cubical, "find_spec", lambda name: None)
    assert engine("vertices", gradient=True) == "_critical_pixels"
    assert engine("vertices", gradient=False) == "_values"
    with torch.no_grad():
        assert engine("top-cells", gradient=True) == "_values"


@NUMBA
def test_code_is_compiled_anew_where_it_cannot_be_kept(monkeypatch):
    import numba

    def njit(*, nogil, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    merging._compiled_sweep.cache_clear()
    image = torch.tensor([[[0.0, 9.0, 1.0], [8.0, 7.5, 7.0], [2.5, 3.0, 4.0]]])
    (h0,) = cubical_diagrams(image, construction="vertices", dimensions=(0,), engine="numba")
    assert in_order(h0[0]).tolist() == [[2.5, 7.0], [1.0, 8.0]]
    merging._compiled_sweep.cache_clear()


def test_numba_is_asked_for_and_not_there(monkeypatch):
    merging._compiled_sweep.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"needs numba.*topokd-lib\[fast\].*engine='gudhi'"):
        cubical_diagrams(torch.zeros(1, 2, 2), construction="vertices", engine="numba")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_that_of_the_images(dtype):
    image = torch.tensor([[[0.0, 2.0, 1.0], [2.0, 2.0, 2.0]]], dtype=dtype)
    (h0,) = cubical_diagrams(image, construction="vertices", dimensions=(0,))
    assert h0.pairs.dtype == dtype
    assert h0[0].tolist() == [[1.0, 2.0]]


def test_a_constant_image_has_no_finite_bars():
    for diagrams in cubical_diagrams(torch.ones(2, 5, 5), construction="top-cells"):
        assert diagrams.counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(3, 3), {}, r"got shape \(3, 3\); add a batch axis"),
        (torch.zeros(0, 3, 3), {}, "no axis may be 0"),
        (torch.zeros(1, 3, 3, dtype=torch.uint8), {}, r"got torch.uint8; convert with images.float\(\)"),
        (torch.full((1, 2, 2), float("nan")), {}, r"nan at .* = \(0, 0, 0\) \(4 such values"),
        (torch.zeros(1, 2, 2), {"construction": "pixels"}, "'vertices' or 'top-cells' .*, got 'pixels'"),
        (torch.zeros(1, 2, 2), {"dimensions": ()}, "one or more different numbers"),
        (torch.zeros(1, 2, 2), {"essential": "all"}, "'drop' or 'keep', got 'all'"),
        (torch.zeros(1, 2, 2), {"engine": "cripser"}, "'auto', 'gudhi' or 'numba', got 'cripser'"),
        (torch.zeros(1, 2, 2, 2), {"engine": "numba"}, "not on volumes; take engine='gudhi'"),
    ],
)
def test_wrong_input_is_refused(unchecked, images, options, message):
    with pytest.raises(ValueError, match=message):
        cubical_diagrams(images, **{"construction": "vertices", **options})


def test_the_construction_is_asked_for(unchecked):
    with pytest.raises(TypeError, match="construction"):
        cubical_diagrams(torch.zeros(1, 2, 2))
