"""What a loss asks of a cloud: points that are free to move descend it alone, and we look at the result.

There is no network and no data set: 64 points in 32 dimensions stand for a student's features of a minibatch,
and a fixed cloud for the teacher's. What a loss does not bring about here, where nothing is in its way, it
does not bring about in a network either.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.errors import require_name
from topokd_lib.objectives import (
    ExactImages,
    normalised_distances,
    rtd_lite_loss,
    signature_loss,
    sorted_deaths_loss,
    topology_loss,
)
from topokd_lib.topology import CloudAgreement, cloud_agreement, rtd1

__all__ = ["LOSSES", "STARTS", "FreeCloud", "free_cloud", "free_cloud_table", "run_free_clouds"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of the student's points and the teacher's."""


def _rkd(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(normalised_distances(student), normalised_distances(teacher))


class _Image:
    """The loss of exact images with the conventions that fit a teacher, who stays the same for many steps."""

    def __init__(self) -> None:
        self._teacher: Tensor | None = None
        self._images = ExactImages(clouds=1)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        if teacher is not self._teacher:
            self._teacher, self._images = teacher, ExactImages(clouds=1, points=len(teacher))
            self._images.observe(teacher[None])
        return topology_loss(self._images(student[None]), self._images(teacher[None]))


LOSSES: dict[str, Loss] = {
    "RKD distance": _rkd,
    "signature": signature_loss,
    "signature, raw": partial(signature_loss, normalise="none"),
    "signature, teacher's edges": partial(signature_loss, edges="teacher"),
    "signature, torch_topological": partial(signature_loss, variant="torch_topological"),
    "signature + 25 RKD": lambda s, t: signature_loss(s, t) + 25 * _rkd(s, t),
    "sorted deaths, raw": partial(sorted_deaths_loss, normalise="none"),
    "sorted deaths": sorted_deaths_loss,
    "H0 image, raw": _Image(),
    "RTD-Lite": rtd_lite_loss,
    "RTD-Lite, min and max": partial(rtd_lite_loss, mode="minmax"),
    "RTD 1": rtd1,
}
"""What is descended, by name. The last takes longer than all others together and is left out by default."""

STARTS = ("random", "projected")
"""Where a student begins: anywhere, or as a random projection of the teacher with noise."""

_SLOW = ("RTD 1",)


@dataclass(frozen=True)
class FreeCloud:
    """One loss from one kind of start, and the mean over seeds of what it left.

    Args:
        loss: Key of :data:`LOSSES`, or ``"start"`` for the cloud before the descent.
        start: One of :data:`STARTS`.
        seeds: How many clouds.
        distances: See :class:`~topokd_lib.topology.CloudAgreement`, as the next four.
        neighbours: Mean over seeds.
        tree: Mean over seeds.
        deaths: Mean over seeds.
        raw_deaths: Mean over seeds.
        spread: Standard deviations over seeds of these five.
    """

    loss: str
    start: str
    seeds: int
    distances: float
    neighbours: float
    tree: float
    deaths: float
    raw_deaths: float
    spread: tuple[float, float, float, float, float]


def make_clouds(
    start: str, seed: int, points: int = 64
) -> tuple[Float[Tensor, "points width"], Float[Tensor, "points student_width"]]:
    """Teacher and student before the descent.

    The teacher is the ReLU of a mixture of ten Gaussians in 64 dimensions, like pooled features; the student
    has 32 dimensions.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    teacher = F.relu(normal(10, 64)[torch.arange(points) % 10] + 0.7 * normal(points, 64))
    if start == "random":
        return teacher, 0.5 * normal(points, 32)
    return teacher, teacher @ normal(64, 32) / math.sqrt(64) + 0.3 * normal(points, 32)


def free_cloud(
    loss: Loss,
    teacher: Float[Tensor, "points dim"],
    student: Float[Tensor, "points width"],
    *,
    steps: int = 300,
) -> Float[Tensor, "points width"]:
    """Where the student's points are after a descent of the loss: Adam, rate 0.05, cosine to 0."""
    cloud = student.clone().requires_grad_()
    optimiser = torch.optim.Adam([cloud], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(cloud, teacher).backward()
        optimiser.step()
        schedule.step()
    return cloud.detach()


def run_free_clouds(
    names: Iterable[str] | None = None,
    *,
    seeds: int = 3,
    steps: int = 300,
    points: int = 64,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[FreeCloud]:
    """Every loss from both kinds of start.

    Args:
        names: Keys of :data:`LOSSES`; ``None``: all but the slow one.
        seeds: Clouds of each kind.
        steps: Of the descent.
        points: In a cloud.
        progress: Called with (loss, done, total).

    Raises:
        UnknownName: If there is no such loss.
        ValueError: If there is no seed, no step, or no more points than neighbours that are compared.
    """
    chosen = [name for name in LOSSES if name not in _SLOW] if names is None else list(names)
    for name in chosen:
        require_name("loss", name, LOSSES)
    if seeds < 1 or steps < 1 or points < 12:
        raise ValueError(
            f"at least one seed, one step and twelve points are needed, got seeds={seeds}, steps={steps} and "
            f"points={points}"
        )
    rows: list[FreeCloud] = []
    total = len(chosen) * len(STARTS)
    for start in STARTS:
        clouds = [make_clouds(start, seed, points) for seed in range(seeds)]
        rows.append(_summary("start", start, [_compare(student, teacher) for teacher, student in clouds]))
        for name in chosen:
            found = [
                _compare(free_cloud(LOSSES[name], teacher, student, steps=steps), teacher)
                for teacher, student in clouds
            ]
            rows.append(_summary(name, start, found))
            if progress is not None:
                progress("free clouds", len(rows) - 1 - STARTS.index(start), total)
    return rows


def free_cloud_table(rows: Sequence[FreeCloud]) -> list[str]:
    """Lines of a table, one block for each kind of start."""
    columns = ("distances", "neighbours", "tree", "deaths", "raw_deaths")
    heads = ("rank corr.", "neighbours", "tree", "H0, scaled", "H0, raw")
    width = max(len(row.loss) for row in rows)
    lines = []
    for start in STARTS:
        lines.append(f"{start + ' start':<{width}}" + "".join(f"{head:>13}" for head in heads))
        lines += [
            f"{row.loss:<{width}}" + "".join(f"{getattr(row, column):>13.3f}" for column in columns)
            for row in rows
            if row.start == start
        ]
        lines.append("")
    lines.append(
        "rank correlation of distances, common neighbours and tree edges: 1 is best; H0 differences: 0 is"
    )
    lines.append(f"best. Means over {rows[0].seeds} clouds.")
    return lines


def _compare(student: Tensor, teacher: Tensor) -> CloudAgreement:
    return cloud_agreement(student[None], teacher[None])


def _summary(loss: str, start: str, found: Sequence[CloudAgreement]) -> FreeCloud:
    columns = {name: [asdict(one)[name] for one in found] for name in asdict(found[0])}
    spread = tuple(statistics.stdev(column) if len(found) > 1 else 0.0 for column in columns.values())
    means = {name: statistics.fmean(column) for name, column in columns.items()}
    one, two, three, four, five = spread
    return FreeCloud(loss, start, len(found), **means, spread=(one, two, three, four, five))
