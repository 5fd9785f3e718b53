"""What objectives share: which feature maps belong together, how their sizes meet, and how widths do.

Reference:
    The regressor is that of A. Romero et al., FitNets, ICLR 2015, §2.2 [romero2015fitnets], in the form
    that the benchmark gave it (HobbitLong/RepDistiller, models/util.py).
Explained in:
    book/reference/objectives.md
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count, takewhile
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import FeatureNotFound
from topokd_lib.pair import Pair

__all__ = [
    "MapPair",
    "average_pixels",
    "common_stages",
    "cosine_decay",
    "hint_regressor",
    "last_stage",
    "pair_maps",
    "pool_to_smaller",
    "require_images",
    "unit_rows",
]


class MapPair(NamedTuple):
    """A feature map of the student and the one of the teacher that it is compared with.

    Shapes are (channels, height, width).
    """

    student: str
    teacher: str
    student_shape: torch.Size
    teacher_shape: torch.Size


def common_stages(pair: Pair, ending: str = "") -> tuple[str, ...]:
    """``stage1``, ``stage2``, … as long as both networks have them, with ``ending`` behind each name.

    Stages are counted from the first. If one network has more, its surplus stages at the end have no partner.
    """
    names = (f"stage{number}{ending}" for number in count(1))
    return tuple(takewhile(lambda n: n in pair.student_shapes and n in pair.teacher_shapes, names))


def last_stage(shapes: Mapping[str, torch.Size]) -> str:
    """The deepest ``stageK`` of a network with features of these shapes.

    Raises:
        FeatureNotFound: If there is none.

    Example:
        >>> last_stage({"stage1": torch.Size((16, 8, 8)), "stage2": torch.Size((32, 4, 4))})
        'stage2'
    """
    names = (f"stage{number}" for number in count(1))
    found = list(takewhile(lambda name: name in shapes, names))
    if not found:
        raise FeatureNotFound(
            f"the network has no feature 'stage1' to begin with; name the feature that is meant. It offers: "
            f"{', '.join(shapes)}."
        )
    return found[-1]


def pair_maps(
    pair: Pair,
    objective: str,
    student_features: tuple[str, ...] | None,
    teacher_features: tuple[str, ...] | None,
    *,
    default: tuple[str, ...],
) -> tuple[MapPair, ...]:
    """The maps that an objective compares, in order.

    Args:
        pair: The two networks.
        objective: Its name, for messages.
        student_features: The student's maps; ``None`` takes the teacher's names.
        teacher_features: The teacher's maps; ``None`` takes the student's names.
        default: The names on both sides if neither is given.

    Raises:
        ValueError: If there is no teacher, nothing to compare, more maps on one side, or a feature is no map.
        FeatureNotFound: If a network does not offer one of the features.
    """
    pair.require_teacher(objective)
    students = next(n for n in (student_features, teacher_features, default) if n is not None)
    teachers = next(n for n in (teacher_features, student_features, default) if n is not None)
    if not students or len(students) != len(teachers):
        raise ValueError(
            f"{objective} compares feature maps two by two and got {len(students)} of the student "
            f"({', '.join(students) or 'none'}) and {len(teachers)} of the teacher "
            f"({', '.join(teachers) or 'none'}); name equally many, and at least one"
        )
    maps = tuple(
        MapPair(student, teacher, *pair.shapes(student=student, teacher=teacher))
        for student, teacher in zip(students, teachers, strict=True)
    )
    for names in maps:
        for role, name, shape in (
            ("student", names.student, names.student_shape),
            ("teacher", names.teacher, names.teacher_shape),
        ):
            if len(shape) != 3:
                raise ValueError(
                    f"{objective} compares feature maps, and {role} feature {name!r} has shape "
                    f"{tuple(shape)}; choose one with channels, height and width, such as 'stage2'"
                )
    return maps


def pool_to_smaller(
    first: Float[Tensor, "batch channels1 height1 width1"],
    second: Float[Tensor, "batch channels2 height2 width2"],
    pooling: Literal["average", "max"] = "average",
) -> tuple[
    Float[Tensor, "batch channels1 height width"],
    Float[Tensor, "batch channels2 height width"],
]:
    """Both maps at the smaller of the two sizes; the larger one is pooled.

    Example:
        >>> small, large = pool_to_smaller(torch.ones(1, 3, 2, 2), torch.arange(16.0).view(1, 1, 4, 4))
        >>> small.shape, large.flatten().tolist()
        (torch.Size([1, 3, 2, 2]), [2.5, 4.5, 10.5, 12.5])
    """
    pool = F.adaptive_max_pool2d if pooling == "max" else F.adaptive_avg_pool2d
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return (
        first if first.shape[2:] == size else pool(first, size),
        second if second.shape[2:] == size else pool(second, size),
    )


def average_pixels(feature: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels"]:
    """One vector per image: a map is averaged over its pixels, a vector stays as it is.

    Example:
        >>> average_pixels(torch.arange(4.0).view(1, 1, 2, 2))
        tensor([[1.5000]])
    """
    return feature.flatten(2).mean(dim=2) if feature.ndim > 2 else feature


def hint_regressor(student_shape: torch.Size, teacher_shape: torch.Size) -> nn.Sequential:
    """A convolution with batch normalisation and ReLU that turns maps of one shape into maps of another.

    ==============================  ==================================================
    the student's map is            convolution
    ==============================  ==================================================
    twice as large                  3×3, stride 2, padding 1
    half as large                   transposed 4×4, stride 2, padding 1
    otherwise as large or larger    kernel 1 + (student's size) − (teacher's), stride 1
    ==============================  ==================================================

    Args:
        student_shape: Channels, height and width that go in.
        teacher_shape: Channels, height and width that come out.

    Raises:
        ValueError: If the student's map is smaller in another ratio than one half.

    Example:
        >>> hint_regressor(torch.Size((6, 8, 8)), torch.Size((10, 8, 8))).conv.kernel_size
        (1, 1)
    """
    (width_in, height, width), (width_out, *size) = student_shape, teacher_shape
    conv: nn.Module
    if [height, width] == [2 * side for side in size]:
        conv = nn.Conv2d(width_in, width_out, 3, stride=2, padding=1)
    elif [2 * height, 2 * width] == size:
        conv = nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1)
    elif height >= size[0] and width >= size[1]:
        conv = nn.Conv2d(width_in, width_out, (1 + height - size[0], 1 + width - size[1]))
    else:
        raise ValueError(
            f"no hint regressor turns a student map of {height}×{width} into a teacher map of "
            f"{size[0]}×{size[1]}: a smaller map can only be doubled; choose features whose sizes are closer"
        )
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width_out), relu=nn.ReLU()))


def unit_rows(vectors: Float[Tensor, "*rows dim"], order: float = 2.0) -> Float[Tensor, "*rows dim"]:
    r"""Each vector divided by its norm, :math:`x / \lVert x \rVert_q`, by default the Euclidean one.

    A vector of zeros has no direction: it becomes zero and gets no gradient, where the usual
    :math:`x / \max(\lVert x \rVert, 10^{-12})` has a gradient of :math:`10^{12}` and
    :math:`x / \lVert x \rVert` has none at all, NaN. So does a vector whose squared norm underflows (a norm
    below :math:`10^{-19}` in float32).

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths: Tensor = torch.linalg.vector_norm(vectors, ord=order, dim=-1, keepdim=True)
    empty = lengths < torch.finfo(lengths.dtype).tiny ** 0.5
    # A product with the reciprocal: the gradient of a division takes twice as long.
    return vectors * lengths.masked_fill(empty, torch.inf).reciprocal()


def cosine_decay(epoch: int, epochs: int, start: int | None) -> float:
    """A factor that is 1 before epoch ``start`` and falls to 0 at the last one, as half a cosine.

    Args:
        epoch: Counted from 0.
        epochs: How many there are.
        start: The first epoch with a factor below 1; ``None`` for none.

    Example:
        >>> [round(cosine_decay(epoch, 4, 1), 4) for epoch in range(4)]
        [1.0, 0.75, 0.25, 0.0]
        >>> cosine_decay(3, 4, None)
        1.0
    """
    if start is None or epoch < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch + 1 - start) / (epochs - start)))


def require_images(objective: str, found: int, needed: int = 2) -> None:
    """Raise ``ValueError`` unless a batch holds enough images to compare them with each other."""
    if found < needed:
        raise ValueError(
            f"{objective} compares the images of a batch with each other and needs at least {needed}, "
            f"got {found}; choose a larger batch_size"
        )
