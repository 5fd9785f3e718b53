"""Persistence images of pictures: what topology-guided distillation shows its second teacher.

Grey levels are whole numbers from 0 to 255, and so are births and deaths. The Gaussians that a persistence
image adds up therefore come from a table with one row per level, and an image is one matrix product.

Reference:
    E. S. Jeon et al. Leveraging Topological Guidance for Improved Knowledge Distillation. 2024. [jeon2024tgd]
    H. Adams et al. Persistence images. JMLR 18, 2017. [adams2017persistence]
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from topokd_lib.errors import did_you_mean
from topokd_lib.topology.checks import check_reals, check_tensor, is_real, is_whole
from topokd_lib.topology.critical import check_options
from topokd_lib.topology.cubical import cubical_diagrams
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.signals import signal_diagrams

__all__ = ["CubicalPersistence", "ImagePersistence", "ScanPersistence"]

_PICTURES = 192
"""Channels whose bars are found at a time; a few megabytes."""

_DRAWN = 16
"""Diagrams drawn at a time, so that their rows of the table stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class ImagePersistence(ABC):
    r"""From pictures of 0 … 255 to pictures of their persistence, one or more for every channel.

    A bar with birth :math:`b` and persistence :math:`p`, both in grey levels / 255, adds
    :math:`p \, m_i(p) \, m_j(b)` to the pixel in row :math:`i` and column :math:`j`. With :math:`\Phi` the
    distribution function of the normal distribution, :math:`h` the bandwidth, :math:`s` the span and
    :math:`R` the resolution

    .. math:: m_k(x) = \Phi\Big(\frac{l_k + s / R - x}{h}\Big) - \Phi\Big(\frac{l_k - x}{h}\Big),
              \qquad l_k = \frac{k \, s}{R - 1}

    Rows are persistence *descending*. Every image is divided by its largest value, multiplied by 255 and cut
    off to whole numbers, so that the brightest pixel of each is 255 and absolute masses are lost.

    Args:
        resolution: Rows and columns of the result.
        span: Births and persistences from 0 to here are seen, in grey levels / 255.
        bandwidth: Standard deviation of the Gaussians, in the same unit.
        shortest: Bars of this persistence or less are left out.
        faintest: Images whose largest value, with weights divided by the longest persistence of the diagram,
            is below this are black. 0 draws everything, see :meth:`ScanPersistence.official`.
        precision: Of the sums; the result differs by one grey level at most.

    Raises:
        ValueError: If a number is out of range, or float32 cannot tell ``faintest`` from 0.
    """

    resolution: int = 50
    span: float = 0.3
    bandwidth: float = 0.01
    shortest: float = 0.02
    faintest: float = 1e-6
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if not is_whole(self.resolution, 2):
            raise ValueError(f"a persistence image has at least 2 rows, got resolution={self.resolution!r}")
        if not all(is_real(number) and number > 0 for number in (self.span, self.bandwidth)):
            raise ValueError(
                f"span and bandwidth must be positive and finite, got span={self.span!r} and "
                f"bandwidth={self.bandwidth!r}"
            )
        if not (is_real(self.shortest, 0) and self.shortest < 1 and is_real(self.faintest, 0)):
            raise ValueError(
                f"shortest is a persistence from 0 to below 1 and faintest is not negative, got "
                f"shortest={self.shortest!r} and faintest={self.faintest!r}"
            )
        if self.precision not in ("float32", "float64"):
            raise ValueError(f"the precision is 'float32' or 'float64', got {self.precision!r}")
        if self.precision == "float32" and self.faintest < 1e-20:
            raise ValueError(
                f"tails fainter than 1e-20 are lost in float32, got faintest={self.faintest}; take "
                f"precision='float64', or leave them out with faintest=1e-6"
            )

    @property
    @abstractmethod
    def per_channel(self) -> int:
        """How many images each channel of a picture gives."""

    @abstractmethod
    def diagrams(self, channels: Float[Tensor, "channels height width"]) -> tuple[PersistenceDiagrams, ...]:
        """The finite bars of every channel in grey levels, one set of diagrams for each image of it."""

    def __call__(
        self, pictures: UInt8[Tensor, "batch channels height width"]
    ) -> UInt8[Tensor, "batch images persistence birth"]:
        """The persistence images of a batch: first those of all channels, then the next ones of all channels.

        Raises:
            TypeError: If the pictures are not a tensor of whole numbers from 0 to 255 (``uint8``).
            ValueError: If the pictures have no batch or channel axis, or no pixel.
        """
        check_tensor("pictures", pictures)
        if pictures.dtype != torch.uint8:
            raise TypeError(
                f"persistence images of pictures are made from grey levels 0 … 255 (uint8), got "
                f"{pictures.dtype}; scale and convert with (255 * pictures).round().to(torch.uint8)"
            )
        if pictures.ndim != 4 or 0 in pictures.shape:
            raise ValueError(
                f"pictures have the axes (batch, channels, height, width), none of them 0, got "
                f"{tuple(pictures.shape)}"
            )
        channels = pictures.flatten(0, 1).cpu()
        drawn = [
            torch.stack([self._draw(diagrams) for diagrams in self.diagrams(part.float())])
            for part in channels.split(_PICTURES)
        ]
        images: Tensor = torch.cat(drawn, dim=1).unflatten(1, pictures.shape[:2])
        return images.transpose(0, 1).flatten(1, 2).to(pictures.device)

    def to_dict(self) -> dict[str, Any]:
        """Kind and settings as JSON can hold them."""
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"kind": type(self).__name__, **settings}

    @staticmethod
    def from_dict(settings: Mapping[str, Any]) -> "ImagePersistence":
        """The inverse of :meth:`to_dict`.

        Raises:
            TypeError: If the settings are no mapping.
            ValueError: If the kind or a setting is unknown, missing or out of range.

        Example:
            >>> kind = CubicalPersistence(construction="vertices")
            >>> ImagePersistence.from_dict(kind.to_dict()) == kind
            True
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings are a mapping, as to_dict makes it, got {type(settings).__name__}")
        classes: tuple[type[ImagePersistence], ...] = (ScanPersistence, CubicalPersistence)
        kinds = {kind.__name__: kind for kind in classes}
        name = settings.get("kind", "")
        if name not in kinds:
            raise ValueError(
                f"there is no persistence of pictures of the kind {name!r}."
                f"{did_you_mean(str(name), kinds)} Known: {', '.join(kinds)}."
            )
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k != "kind"
        }
        try:
            return kinds[name](**given)
        except TypeError as error:
            raise ValueError(f"these are not the settings of {name}: {error}") from error

    def _draw(self, diagrams: PersistenceDiagrams) -> UInt8[Tensor, "batch persistence birth"]:
        births, deaths = diagrams.pairs.long().unbind(dim=2)
        persistences = (deaths - births).masked_fill(~diagrams.mask, 0)
        parts = zip(births.split(_DRAWN), persistences.split(_DRAWN), strict=True)
        return torch.cat([self._draw_few(*part) for part in parts])

    def _draw_few(
        self, births: Int64[Tensor, "batch bars"], persistences: Int64[Tensor, "batch bars"]
    ) -> UInt8[Tensor, "batch persistence birth"]:
        dtype = torch.float32 if self.precision == "float32" else torch.float64
        across, along = _tables(self.resolution, self.span, self.bandwidth, self.shortest, dtype)
        image = along[persistences].mT @ across[births]
        kept = persistences.masked_fill(persistences <= 255 * self.shortest, 0)
        longest = torch.nn.functional.pad(kept, (0, 1)).amax(dim=1) / 255
        largest = image.amax(dim=(1, 2))
        drawn = (largest > 0) & (largest >= self.faintest * longest)
        factor = torch.where(drawn, largest, torch.inf)[:, None, None]
        return (image / factor * 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class ScanPersistence(ImagePersistence):
    """Pictures read like a text: each channel is one signal, filtered by its grey levels from dark to bright.

    Read by rows, the last pixel of a row is followed by the first of the next; by columns likewise. These are
    the images of TGD. They know nothing of what lies above or below a pixel: half of the adjacency of the
    plane is lost in each scan, and :class:`CubicalPersistence` keeps it.

    Args:
        scans: In which order pixels are read. The images come scan by scan, so that three channels read by
            rows and by columns give red, green and blue by rows, then red, green and blue by columns.
        resolution: See :class:`ImagePersistence`.
        span: See :class:`ImagePersistence`.
        bandwidth: See :class:`ImagePersistence`.
        shortest: See :class:`ImagePersistence`.
        faintest: See :class:`ImagePersistence`.
        precision: See :class:`ImagePersistence`.

    Raises:
        ValueError: If there is no scan, one is unknown, or a number is out of range.

    Differs from:
        jeunsom/TGD (GenPI_Images.ipynb) has no ``faintest``: see :meth:`official`.

    Example:
        Two pictures of three channels, read in two ways:

        >>> pictures = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(torch.uint8)
        >>> ScanPersistence()(pictures).shape
        torch.Size([2, 6, 50, 50])
    """

    scans: tuple[Literal["rows", "columns"], ...] = ("rows", "columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = set(self.scans) if isinstance(self.scans, (tuple, list)) else set()
        if not given or not given <= {"rows", "columns"}:
            raise ValueError(f"pictures are scanned by 'rows', by 'columns' or both, got {self.scans!r}")

    @classmethod
    def official(cls, *, as_written: bool = False) -> "ScanPersistence":
        """The images of jeunsom/TGD, artefacts included.

        Every image that has a bar is drawn at full brightness. Where no bar lies within the span, as in one
        channel of fifty of CIFAR-10, that brightness is made of the tails of Gaussians far outside, down to
        1e-178: an artefact that float64 reproduces and float32 does not have.

        Args:
            as_written: Follow the official notebook to the letter. For the scan by columns it transposes the
                channel and drops the result, so that pictures are read by rows twice. The authors' own
                images were not made like this: the mean that their training code subtracts is that of
                columns.
        """
        scans: tuple[Literal["rows", "columns"], ...] = (
            ("rows", "rows") if as_written else ("rows", "columns")
        )
        return cls(scans=scans, faintest=0.0, precision="float64")

    @property
    def per_channel(self) -> int:
        return len(self.scans)

    def diagrams(self, channels: Float[Tensor, "channels height width"]) -> tuple[PersistenceDiagrams, ...]:
        check_reals("channels", channels, "channels", "height", "width")
        ways = {"rows": channels, "columns": channels.mT}
        found = {scan: signal_diagrams(ways[scan].flatten(1)) for scan in dict.fromkeys(self.scans)}
        return tuple(found[scan] for scan in self.scans)


@dataclass(frozen=True, kw_only=True)
class CubicalPersistence(ImagePersistence):
    """Pictures as grids of pixels: components of their dark parts, and the holes that these enclose.

    Args:
        construction: What a pixel is; see :func:`~topokd_lib.topology.cubical_diagrams`.
        dimensions: Homology dimensions; the images come dimension by dimension.
        superlevel: Filter from bright to dark, which is the same as to invert the picture.
        resolution: See :class:`ImagePersistence`.
        span: See :class:`ImagePersistence`.
        bandwidth: See :class:`ImagePersistence`.
        shortest: See :class:`ImagePersistence`.
        faintest: See :class:`ImagePersistence`.
        precision: See :class:`ImagePersistence`.

    Raises:
        ValueError: If the construction is unknown, dimensions are not among 0 and 1, or a number is out of
            range.

    Example:
        >>> pictures = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(torch.uint8)
        >>> CubicalPersistence(construction="top-cells")(pictures).shape
        torch.Size([2, 6, 50, 50])
    """

    construction: Literal["vertices", "top-cells"]
    dimensions: tuple[int, ...] = (0, 1)
    superlevel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.construction not in ("vertices", "top-cells"):
            raise ValueError(f"pixels are 'vertices' or 'top-cells', got {self.construction!r}")
        check_options(self.dimensions, "drop")
        if max(self.dimensions) > 1:
            raise ValueError(f"a picture has bars of dimension 0 and 1, got dimensions={self.dimensions}")

    @property
    def per_channel(self) -> int:
        return len(self.dimensions)

    def diagrams(self, channels: Float[Tensor, "channels height width"]) -> tuple[PersistenceDiagrams, ...]:
        check_reals("channels", channels, "channels", "height", "width")
        inverted = 255 - channels if self.superlevel else channels
        return cubical_diagrams(inverted, construction=self.construction, dimensions=self.dimensions)


@cache
def _tables(
    resolution: int, span: float, bandwidth: float, shortest: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "levels cells"], Float[Tensor, "levels cells"]]:
    """The mass of a bar in every cell, by the level of its birth, and by that of its persistence."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    lower = torch.linspace(0, span, resolution, dtype=torch.float64)
    # The distribution function in the form that is exact in the lower tail.
    edges = torch.stack([lower, lower + span / resolution])
    below = torch.erfc((levels[:, None, None] - edges) / (bandwidth * math.sqrt(2))) / 2
    mass = below.diff(dim=1)[:, 0]
    weight = torch.where(levels > shortest, levels, 0)[:, None]
    return mass.to(dtype), (mass * weight).flip(1).to(dtype)
