"""Exact persistence images of minibatch clouds, with conventions that are given or taken from the teacher.

Reference:
    H. Adams et al. Persistence images. JMLR 18, 2017 [adams2017persistence]; the rules for ranges, bandwidth
    and scale are those of the code of J. Kim et al., ICML 2024 [kim2024topkd].
Explained in:
    book/topology_in_distillation/topkd_digits.ipynb
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.objectives.memory import gather_rows
from topokd_lib.topology import PersistenceDiagrams, PersistenceImage, rips_diagrams

__all__ = ["ExactImages"]

_RESOLUTION = (20, 20)


class ExactImages(nn.Module):
    """From clouds to their Vietoris–Rips persistence images, differentiably; the dimensions side by side.

    An image needs conventions: ranges, a bandwidth and a scale. If none are given they are fitted, by
    :meth:`~topokd_lib.topology.PersistenceImage.fit` with TopKD's weight and 20 × 20 pixels, to the bars of
    the teacher's first clouds: anew with each of the first ``clouds`` clouds that :meth:`observe` is shown,
    and never again. The bars are persistent buffers and the conventions a function of them, so that a run
    that is resumed goes on with the same images; with several processes each sees the clouds of all.

    Args:
        dimensions: Homology dimensions.
        conventions: One image per dimension, or ``None`` to fit them.
        clouds: How many clouds of each process they are fitted to.
        points: Points of a cloud; of each of these the ``points - 1`` longest bars are kept, which in
            dimension 0 are all.

    Raises:
        ValueError: If there is no dimension, or not one convention for each.

    Attributes:
        bars: Birth and death by dimension and cloud; where there is no bar both are 0.
        seen: Number of clouds in ``bars``.
    """

    bars: Tensor
    seen: Tensor

    def __init__(
        self,
        dimensions: Sequence[int] = (0,),
        *,
        conventions: Sequence[PersistenceImage] | None = None,
        clouds: int = 16,
        points: int = 64,
    ) -> None:
        super().__init__()
        self.dimensions = tuple(dimensions)
        if (
            not self.dimensions
            or len(set(self.dimensions)) < len(self.dimensions)
            or min(self.dimensions) < 0
        ):
            raise ValueError(
                f"images are of different homology dimensions, at least one, counted from 0, got "
                f"{self.dimensions}"
            )
        if conventions is not None and len(conventions) != len(self.dimensions):
            raise ValueError(
                f"every dimension needs one image: dimensions are {self.dimensions}, and there are "
                f"{len(conventions)} conventions"
            )
        if clouds < 1:
            raise ValueError(f"conventions are fitted to at least one cloud, got {clouds}")
        self.clouds = clouds
        self._given = None if conventions is None else tuple(conventions)
        self._fitted: tuple[PersistenceImage | None, ...] | None = None
        self._complete = self._given is not None
        if self._given is None:
            shape = (len(self.dimensions), clouds, max(points - 1, 1), 2)
            self.register_buffer("bars", torch.zeros(shape))
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))
            self.register_load_state_dict_post_hook(ExactImages._forget)  # type: ignore[no-untyped-call]

    @property
    def conventions(self) -> tuple[PersistenceImage | None, ...]:
        """The image of each dimension; ``None`` where the teacher has not shown two different bars yet."""
        if self._given is not None:
            return self._given
        if self._fitted is None:
            seen = int(self.seen)
            self._complete = seen == self.clouds
            self._fitted = tuple(
                _fit(bars[:seen], d) for bars, d in zip(self.bars, self.dimensions, strict=True)
            )
            if self._complete and None in self._fitted:
                dimension = self.dimensions[self._fitted.index(None)]
                raise ValueError(
                    f"the first {seen} clouds of the teacher have no two different bars of dimension "
                    f"{dimension} to fit an image to; leave it out, give conventions, or take larger batches"
                )
        return self._fitted

    @property
    def pixels(self) -> int:
        """Numbers in all images of a cloud."""
        if self._given is not None:
            return sum(image.pixels for image in self._given)
        return len(self.dimensions) * _RESOLUTION[0] * _RESOLUTION[1]

    @property
    def observes(self) -> bool:
        """Whether the conventions may still change."""
        return not self._complete

    @torch.no_grad()
    def observe(self, clouds: Float[Tensor, "1 points dim"]) -> bool:
        """Fit the conventions to this cloud of the teacher, too; returns whether they have changed."""
        if self._complete:
            return False
        place = int(self.seen)
        if place == self.clouds:  # just loaded
            self._complete = True
            return False
        rows = torch.cat([self._longest(diagrams) for diagrams in self._diagrams(clouds)])[None]
        longest = gather_rows(rows.to(self.bars))[: self.clouds - place]
        self.bars[:, place : place + len(longest)] = longest.transpose(0, 1)
        self.seen += len(longest)
        self._fitted = None
        return True

    def forward(self, clouds: Float[Tensor, "clouds points dim"]) -> Float[Tensor, "clouds pixels"]:
        """The images of all dimensions, flat, one row per cloud; 0 where there are no conventions yet."""
        size = self.pixels // len(self.dimensions) if self._given is None else 0
        parts = [
            clouds.new_zeros(len(clouds), size) if image is None else image(diagrams).flatten(1)
            for diagrams, image in zip(self._diagrams(clouds), self.conventions, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def _diagrams(self, clouds: Tensor) -> tuple[PersistenceDiagrams, ...]:
        return rips_diagrams(clouds, dimensions=self.dimensions)

    def _longest(self, diagrams: PersistenceDiagrams) -> Float[Tensor, "1 bars 2"]:
        kept = self.bars.shape[2]
        order = diagrams.persistence.argsort(dim=1, descending=True, stable=True)[:, :kept]
        bars = diagrams.pairs.gather(1, order[..., None].expand(-1, -1, 2))
        return nn.functional.pad(bars, (0, 0, 0, kept - bars.shape[1]))

    @staticmethod
    def _forget(module: nn.Module, _: object) -> None:
        """What was computed from the buffers is out of date once they are loaded."""
        if isinstance(module, ExactImages):
            module._fitted, module._complete = None, False


def _fit(bars: Float[Tensor, "clouds bars 2"], dimension: int) -> PersistenceImage | None:
    mask = bars[..., 1] > bars[..., 0]
    persistence = (bars[..., 1] - bars[..., 0])[mask]
    if len(persistence) < 2 or float(persistence.max() - persistence.min()) <= 1e-5:
        return None
    diagrams = PersistenceDiagrams(bars, mask, dimension)
    return PersistenceImage.fit(diagrams, resolution=_RESOLUTION, weight="topkd")
