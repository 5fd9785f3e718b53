"""What corruptions do to images whose statistics are known, and the summary by hand."""

import numpy as np
import pytest
import torch

from topokd_lib.analysis import CORRUPTIONS, SEVERITIES, CorruptionErrors, corrupt, corruption_errors
from topokd_lib.data import load_digits, normalise
from topokd_lib.errors import UnknownName
from topokd_lib.models import create_model


@pytest.fixture(scope="module")
def photographs():
    """Colour images with edges and a little grain, between dark and light."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 4, (6, 3, 32, 32)), axis=3) + rng.uniform(60, 160, (6, 3, 1, 1))
    smooth[:, :, 11:20, 13:] += 60
    smooth += rng.normal(0, 12, smooth.shape)
    return torch.from_numpy(np.clip(smooth, 0, 255).astype(np.uint8))


def grey(level, count=4, size=32):
    return torch.full((count, 3, size, size), level, dtype=torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity_and_is_repeatable(name, photographs):
    damages = []
    for severity in SEVERITIES:
        found = corrupt(photographs, name, severity, seed=3)
        assert found.dtype == torch.uint8
        assert found.shape == photographs.shape
        assert torch.equal(found, corrupt(photographs, name, severity, seed=3))
        damages.append((found.float() - photographs.float()).square().mean().item())
    assert damages == sorted(damages)
    assert damages[0] > 0
    assert damages[-1] > 1.2 * damages[0]


@pytest.mark.parametrize("name", ["gaussian-noise", "shot-noise", "impulse-noise"])
def test_another_seed_is_other_noise(name, photographs):
    assert not torch.equal(corrupt(photographs, name, 3), corrupt(photographs, name, 3, seed=1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_deviation_that_is_stated(severity):
    values = corrupt(grey(128, 8), "gaussian-noise", severity).float() / 255
    assert values.std().item() == pytest.approx(CORRUPTIONS["gaussian-noise"][severity - 1], rel=0.03)
    photons = CORRUPTIONS["shot-noise"][severity - 1]
    values = corrupt(grey(128, 8), "shot-noise", severity).float() / 255
    assert values.std().item() == pytest.approx((128 / 255 / photons) ** 0.5, rel=0.03)
    assert values.mean().item() == pytest.approx(128 / 255, abs=0.01)
    values = corrupt(grey(128, 8), "impulse-noise", severity)
    share = CORRUPTIONS["impulse-noise"][severity - 1]
    assert ((values == 0) | (values == 255)).float().mean().item() == pytest.approx(share, rel=0.15)


def test_brightness_and_contrast_by_hand():
    image = torch.tensor([0, 100, 200, 250], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert corrupt(image, "brightness", 2).flatten().tolist() == [26, 126, 226, 255]  # a tenth of 255 more
    mean = (0 + 100 + 200 + 250) / 4
    assert corrupt(image, "contrast", 2).flatten().tolist() == [
        round(mean / 2 + x / 2) for x in (0, 100, 200, 250)
    ]


def test_blur_keeps_what_is_even_and_spreads_a_dot_like_a_gaussian():
    assert torch.equal(corrupt(grey(77), "gaussian-blur", 5), grey(77))
    dot = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    dot[..., 16, 16] = 255
    blurred = corrupt(dot, "gaussian-blur", 5).float()[0, 0] / 255
    sigma = CORRUPTIONS["gaussian-blur"][4] * 33 / 32
    assert blurred[16, 16].item() == pytest.approx(1 / (2 * np.pi * sigma**2), rel=0.05)
    assert torch.equal(blurred, blurred.T)


def test_pixelation_makes_equal_blocks():
    ramp = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(1, 1, 1, 1)
    found = corrupt(ramp, "pixelate", 5)[0, 0]  # 4 × 4 blocks of 2 × 2 pixels
    assert torch.equal(found[::2, ::2], found[1::2, 1::2])
    assert found[0, 0].item() == pytest.approx((0 + 1 + 8 + 9) / 4, abs=0.6)


def test_jpeg_is_that_of_pillow(photographs):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(photographs[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=50)
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
    assert torch.equal(corrupt(photographs[:1], "jpeg", 4)[0], expected)
    single = photographs[:1, :1]
    assert corrupt(single, "jpeg", 5).shape == single.shape


def test_errors_of_a_network_are_counted(photographs):
    digits, model = load_digits(size=8), create_model("resnet8", num_classes=10)
    images, labels = digits.test_images[:100], digits.test_labels[:100]
    told = []
    found = corruption_errors(
        model, images, labels, digits.normalisation, corruptions=["brightness", "jpeg"], severities=[1, 4],
        batch_size=32, progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert not model.training

    def error(pixels):
        return (model(normalise(pixels, digits.normalisation)).argmax(1) != labels).float().mean().item()

    assert found.clean == pytest.approx(error(images))
    assert found.corrupted["jpeg"] == pytest.approx([error(corrupt(images, "jpeg", s)) for s in (1, 4)])
    assert told == [("corruptions", done, 5) for done in (2, 3, 4, 5)]


def test_summary_by_hand():
    own = CorruptionErrors(0.1, {"a": (0.2, 0.4), "b": (0.1, 0.3)})
    reference = CorruptionErrors(0.2, {"a": (0.4, 0.8), "b": (0.3, 0.5)})
    assert own.mean == pytest.approx(0.25)
    assert own.relative_to(reference) == pytest.approx((0.3 / 0.6 + 0.2 / 0.4) / 2)
    assert own.relative_to(reference, beyond_clean=True) == pytest.approx((0.2 / 0.4 + 0.1 / 0.2) / 2)
    assert own.relative_to(own) == pytest.approx(1)


class TestErrors:
    def test_an_unknown_corruption(self):
        with pytest.raises(UnknownName, match=r"no corruption 'jpg'\. Did you mean 'jpeg'"):
            corrupt(grey(1), "jpg", 1)

    @pytest.mark.parametrize("severity", [0, 6])
    def test_a_severity_that_is_not_there(self, severity):
        with pytest.raises(ValueError, match=f"severities are 1 … 5, got {severity}"):
            corrupt(grey(1), "jpeg", severity)

    def test_channels_that_a_jpeg_has_not(self):
        with pytest.raises(ValueError, match="has 1 or 3 channels, the images have 2"):
            corrupt(grey(1)[:, :2], "jpeg", 1)

    def test_nothing_to_test(self):
        digits = load_digits(size=8)
        with pytest.raises(ValueError, match="nothing to test: 360 images, 0 corruptions and 5"):
            corruption_errors(create_model("resnet8", num_classes=10), digits.test_images,
                              digits.test_labels, digits.normalisation, corruptions=[])  # fmt: skip

    def test_summaries_that_cannot_be_compared(self):
        own, other = CorruptionErrors(0.1, {"a": (0.2,)}), CorruptionErrors(0.1, {"b": (0.2,)})
        with pytest.raises(
            ValueError, match=r"the same corruptions and severities, got \{'a': 1\} and \{'b': 1\}"
        ):
            own.relative_to(other)
        with pytest.raises(ValueError, match="the reference loses nothing under a"):
            own.relative_to(CorruptionErrors(0.2, {"a": (0.2,)}), beyond_clean=True)
