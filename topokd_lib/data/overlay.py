"""Attribution maps laid over the images that a student sees, while its teacher sees them as they are.

Reference:
    D. Hernandez, J. Chang, T. Nordling. Knowledge Distillation: Enhancing Neural Network Compression with
    Integrated Gradients. 2025. [hernandez2025igkd]
Differs from:
    In the official code (nordlinglab/ModelCompression-IntegratedGradients) maps and teacher outputs are made
    in a shuffled order and read by the images' numbers, so that each image meets those of another; and maps
    stay where they are while images are cropped and mirrored. ``aligned_maps=False`` and
    ``aligned_teacher=False`` reproduce that. The default is what the paper describes: the image's own map,
    cropped and mirrored with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from topokd_lib.data.augment import Views, crop_padding
from topokd_lib.data.image_data import ImageData
from topokd_lib.data.loaders import EpochLoader
from topokd_lib.outputs import Batch

__all__ = ["OverlayLoader", "lay_over", "spread"]


def spread(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Each map from 0, its smallest value, to 1, its largest; a constant one becomes 0.

    Example:
        >>> spread(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]))
        tensor([[[0., 1.]],
        <BLANKLINE>
                [[0., 0.]]])
    """
    lowest, highest = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    height = highest - lowest
    return (maps - lowest) / height.masked_fill(height == 0, 1.0)


def lay_over(
    images: Float[Tensor, "batch channels height width"],
    maps: Float[Tensor, "batch height width"],
    *,
    exponents: Float[Tensor, " batch"],
    strength: float = 0.5,
) -> Float[Tensor, "batch channels height width"]:
    r"""Mix images with their attribution maps, which are grey: the same in every channel.

    .. math:: x' = (1 - \beta) \, x + \beta \, \frac{g^s - \min g^s}{\max g^s - \min g^s}

    Args:
        images: Pixel values between 0 and 1.
        maps: :math:`g`, not negative, on any scale.
        exponents: :math:`s` for each image; above 1 it leaves only the strongest pixels.
        strength: :math:`\beta`, the share of the map; 0.5 in the paper.

    Example:
        >>> image = torch.full((1, 1, 1, 2), 0.2)
        >>> lay_over(image, torch.tensor([[[1.0, 3.0]]]), exponents=torch.tensor([2.0])).flatten()
        tensor([0.1000, 0.6000])
    """
    raised = spread(maps.pow(exponents[:, None, None]))
    return (1 - strength) * images + strength * raised[:, None]


@dataclass(frozen=True, eq=False)
class OverlayLoader:
    r"""A loader whose training images carry their attribution maps now and then.

    An image is mixed with its map (:func:`lay_over`) with probability ``probability``, by an exponent that is
    drawn log-uniformly from ``exponents``; both follow from the seed and the epoch. Training batches have two
    extras more: ``clean``, what a teacher with ``reads="clean"`` sees, as pixel values 0 … 255, and, if there
    are maps, ``attribution``, the raw maps. Test batches are those of ``loader`` with their images as
    ``clean``.

    Args:
        loader: Gives the batches, and the view of each image.
        maps: One for each training image, not negative, on the device of the images; ``None``: none are laid
            over.
        probability: Of an overlay; 0.1 in the paper.
        exponents: Smallest and largest exponent; 1 and 2 in the paper.
        strength: Share of the map in a mixed image; 0.5 in the paper.
        aligned_maps: Give each image its own map, and crop and mirror it with the image. ``False``: the map
            of one other training image, the same in every epoch, unmoved, as in the official code.
        aligned_teacher: Let the teacher see the image that the student sees. ``False``: one other training
            image in one view, the same in every epoch, as in the official code, where the teacher's answers
            were computed once.

    Raises:
        ValueError: If a number is out of range, maps and images do not fit together, or a map is negative.
    """

    loader: EpochLoader
    maps: Float[Tensor, "images height width"] | None = None
    probability: float = 0.1
    exponents: tuple[float, float] = (1.0, 2.0)
    strength: float = 0.5
    aligned_maps: bool = True
    aligned_teacher: bool = True

    def __post_init__(self) -> None:
        images = self.loader.data.train_images
        if not (0 <= self.probability <= 1 and 0 <= self.strength <= 1):
            raise ValueError(
                f"probability and strength of an overlay lie between 0 and 1, got "
                f"probability={self.probability} and strength={self.strength}"
            )
        lowest, highest = self.exponents
        if not 0 < lowest <= highest:
            raise ValueError(
                f"exponents of an overlay are positive, the smaller one first, got {self.exponents}"
            )
        if self.maps is None:
            return
        if self.maps.shape != (len(images), *images.shape[2:]) or self.maps.device != images.device:
            raise ValueError(
                f"every training image of {self.loader.data.name} needs a map of its size beside it: images "
                f"are {tuple(images.shape)} on {images.device}, maps {tuple(self.maps.shape)} on "
                f"{self.maps.device}"
            )
        if not self.maps.min() >= 0:
            raise ValueError(
                f"maps that are raised to a power must not be negative, the smallest value is "
                f"{float(self.maps.min())}; take absolute values, as attribution_map does"
            )

    @property
    def data(self) -> ImageData:
        """The data set."""
        return self.loader.data

    @property
    def batch_size(self) -> int:
        """Images per step and device."""
        return self.loader.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return self.loader.steps_per_epoch

    @property
    def extra_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every extra of one image."""
        shape = self.loader.data.image_shape
        return {"clean": shape} | ({} if self.maps is None else {"attribution": shape[1:]})

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """The loader's training batches, overlaid.

        Raises:
            ValueError: If ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0, got epoch={epoch}")
        every, device = len(self.data.train_labels), self.data.train_images.device
        rng = self._rng(epoch, 1)
        lowest, highest = (float(np.log(exponent)) for exponent in self.exponents)
        chosen = torch.from_numpy(rng.random(every) < self.probability).to(device)
        exponents = torch.from_numpy(np.exp(rng.uniform(lowest, highest, every))).float().to(device)
        strangers, answered = (_partners(every, self._rng(0, use)).to(device) for use in (2, 3))
        glimpses = Views.draw(every, augment=self.loader.augment, padding=self._padding, rng=self._rng(0, 4))
        glimpses = glimpses.to(device)
        for batch in self.loader.train_batches(epoch):
            number, view = batch.indices, batch.extras["view"]
            views = Views.numbered(view, augment=self.loader.augment, padding=self._padding)
            own = views.apply(self.data.train_images[number], self._padding)
            taught = own
            if not self.aligned_teacher:
                others = self.data.train_images[answered[number]]
                taught = glimpses.of(number).apply(others, self._padding)
            batch.extras["clean"] = taught.float()
            if self.maps is not None:
                maps = self.maps[number if self.aligned_maps else strangers[number]].float()
                if self.aligned_maps:
                    maps = views.apply(maps[:, None], self._padding)[:, 0]
                batch.extras["attribution"] = maps
                mixed = lay_over(own / 255, maps, exponents=exponents[number], strength=self.strength)
                overlaid = chosen[number][:, None, None, None]
                batch.images = torch.where(overlaid, self._normalised(mixed), batch.images)
            yield batch

    def test_batches(self) -> Iterator[Batch]:
        """The loader's test batches; nothing is laid over them."""
        for batch in self.loader.test_batches():
            batch.extras["clean"] = self.data.test_images[batch.indices].float()
            yield batch

    @property
    def _padding(self) -> int:
        return crop_padding(*self.data.image_shape[1:])

    def _rng(self, epoch: int, use: int) -> np.random.Generator:
        """A stream for each use, apart from the loader's own, which has no third number."""
        return np.random.default_rng((self.loader.shares.seed, epoch, use))

    def _normalised(self, images: Tensor) -> Tensor:
        constants = self.data.normalisation
        mean, std = (torch.tensor(values, device=images.device) for values in (constants.mean, constants.std))
        return (images - mean[:, None, None]) / std[:, None, None]


def _partners(count: int, rng: np.random.Generator) -> Int64[Tensor, " images"]:
    """A random order of the images: one of them, on average, keeps its place."""
    return torch.from_numpy(rng.permutation(count).astype(np.int64))
