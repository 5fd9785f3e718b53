"""Inputs of several workloads, and what their rows need."""

from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["annulus", "embeddings", "missing"]


def embeddings(clouds: int, points: int, dim: int) -> Tensor:
    """What a network's pooled features look like: rectified, around a centre for each of 100 classes."""
    generator = torch.Generator().manual_seed(points * dim)
    centres = 0.7 * torch.randn(100, dim, generator=generator)
    classes = torch.randint(100, (clouds, points), generator=generator)
    return (centres[classes] + 0.6 * torch.randn(clouds, points, dim, generator=generator)).relu()


def annulus(points: int) -> Tensor:
    """A noisy circle in the plane, as in the book's figures."""
    generator = torch.Generator().manual_seed(points)
    angle = 2 * torch.pi * torch.rand(points, generator=generator, dtype=torch.float64)
    radius = 1 + 0.2 * torch.rand(points, generator=generator, dtype=torch.float64)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)[None]


def missing(module: str, package: str) -> str:
    """Why a row cannot run, or nothing."""
    return "" if find_spec(module) else f"not installed (pip install {package})"
