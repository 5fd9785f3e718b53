"""What the topological loss adds to a training step: exact, and estimated by RipsNet."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.inputs import embeddings
from benchmarks.measure import Case, Contender
from benchmarks.workloads.h0 import without_numba
from topokd_lib.objectives import topology_loss
from topokd_lib.topology import PersistenceImage, RipsNet, h0_deaths, rips_diagrams, sorted_deaths_distance

TITLE = "Topological loss of a minibatch of 64, forward and backward"


def cases(quick: bool) -> Iterator[Case]:  # noqa: ARG001
    """Of ResNet-20's width and of ResNet-8x4's."""
    for dim in (64, 256):
        yield _case(dim)


def _case(dim: int) -> Case:
    clouds = embeddings(128, 64, dim)
    image = PersistenceImage.topkd_official(rips_diagrams(clouds)[0])
    teacher, student = clouds[:1], 0.95 * clouds[1:2]
    network = RipsNet(dim, image.pixels, pooling="mean").requires_grad_(requires_grad=False)

    def one_call(cloud: Tensor) -> Tensor:
        target, found = image(rips_diagrams(torch.cat([teacher, cloud]))[0])
        return F.mse_loss(found, target)

    def two_calls(cloud: Tensor) -> Tensor:
        with torch.no_grad():
            target = image(rips_diagrams(teacher)[0])
        return topology_loss(image(rips_diagrams(cloud)[0]).flatten(1), target.flatten(1))

    def double(cloud: Tensor) -> Tensor:
        found, target = image(rips_diagrams(torch.cat([cloud, teacher]).double())[0])
        return F.mse_loss(found, target.detach())

    def plain(cloud: Tensor) -> Tensor:
        with without_numba():
            return two_calls(cloud)

    def ripsnet(cloud: Tensor) -> Tensor:
        with torch.no_grad():
            target = network(teacher)
        return topology_loss(network(cloud), target)

    def deaths(cloud: Tensor) -> Tensor:
        with torch.no_grad():
            target = h0_deaths(teacher)
        return sorted_deaths_distance(h0_deaths(cloud), target).mean()

    def steps(loss, count: int) -> np.ndarray:
        for _ in range(count):
            leaf = student.clone().requires_grad_()
            value = loss(leaf)
            value.backward()
        unit = leaf.grad.norm() / 64  # the loss in units of its own, and the gradient
        return np.append(leaf.grad.numpy() / unit.numpy(), value.item() / clouds_loss)

    clouds_loss = double(student).item()
    names = {
        "exact image, in float64": (double, True),
        "exact image, without numba": (plain, True),
        "RipsNet": (ripsnet, False),
        "sorted deaths": (deaths, False),
        "ours: exact image, clouds one by one": (two_calls, True),
        "ours: exact image, both clouds at once": (one_call, True),
    }
    return Case(
        f"features of width {dim}",
        tuple(
            Contender(
                name,
                lambda count, loss=loss: steps(loss, count),
                items=32,
                comparable=comparable,
                floor=0.4 if name == "RipsNet" else None,
            )
            for name, (loss, comparable) in names.items()
        ),
        tolerance=1e-3,
    )
