"""Persistence images: diagrams as pictures of fixed size, with every convention named.

Reference:
    H. Adams et al. Persistence images: a stable vector representation of persistent homology. JMLR 18, 2017.
    [adams2017persistence]
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.errors import did_you_mean
from topokd_lib.topology.checks import is_finite, is_real, is_whole
from topokd_lib.topology.diagrams import PersistenceDiagrams, check_diagrams, split
from topokd_lib.topology.drawing import WEIGHTS, draw

__all__ = ["PersistenceImage", "check_image", "tgd_official"]

_CHUNK = 2**17
"""Table entries held at a time, so that all passes over them stay in the cache of a core."""

_SAME = 1e-5
"""Bars nearer than this count as one in the rule for the bandwidth, as in the official code."""

_VALUES = ("density", "mass")


@dataclass(frozen=True)
class PersistenceImage:
    r"""A map from diagrams to images, differentiable with respect to births and deaths.

    Every bar of birth :math:`b` and persistence :math:`p = d - b` becomes a Gaussian of standard deviation
    :math:`h` around :math:`(b, p)` with the weight :math:`w(b, p)`:

    .. math:: \rho(x, y) = \frac{1}{s} \sum_{(b, p)} \frac{w(b, p)}{2 \pi h^2}
              \exp\left(-\frac{(x - b)^2 + (y - p)^2}{2 h^2}\right)

    Rows are persistence ascending, columns birth ascending; padding adds nothing and a diagram without bars
    is the image 0. The Gaussian is a product, so the image is one matrix product of two tables of
    exponentials (or of error functions) instead of an exponential per bar and pixel.

    Args:
        birth_range: First and last birth of the image. Both may be equal if the value is the density: in
            dimension 0 every birth is 0, and all columns are the same.
        persistence_range: First and last persistence of the image.
        bandwidth: Standard deviation :math:`h` of the Gaussian, in filtration units (persim's ``sigma`` is
            the variance).
        resolution: Rows and columns.
        weight: :math:`w`: 1, :math:`p`, RipsNet's :math:`10 \tanh p`, or TopKD's
            :math:`10 \tanh p + 10 \ln(100 b + 1)`, which in dimension 0 equals RipsNet's.
        value: ``"density"``: :math:`\rho` at ``linspace(first, last)``, ends included, as in gudhi.
            ``"mass"``: the integral of :math:`\rho` over cells that tile the range, as in persim.
        scale: :math:`s`, by which the image is divided.

    Raises:
        ValueError: If a number is out of its range or a name is unknown.

    Example:
        One bar (0, 1), seen from its own position: the peak of the density is 1 / 2πh².

        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0]]], dimension=0)
        >>> image = PersistenceImage((0.0, 1.0), (0.0, 1.0), bandwidth=1.0, resolution=(2, 2))
        >>> image(diagrams) * 2 * torch.pi
        tensor([[[0.6065, 0.3679],
                 [1.0000, 0.6065]]])
    """

    birth_range: tuple[float, float]
    persistence_range: tuple[float, float]
    bandwidth: float
    resolution: tuple[int, int] = (20, 20)
    weight: Literal["constant", "persistence", "tanh", "topkd"] = "persistence"
    value: Literal["density", "mass"] = "density"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_name("weight", self.weight, WEIGHTS)
        _check_name("value", self.value, _VALUES)
        for name, number in (("bandwidth", self.bandwidth), ("scale", self.scale)):
            if not (is_real(number) and number > 0):
                raise ValueError(
                    f"the {name} of a persistence image must be positive and finite, got {number!r}"
                )
        if not _is_pair(self.resolution) or not all(is_whole(number, 1) for number in self.resolution):
            raise ValueError(f"the resolution is (rows, columns), at least one each, got {self.resolution!r}")
        births, persistences = self.birth_range, self.persistence_range
        if not (_is_range(births) and births[0] <= births[1]):
            raise ValueError(f"birth_range is (first, last), finite and ascending, got {births!r}")
        if not (_is_range(persistences) and persistences[0] < persistences[1]):
            raise ValueError(
                f"persistence_range is (first, last), finite and of positive width, got {persistences!r}; "
                f"an image whose rows are all the same shows nothing of how long bars live"
            )
        if self.value == "mass" and births[0] == births[1]:
            raise ValueError(
                f"cells of width 0 hold no mass: birth_range is {births}, as it is when all bars are born "
                f"together; take value='density', or a range such as ({births[0]} - h, {births[0]} + h)"
            )

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.resolution[0] * self.resolution[1]

    def __call__(self, diagrams: PersistenceDiagrams) -> Float[Tensor, "batch persistence birth"]:
        """The image of every diagram.

        Raises:
            TypeError: If the diagrams are something else.
            ValueError: If a bar is infinite or not a number, or born before 0 under the weight ``"topkd"``.
        """
        check_diagrams(diagrams, values=False)
        self._check(diagrams)
        shape = len(diagrams), *self.resolution
        rows, columns = self.resolution
        distinct = columns if self.birth_range[0] < self.birth_range[1] else 1
        parts = list(split(diagrams, _CHUNK // (rows + distinct)))
        if len(parts) == 1:
            return draw(self, *parts[0]).expand(shape).contiguous()
        if diagrams.pairs.requires_grad and torch.is_grad_enabled():
            return torch.cat([draw(self, *part) for part in parts]).expand(shape).contiguous()
        images = diagrams.pairs.new_empty(shape)
        done = 0
        for pairs, mask in parts:
            images[done : done + len(pairs)] = draw(self, pairs, mask)
            done += len(pairs)
        return images

    def _check(self, diagrams: PersistenceDiagrams) -> None:
        pairs = diagrams.pairs.detach()
        if not is_finite(pairs):
            index, bar = (int(i) for i in (~pairs.isfinite()).any(dim=2).nonzero()[0])
            raise ValueError(
                f"diagram {index} has the bar (birth, death) = {tuple(pairs[index, bar].tolist())}, which "
                f"has no place in an image; leave essential bars out with rips_diagrams(…, essential='drop')"
            )
        early = self.weight == "topkd" and pairs.numel() > 0 and bool(pairs[..., 0].min() < 0)
        if early and bool(((pairs[..., 0] < 0) & diagrams.mask).any()):
            raise ValueError(
                f"the weight 'topkd' takes the logarithm of 100 b + 1 and needs births of at least 0, found "
                f"{pairs[..., 0].min().item()}; choose another weight"
            )

    @classmethod
    def fit(
        cls,
        diagrams: PersistenceDiagrams,
        *,
        resolution: tuple[int, int] = (20, 20),
        weight: Literal["constant", "persistence", "tanh", "topkd"] = "persistence",
        value: Literal["density", "mass"] = "density",
        bandwidth: float | None = None,
        quantile: float = 0.2,
        sample: int = 200,
        normalise: bool = True,
        seed: int = 0,
    ) -> "PersistenceImage":
        """Ranges, bandwidth and scale chosen so that the images of ``diagrams`` are filled and at most 1.

        The ranges go from the smallest to the largest birth and persistence. Keep the result: images are
        comparable only if they were made with the same numbers.

        Args:
            diagrams: What the image should show.
            resolution: See the class.
            weight: See the class.
            value: See the class.
            bandwidth: ``None``: the ``quantile`` of the distances greater than 1e-5 between ``sample`` bars.
            quantile: From 0 to 1; RipsNet and TopKD take 0.2.
            sample: Number of bars drawn without replacement for the bandwidth.
            normalise: Divide by the largest pixel of all images.
            seed: Of the draw.

        Raises:
            TypeError: If the diagrams are something else.
            ValueError: If there is no bar, all bars are equally long, a bar is infinite or dies before it is
                born, a number is out of its range, or the bandwidth cannot be chosen because fewer than two
                of the sampled bars differ.

        Differs from:
            The official code takes the first 200 bars, so that its bandwidth depends on the order of the
            diagrams; see :meth:`topkd_official`.

        Example:
            >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]]], dimension=0)
            >>> image = PersistenceImage.fit(diagrams)
            >>> image.birth_range, image.persistence_range, round(image(diagrams).max().item(), 4)
            ((0.0, 0.0), (1.0, 4.0), 1.0)
        """
        bars = _bars(diagrams)
        if bandwidth is None:
            if not (is_real(quantile, 0) and quantile <= 1 and is_whole(sample, 2) and is_whole(seed)):
                raise ValueError(
                    f"the bandwidth rule needs a quantile from 0 to 1 and a sample of at least 2 bars, drawn "
                    f"with a seed, got quantile={quantile!r}, sample={sample!r}, seed={seed!r}"
                )
            draw = torch.randperm(len(bars), generator=torch.Generator().manual_seed(seed))[:sample]
            bandwidth = _bandwidth(bars[draw.to(bars.device)], quantile)
        (first_birth, shortest), (last_birth, longest) = bars.amin(dim=0).tolist(), bars.amax(dim=0).tolist()
        image = cls((first_birth, last_birth), (shortest, longest), bandwidth, resolution, weight, value)
        return image.normalised(diagrams) if normalise else image

    @classmethod
    def topkd_official(cls, diagrams: PersistenceDiagrams) -> "PersistenceImage":
        """The image that TopKD's code makes of a set of diagrams (jekim5418/TopKD, ripsnet_utils.py).

        20 × 20 values of the density; bandwidth from the 0.2-quantile of the first 200 bars; weight
        ``"topkd"``; ranges from minimum to maximum; divided by the largest pixel of the set. The official
        code does not keep these numbers, so its images cannot be made again; here they are the result.
        Above dimension 0 bars may die together, and the first 200 are then those of gudhi's simplex tree only
        if the diagrams come from there, through :meth:`PersistenceDiagrams.from_gudhi`.

        Raises:
            ValueError: As :meth:`fit`.
        """
        bars = _bars(diagrams)
        bandwidth = _bandwidth(bars[:200], quantile=0.2)
        return cls.fit(diagrams, weight="topkd", bandwidth=bandwidth)

    def normalised(self, diagrams: PersistenceDiagrams) -> "PersistenceImage":
        """The same with the scale that makes 1 the largest pixel of the images of ``diagrams``.

        Raises:
            TypeError: If the diagrams are something else.
            ValueError: If that pixel is not positive, so that there is nothing to divide by, or a bar dies
                before it is born.

        Example:
            >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0]]], dimension=0)
            >>> image = PersistenceImage((0.0, 0.0), (0.0, 1.0), bandwidth=1.0).normalised(diagrams)
            >>> round(image.scale, 4), round(image(diagrams).max().item(), 4)
            (0.1592, 1.0)
        """
        check_diagrams(diagrams)
        plain = replace(self, scale=1.0)
        chunk = max(1, _CHUNK // self.pixels)
        pairs, mask = diagrams.pairs.detach(), diagrams.mask
        largest = max(
            plain(
                PersistenceDiagrams(
                    pairs[start : start + chunk], mask[start : start + chunk], diagrams.dimension
                )
            )
            .max()
            .item()
            for start in range(0, len(diagrams), chunk)
        )
        if not largest > 0:
            raise ValueError(
                f"the largest pixel of these images is {largest}, nothing to normalise by: do the ranges "
                f"{self.birth_range} × {self.persistence_range} contain any bar?"
            )
        return replace(self, scale=largest)

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON can hold them."""
        return {name: list(item) if isinstance(item, tuple) else item for name, item in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "PersistenceImage":
        """The inverse of :meth:`to_dict`.

        Raises:
            TypeError: If the settings are no mapping.
            ValueError: If a setting is missing, unknown or out of range.

        Example:
            >>> image = PersistenceImage((0.0, 0.0), (0.0, 1.0), bandwidth=1.0)
            >>> PersistenceImage.from_dict(image.to_dict()) == image
            True
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings are a mapping, as to_dict makes it, got {type(settings).__name__}")
        known = {field.name for field in fields(cls)}
        if set(settings) != known:
            raise ValueError(
                f"a persistence image has the settings {sorted(known)}; missing: "
                f"{sorted(known - set(settings))}, unknown: {sorted(set(settings) - known)}"
            )
        arguments = dict(settings)
        for name in ("birth_range", "persistence_range", "resolution"):
            if isinstance(settings[name], list):
                arguments[name] = tuple(settings[name])
        return cls(**arguments)


def tgd_official(
    diagrams: PersistenceDiagrams, *, faintest: float = 0.0
) -> UInt8[Tensor, "batch persistence birth"]:
    r"""The 50 × 50 grey images that TGD's code makes of the rows of a picture (jeunsom/TGD, GenPI_Images).

    Bars of finite persistence above 0.02 are drawn with the bandwidth 0.01 and a weight proportional to
    their persistence. Each image is divided by its own largest value, multiplied by 255 and cut off to whole
    numbers. Three things keep this from being a :class:`PersistenceImage`: rows are persistence *descending*;
    pixel :math:`k` is the mass of the cell from :math:`0.3 k / 49`, which is 0.006 wide and so leaves a gap
    of 0.00012 to the next; and no two images have the same scale. There is no gradient.

    Args:
        diagrams: Births and deaths in grey levels / 255, essential and short bars included or not.
        faintest: Images are black whose largest value, before they are divided, is below this. Officially
            0, so that the tails of Gaussians far outside, down to 1e-178, are drawn at full brightness;
            1e-6 leaves these artefacts out.

    Raises:
        TypeError: If the diagrams are something else.
        ValueError: If ``faintest`` is negative or not a number, or a bar is not a number or dies before it is
            born.

    Example:
        A bar from 0.1 to 0.2 lights the cell that contains (0.1, 0.1), in row 16 from below.

        >>> diagrams = PersistenceDiagrams.from_list([[[0.1, 0.2]]], dimension=0)
        >>> picture = tgd_official(diagrams)[0]
        >>> picture.max().item(), divmod(picture.argmax().item(), 50)
        (255, (33, 16))
    """
    check_diagrams(diagrams)
    if not is_real(faintest, 0):
        raise ValueError(
            f"the faintest image that is drawn has a largest value of at least 0, got {faintest!r}"
        )
    lower = torch.linspace(0, 0.3, 50, dtype=torch.float64, device=diagrams.pairs.device)
    edges = torch.stack([lower, lower + 0.3 / 50])
    images = []
    for pairs, mask in split(diagrams, _CHUNK // (4 * 50)):
        births = pairs[..., 0].detach().double()
        persistence = pairs[..., 1].detach().double() - births
        kept = mask & persistence.isfinite() & (persistence > 0.02)
        births, persistence = (torch.where(kept, values, 0) for values in (births, persistence))
        across, along = (
            (torch.erfc((values[..., None, None] - edges) / (0.01 * math.sqrt(2))) / 2).diff(dim=-2)[
                ..., 0, :
            ]
            for values in (births, persistence)
        )
        longest = F.pad(persistence, (0, 1)).amax(dim=1, keepdim=True)
        weights = persistence / torch.where(longest > 0, longest, 1)
        images.append((along * weights[..., None]).mT @ across)
    image = torch.cat(images).flip(1)
    largest = image.amax(dim=(1, 2), keepdim=True)
    drawn = (largest > 0) & (largest >= faintest)
    return torch.where(drawn, image / torch.where(drawn, largest, 1) * 255, 0).to(torch.uint8)


def check_image(image: Any) -> None:
    """Raise TypeError unless this is a persistence image."""
    if not isinstance(image, PersistenceImage):
        raise TypeError(
            f"an image is a PersistenceImage, got {type(image).__name__}; see PersistenceImage.fit"
        )


def _bars(diagrams: PersistenceDiagrams) -> Float[Tensor, "bars 2"]:
    """Birth and persistence of all bars, one diagram after the other."""
    check_diagrams(diagrams)
    bars = diagrams.flat().detach()
    if len(bars) == 0:
        raise ValueError(
            f"there is no bar in these {len(diagrams)} diagrams of dimension {diagrams.dimension} to choose "
            f"ranges from; give them: PersistenceImage(birth_range=…, persistence_range=…, bandwidth=…)"
        )
    if not bars.isfinite().all():
        raise ValueError(
            "a range cannot end at an infinite bar; leave essential bars out with "
            "rips_diagrams(…, essential='drop')"
        )
    return torch.stack([bars[:, 0], bars[:, 1] - bars[:, 0]], dim=1)


def _bandwidth(bars: Float[Tensor, "bars 2"], quantile: float) -> float:
    distances = torch.linalg.vector_norm(bars[:, None] - bars[None], dim=2).double()
    distances = distances[distances > _SAME]
    if len(distances) == 0:
        raise ValueError(
            f"the bandwidth is a quantile of the distances between bars, and no two of the {len(bars)} bars "
            f"are more than {_SAME} apart; give bandwidth=…"
        )
    return float(distances.quantile(quantile))


def _is_pair(numbers: Any) -> bool:
    return isinstance(numbers, (tuple, list)) and len(numbers) == 2


def _is_range(limits: Any) -> bool:
    return _is_pair(limits) and all(map(is_real, limits))


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(
            f"a persistence image has no {kind} {name!r}.{did_you_mean(name, known)} "
            f"Known: {', '.join(known)}."
        )
