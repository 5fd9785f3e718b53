"""CAT-KD: official values with and without normalisation and binarisation, and what maps mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.objectives import CATKD, activation_map_loss, binary_maps
from topokd_lib.outputs import ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

CASES = {
    "a_norm": {"normalise": True},
    "b_raw_c100": {},
    "e_binarise": {"normalise": True, "binarise": True},
}


def maps(features, weights):
    """Class activation maps of a classifier without bias."""
    return F.conv2d(features, weights[:, :, None, None])


@pytest.mark.parametrize("case", CASES)
def test_the_official_code_agrees(golden, case):
    """Down to the gradient of the last map and of the classifier."""
    values = golden(f"kd_modern/catkd__{case}")
    features, weights = leaf(values["in__fs"]), leaf(values["in__Ws"])
    taught = maps(*(torch.tensor(values[f"in__{name}"]).double() for name in ("ft", "Wt")))
    seen = maps(features, weights)
    np.testing.assert_allclose(seen.detach().mean(dim=(2, 3)), values["out__logits_s"], rtol=1e-6, atol=1e-9)
    objective = CATKD(toy_pair(), **CASES[case])
    logits = torch.zeros(len(seen), 5)
    loss = objective(ModelOutput(logits, {"cam": seen}), ModelOutput(logits, {"cam": taught}), toy_batch())
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(features, values, "fs")
    assert_modern_gradient(weights, values, "Ws")


@pytest.mark.parametrize("case", CASES)
def test_the_official_code_agrees_in_single_precision(golden, case):
    values = golden(f"kd_modern/catkd__{case}")
    seen, taught = (
        maps(*(torch.tensor(values[f"in__{name}{side}"]) for name in "fW")) for side in ("s", "t")
    )
    options = dict(CASES[case])
    taught = binary_maps(taught) if options.pop("binarise", False) else taught
    found = activation_map_loss(seen, taught, **options)
    np.testing.assert_allclose(found, values["out__loss_f32"], rtol=2e-5)


def test_four_cells_by_hand():
    """Differences are (-1, 2, 1, 4); the cosine between the two is 1/√22."""
    seen, taught = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]]), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    assert activation_map_loss(seen, taught).item() == 22 / 4
    found = activation_map_loss(seen, taught, normalise=True).item()
    assert found == pytest.approx((2 - 2 / 22**0.5) / 4)


@given(factor=st.floats(0.01, 100))
def test_normalised_maps_have_no_scale(factor):
    torch.manual_seed(0)
    seen, taught = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    found = activation_map_loss(factor * seen, taught, normalise=True)
    torch.testing.assert_close(found, activation_map_loss(seen, taught, normalise=True))
    raw = activation_map_loss(factor * seen, factor * taught)
    torch.testing.assert_close(raw, factor**2 * activation_map_loss(seen, taught))


def test_at_one_cell_it_is_the_difference_of_logits():
    pair, batch = toy_pair(), toy_batch()
    outputs = toy_outputs(pair, batch, student_features=("cam",), teacher_features=("cam",))
    found = CATKD(pair, resolution=1)(*outputs, batch)
    torch.testing.assert_close(found, F.mse_loss(outputs[0].logits, outputs[1].logits))


def test_binary_maps_say_where_and_not_how_much():
    taught = torch.randn(2, 3, 8, 8)
    assert set(binary_maps(taught).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(binary_maps(17 * taught), binary_maps(taught))


def test_empty_maps_have_no_direction_and_a_finite_gradient():
    seen = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = activation_map_loss(seen, torch.randn(2, 3, 4, 4), normalise=True)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 4)  # unit length, spread over four cells
    assert torch.equal(seen.grad, torch.zeros_like(seen))


@pytest.mark.parametrize("resolution", [0, 5])
def test_a_resolution_that_maps_do_not_have_is_refused(resolution):
    with pytest.raises(
        ValueError, match=f"student's are 4×4, the teacher's 4×4, and {resolution} was .* 1 to 4"
    ):
        CATKD(toy_pair(), resolution=resolution)


def test_pair_that_does_not_fit_is_refused(unchecked):
    pair = toy_pair()
    alone = Pair(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="CAT-KD compares the student with a teacher, and this run has none"):
        CATKD(alone)
    with pytest.raises(ValueError, match=r"same images and classes: .*\(2, 3, 4, 4\), .*\(2, 5, 4, 4\)"):
        activation_map_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))


def test_networks_for_different_classes_are_refused():
    pair, other = toy_pair(), toy_pair()
    other.teacher.model.num_classes = 7
    fitting = Pair(
        pair.student, other.teacher, pair.student_shapes, pair.teacher_shapes, pair.train_labels, 8
    )
    with pytest.raises(ValueError, match="student resnet8 has 5 classes, teacher resnet14 has 7"):
        CATKD(fitting)
