"""Images that are harder to read, in five steps, and how many more of them a network gets wrong.

Reference:
    D. Hendrycks, T. Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations. ICLR 2019. [hendrycks2019robustness]
Differs from:
    The idea and the summary are the paper's; corruptions are our own and their strengths are those below, so
    numbers are not comparable with those on CIFAR-10-C or ImageNet-C. Everything is applied to the pixels as
    they are stored, 0 … 255, and is rounded to them again.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.data import normalise
from topokd_lib.errors import require_name
from topokd_lib.models import FeatureModel
from topokd_lib.outputs import Normalisation

__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptionErrors", "corrupt", "corruption_errors"]

SEVERITIES = (1, 2, 3, 4, 5)

CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "gaussian-noise": (0.02, 0.04, 0.06, 0.08, 0.10),
    "shot-noise": (500.0, 250.0, 100.0, 75.0, 50.0),
    "impulse-noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "gaussian-blur": (0.5, 0.6, 0.7, 0.85, 1.0),
    "brightness": (0.05, 0.10, 0.15, 0.20, 0.30),
    "contrast": (0.75, 0.50, 0.40, 0.30, 0.15),
    "pixelate": (0.95, 0.85, 0.75, 0.65, 0.50),
    "jpeg": (80.0, 65.0, 58.0, 50.0, 40.0),
}
"""Strength of each corruption at severities 1 … 5.

==================  =================================================================================
``gaussian-noise``  standard deviation of what is added to each value, in units of the range 0 … 255
``shot-noise``      photons of a white pixel; their number is Poisson distributed
``impulse-noise``   share of values that become black or white
``gaussian-blur``   standard deviation in pixels of a 32 × 32 image, and in proportion for others
``brightness``      what is added to each value, in units of the range
``contrast``        what differences from the image's mean are multiplied by
``pixelate``        side of the image after averaging over boxes, as a share; then enlarged again
``jpeg``            quality of the compression
==================  =================================================================================
"""

Array = npt.NDArray[np.float32]


def corrupt(
    images: UInt8[Tensor, "images channels height width"], corruption: str, severity: int, *, seed: int = 0
) -> UInt8[Tensor, "images channels height width"]:
    """The same images, corrupted.

    Noise follows from the seed, the corruption, the severity and the place of an image among ``images``.

    Args:
        images: Pixel values 0 … 255, on the CPU.
        corruption: One of :data:`CORRUPTIONS`.
        severity: 1 … 5.
        seed: Of the noise.

    Raises:
        UnknownName: If there is no such corruption.
        ValueError: If the severity is not one of the five, or images for JPEG have neither 1 nor 3 channels.

    Example:
        >>> grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
        >>> [int(corrupt(grey, "brightness", severity).max()) for severity in (1, 5)]
        [113, 177]
        >>> corrupt(grey, "contrast", 5).equal(grey)  # nothing differs from the mean
        True
    """
    require_name("corruption", corruption, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"severities are 1 … 5, got {severity}; for clean images take them as they are")
    rng = np.random.default_rng((seed, zlib.crc32(corruption.encode()), severity))
    values = images.numpy().astype(np.float32) / 255
    changed = _APPLY[corruption](values, CORRUPTIONS[corruption][severity - 1], rng)
    return torch.from_numpy(np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8))


@dataclass(frozen=True)
class CorruptionErrors:
    """Fractions of images that a network gets wrong.

    Args:
        clean: Of the images as they are.
        corrupted: Of the corrupted ones, severity by severity, for each corruption.
    """

    clean: float
    corrupted: dict[str, tuple[float, ...]]

    @property
    def mean(self) -> float:
        """Over all corruptions and severities."""
        return fmean(fmean(errors) for errors in self.corrupted.values())

    def relative_to(self, reference: "CorruptionErrors", *, beyond_clean: bool = False) -> float:
        r"""Mean corruption error (mCE) in units of a reference network's; 1 is as robust as that one.

        .. math:: \frac{1}{K} \sum_{k=1}^K
                  \frac{\sum_s E_{ks}}{\sum_s E^\mathrm{ref}_{ks}}, \qquad \text{or, beyond clean,} \quad
                  \frac{1}{K} \sum_{k=1}^K
                  \frac{\sum_s (E_{ks} - E_0)}{\sum_s (E^\mathrm{ref}_{ks} - E^\mathrm{ref}_0)}

        Args:
            reference: Of another network on the same corrupted images, such as a student without teacher.
            beyond_clean: Compare only what corruption adds to the error.

        Raises:
            ValueError: If corruptions or severities differ, or the reference makes no error under one.
        """
        shapes = [{k: len(v) for k, v in errors.corrupted.items()} for errors in (self, reference)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"both networks need errors under the same corruptions and severities, got {shapes[0]} and "
                f"{shapes[1]}"
            )
        own, other = (errors.clean if beyond_clean else 0.0 for errors in (self, reference))
        ratios = []
        for name, errors in self.corrupted.items():
            scale = fmean(reference.corrupted[name]) - other
            if scale <= 0:
                raise ValueError(
                    f"the reference loses nothing under {name}, so nothing can be measured in units of it; "
                    f"leave the corruption out, or choose another reference"
                )
            ratios.append((fmean(errors) - own) / scale)
        return fmean(ratios)


@torch.no_grad()
def corruption_errors(
    model: FeatureModel,
    images: UInt8[Tensor, "images channels height width"],
    labels: Int[Tensor, " images"],
    normalisation: Normalisation,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[str, int, int], None] | None = None,
) -> CorruptionErrors:
    """Test a network on clean and on corrupted images.

    Args:
        model: Left in evaluation mode, on whichever device it is.
        images: Pixel values 0 … 255.
        labels: Class numbers.
        normalisation: What the network was trained with.
        corruptions: Which of :data:`CORRUPTIONS`.
        severities: Which of the five.
        seed: Of the noise; the same for all networks that are compared.
        batch_size: Images at a time.
        progress: Called with ("corruptions", sets of images done, sets in all).

    Raises:
        UnknownName: If there is no such corruption.
        ValueError: If a severity is not one of the five, or there is nothing to test.

    Example:
        >>> from topokd_lib.data import load_digits
        >>> from topokd_lib.models import create_model
        >>> digits, model = load_digits(size=8), create_model("resnet8", num_classes=10)
        >>> found = corruption_errors(
        ...     model,
        ...     digits.test_images,
        ...     digits.test_labels,
        ...     digits.normalisation,
        ...     corruptions=["contrast"],
        ...     severities=[1, 5],
        ... )
        >>> list(found.corrupted), len(found.corrupted["contrast"])
        (['contrast'], 2)
    """
    if not (len(images) and corruptions and severities):
        raise ValueError(
            f"nothing to test: {len(images)} images, {len(corruptions)} corruptions and {len(severities)} "
            f"severities"
        )
    device = next(model.parameters()).device
    model.eval()

    def error(pixels: Tensor) -> float:
        wrong = 0
        for batch, truth in zip(pixels.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(normalise(batch.to(device), normalisation))
            wrong += int((logits.argmax(dim=1).cpu() != truth.cpu()).sum())
        return wrong / len(pixels)

    total, done = 1 + len(corruptions) * len(severities), 1
    clean, corrupted = error(images), {}
    for name in corruptions:
        found = []
        for severity in severities:
            found.append(error(corrupt(images.cpu(), name, severity, seed=seed)))
            done += 1
            if progress is not None:
                progress("corruptions", done, total)
        corrupted[name] = tuple(found)
    return CorruptionErrors(clean, corrupted)


# ----------------------------------------------------------------------- values between 0 and 1, in and out


def _gaussian_noise(values: Array, deviation: float, rng: np.random.Generator) -> Array:
    return values + deviation * rng.standard_normal(values.shape, dtype=np.float32)


def _shot_noise(values: Array, photons: float, rng: np.random.Generator) -> Array:
    return (rng.poisson(values * photons) / photons).astype(np.float32)


def _impulse_noise(values: Array, share: float, rng: np.random.Generator) -> Array:
    draws = rng.random(values.shape, dtype=np.float32)
    return np.where(draws < share / 2, 0, np.where(draws < share, 1, values)).astype(np.float32)


def _gaussian_blur(values: Array, deviation: float, _: np.random.Generator) -> Array:
    sigma = deviation * min(values.shape[2:]) / 32
    radius = max(1, round(4 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    blurred, channels = torch.from_numpy(values), values.shape[1]
    for shape, padding in (((-1, 1), (0, 0, radius, radius)), ((1, -1), (radius, radius, 0, 0))):
        weight = kernel.view(1, 1, *shape).repeat(channels, 1, 1, 1)
        blurred = F.conv2d(F.pad(blurred, padding, mode="replicate"), weight, groups=channels)
    return _array(blurred)


def _array(images: Tensor) -> Array:
    array: Array = images.numpy()
    return array


def _brightness(values: Array, more: float, _: np.random.Generator) -> Array:
    return np.add(values, more, dtype=np.float32)


def _contrast(values: Array, factor: float, _: np.random.Generator) -> Array:
    mean: Array = values.mean(axis=(1, 2, 3), keepdims=True)
    changed: Array = mean + np.float32(factor) * (values - mean)
    return changed


def _pixelate(values: Array, share: float, _: np.random.Generator) -> Array:
    from PIL import Image

    height, width = values.shape[2:]
    smaller = max(1, round(share * width)), max(1, round(share * height))
    box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
    planes = np.rint(values * 255).astype(np.uint8).reshape(-1, height, width)
    blocks = [
        Image.fromarray(plane).resize(smaller, box).resize((width, height), nearest) for plane in planes
    ]
    again: Array = (np.stack([np.asarray(b) for b in blocks]).reshape(values.shape) / 255).astype(np.float32)
    return again


def _jpeg(values: Array, quality: float, _: np.random.Generator) -> Array:
    from PIL import Image

    channels = values.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a JPEG has 1 or 3 channels, the images have {channels}; leave out 'jpeg'")
    decoded = []
    for pixels in np.rint(values * 255).astype(np.uint8).transpose(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(
            file, "JPEG", quality=int(quality)
        )
        with Image.open(file) as image:
            decoded.append(np.asarray(image).reshape(pixels.shape))
    again: Array = (np.stack(decoded).transpose(0, 3, 1, 2) / 255).astype(np.float32)
    return again


_APPLY: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "gaussian-blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
