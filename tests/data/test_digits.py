from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn import datasets

from topokd_lib.data import load_digits
from topokd_lib.data.digits import NORMALISATION


@pytest.fixture(scope="module", params=[8, 32])
def digits(request):
    return load_digits(size=request.param)


def test_the_split_is_fixed_and_stratified(digits):
    assert (len(digits.train_labels), len(digits.test_labels)) == (1437, 360)
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert digits.classes == tuple("0123456789")
    assert ((train + test) / 5 - test).abs().max() < 1
    everything = torch.cat([digits.train_labels, digits.test_labels]).bincount()
    assert everything.tolist() == np.bincount(datasets.load_digits().target).tolist()


def test_both_parts_together_are_the_source():
    digits = load_digits(size=8)
    found = torch.cat([digits.train_images, digits.test_images])[:, 0].flatten(1).numpy()
    source = np.floor(datasets.load_digits().data * 255 / 16 + 0.5).astype(np.uint8)
    assert sorted(map(bytes, found)) == sorted(map(bytes, source))


def test_the_normalisation_is_what_is_measured(digits):
    pixels = digits.train_images[:, 0].numpy() / 255
    size = digits.image_shape[1]
    assert NORMALISATION[size].mean == (round(float(pixels.mean()), 4),) * 3
    assert NORMALISATION[size].std == (round(float(pixels.std()), 4),) * 3
    assert digits.normalisation == NORMALISATION[size]


def test_channels_are_equal_and_use_the_whole_range(digits):
    images = digits.train_images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert (images.min(), images.max()) == (0, 255)


def test_enlarging_equals_bilinear_interpolation_in_exact_arithmetic():
    """Pixel centres of the large image lie at (i + 1/2) / 4 - 1/2 in the small one, clamped at the edge."""
    weights = np.zeros((32, 8), dtype=object)
    for i in range(32):
        at = min(max(Fraction(2 * i + 1, 8) - Fraction(1, 2), Fraction(0)), Fraction(7))
        low = int(at)
        weights[i, low] += 1 - (at - low)
        weights[i, min(low + 1, 7)] += at - low
    image = datasets.load_digits().images[0].astype(int)
    exact = weights @ image @ weights.T * Fraction(255, 16)
    expected = np.vectorize(round, otypes=[int])(exact)
    candidates = torch.cat([load_digits().train_images, load_digits().test_images])[:, 0]
    assert (candidates.int() == torch.from_numpy(expected)).flatten(1).all(1).sum() == 1


def test_every_machine_gets_the_same_bytes():
    assert load_digits(size=8).fingerprint() == "dfd586a47600e40b"
    assert load_digits(size=32).fingerprint() == "236638a31a8a0a9c"


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"sizes 8 and 32, got size=28"):
        load_digits(size=28)
