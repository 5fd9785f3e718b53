"""RipsNet: a small permutation-invariant network that estimates the persistence images of point clouds.

Reference:
    T. de Surrel et al. RipsNet: a general architecture for fast and robust estimation of the persistent
    homology of point clouds. 2022. [desurrel2022ripsnet]
    M. Zaheer et al. Deep Sets. NeurIPS 2017. [zaheer2017deepsets]
    J. Kim et al. Do topological characteristics help in knowledge distillation? ICML 2024. [kim2024topkd]
"""

import copy
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch, CheckpointError, TrainingDiverged
from topokd_lib.topology.checks import check_reals, check_tensor, is_real, is_whole
from topokd_lib.topology.images import PersistenceImage, check_image

__all__ = ["RipsNet", "RipsNetArtefact", "RipsNetReport", "check_drawn", "fit_ripsnet"]

_POINT_WIDTHS = {
    16: (16, 16, 16),
    32: (32, 16, 16),
    64: (64, 32, 32),
    128: (128, 64, 64),
    256: (256, 128, 128),
    512: (512, 256, 256),
    1024: (512, 256, 256),
    2048: (1024, 512, 256),
}
"""Widths before the pooling in the official code, by feature width."""

_IMAGE_WIDTHS = (50, 100, 200)
"""Widths after the pooling in the official code."""

_FORMAT = "topokd-ripsnet-1"
_MIN_DELTA = 1e-10


def official_widths(dim: int) -> tuple[int, ...]:
    """The six hidden widths of TopKD's RipsNet for points of ``dim`` coordinates.

    The official code has a table for the powers of two from 16 to 2048. In between the next larger entry is
    taken, beyond it the largest.

    Example:
        >>> official_widths(64)
        (64, 32, 32, 50, 100, 200)
    """
    entry = min((width for width in _POINT_WIDTHS if width >= dim), default=max(_POINT_WIDTHS))
    return _POINT_WIDTHS[entry] + _IMAGE_WIDTHS


class RipsNet(nn.Module):
    r"""Estimates the persistence image of a point cloud without computing its persistence.

    .. math:: \operatorname{RN}(X) = \phi_2\Big(\operatorname*{pool}_{x \in X} \phi_1(x)\Big)

    :math:`\phi_1` (three layers with bias and ReLU) looks at every point alone, the pooling forgets the
    order, and :math:`\phi_2` (four layers without bias; ReLU, at the end a sigmoid) draws the image. The
    output does not depend on the order of the points, but unlike persistence it does depend on where the
    cloud lies: RipsNet is not invariant under rotations and translations.

    Args:
        dim: Coordinates of a point.
        pixels: Pixels of the image.
        pooling: ``"sum"``, which grows with the number of points, or ``"mean"``, which does not.
        widths: Six hidden widths, three before the pooling and three after; ``None``: those of the official
            code, see :func:`official_widths`.

    Raises:
        ValueError: If a size is not positive, or the pooling is unknown.

    Attributes:
        input_mean: Subtracted from every point; 0 until :func:`fit_ripsnet` sets it.
        input_std: Every point is divided by it; 1 until :func:`fit_ripsnet` sets it.

    Differs from:
        hensel-f/ripsnet has biases in :math:`\phi_2` as well; this is the form of jekim5418/TopKD
        (layers/ripsnet.py), which in turn has no standardisation of the input.

    Example:
        >>> network = RipsNet(dim=64, pixels=400, pooling="mean")
        >>> network(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 400])
        >>> sum(parameter.numel() for parameter in network.parameters())
        113896
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        dim: int,
        pixels: int,
        *,
        pooling: Literal["sum", "mean"] = "sum",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        given = (1,) * 6 if widths is None else tuple(widths) if isinstance(widths, Sequence) else ()
        if len(given) != 6 or not all(is_whole(size, 1) for size in (dim, pixels, *given)):
            raise ValueError(
                f"a RipsNet has six hidden widths and all its sizes are positive, got dim={dim!r}, "
                f"pixels={pixels!r}, widths={widths!r}"
            )
        self.widths = official_widths(dim) if widths is None else given
        if pooling not in ("sum", "mean"):
            raise ValueError(f"the pooling of a RipsNet is 'sum' or 'mean', got {pooling!r}")
        self.dim, self.pixels, self.pooling = dim, pixels, pooling
        before, after = self.widths[:3], self.widths[3:]
        self.point_layers = nn.ModuleList(_linear_layers((dim, *before), bias=True))
        self.image_layers = nn.ModuleList(_linear_layers((before[-1], *after, pixels), bias=False))
        self.register_buffer("input_mean", torch.zeros(dim))
        self.register_buffer("input_std", torch.ones(dim))

    def forward(self, points: Float[Tensor, "batch points dim"]) -> Float[Tensor, "batch pixels"]:
        """The estimated image of every cloud, row by row, with values between 0 and 1.

        Coordinates are not looked at: one that is not a number makes such an image, as in any network.

        Raises:
            TypeError: If the clouds are not a tensor of real numbers in the network's precision or a lower
                one.
            ValueError: If the clouds are not of shape (batch, points, dim), or have no points.
        """
        check_tensor("clouds", points)
        own = self.input_mean.dtype
        if not points.is_floating_point() or torch.promote_types(points.dtype, own) != own:
            raise TypeError(
                f"this RipsNet computes in {own}, got clouds of {points.dtype}; convert with points.to({own})"
            )
        if points.ndim != 3 or points.shape[2] != self.dim or points.shape[1] == 0:
            raise ValueError(
                f"this RipsNet reads clouds of shape (batch, points, {self.dim}), at least one point each, "
                f"got {tuple(points.shape)}; a student of another width needs a projection in between"
            )
        x = (points - self.input_mean) / self.input_std
        for layer in self.point_layers:
            x = F.relu(layer(x))
        x = x.sum(dim=1) if self.pooling == "sum" else x.mean(dim=1)
        *hidden, last = self.image_layers
        for layer in hidden:
            x = F.relu(layer(x))
        return torch.sigmoid(last(x))


def _linear_layers(widths: Sequence[int], *, bias: bool) -> list[nn.Linear]:
    return [nn.Linear(inputs, outputs, bias=bias) for inputs, outputs in pairwise(widths)]


@dataclass(frozen=True)
class RipsNetReport:
    """How well a RipsNet learned.

    Args:
        train_mse: Mean over the batches of the best epoch.
        validation_mse: Of the returned weights; mean over clouds and pixels.
        constant_mse: Validation error of always answering the mean training image.
        r2: ``1 - validation_mse / constant_mse``: 1 is perfect, 0 no better than the constant. Judge by this;
            the error alone is small because images are mostly dark.
        best_epoch: Counted from 0.
        epochs_run: At most what was asked for.
    """

    train_mse: float
    validation_mse: float
    constant_mse: float
    r2: float
    best_epoch: int
    epochs_run: int


def fit_ripsnet(
    network: RipsNet,
    clouds: Float[Tensor, "clouds points dim"],
    images: Float[Tensor, "clouds ..."],
    *,
    epochs: int,
    learning_rate: float = 5e-4,
    batch_size: int = 64,
    patience: int = 50,
    validation_fraction: float = 0.25,
    standardise: bool = True,
    seed: int = 0,
    progress: Callable[[int, float, float], None] | None = None,
    state: Path | None = None,
    save_every: float = 10.0,
) -> RipsNetReport:
    """Train ``network`` to answer ``images`` for ``clouds``, and leave it with its best weights.

    Mean squared error, Adamax, early stopping: the defaults are the official ones (jekim5418/TopKD,
    RipsNet_modules.py), apart from ``standardise``. The last ``validation_fraction`` of the clouds is held
    out; shuffle beforehand if their order means something. On one machine the result depends on nothing but
    the network's initial weights, the data and the arguments.

    Args:
        network: Trained in place, on the device where it is; the data are moved there batch by batch.
        clouds: Of one size.
        images: Flat, or with the axes of a :class:`~topokd_lib.topology.images.PersistenceImage`.
        epochs: At most this many.
        learning_rate: Of Adamax.
        batch_size: Clouds per step.
        patience: Stop after this many epochs without a better validation error.
        validation_fraction: Between 0 and 1.
        standardise: Set the network's ``input_mean`` and ``input_std`` to those of the training clouds, per
            coordinate (the official code does not).
        seed: Of the order of the batches.
        progress: Called after every epoch with its number from 0, training and validation error.
        state: A file that holds where the training is, to go on there if it is interrupted: to the last bit
            on a CPU. It belongs to these data, arguments and initial weights.
        save_every: Seconds between two writings of the state.

    Raises:
        TypeError: If the network is no RipsNet, or clouds or images are no tensors.
        ValueError: If a number is out of range, clouds, images and network do not fit, the images are out of
            the network's reach, or the validation part would be empty or without variation.
        TrainingDiverged: If the error stops being finite.
        CheckpointError: If the state cannot be read, or is that of another training.

    Example:
        One number to learn: how far the points are from each other.

        >>> random = torch.Generator().manual_seed(0)
        >>> sizes = torch.rand(64, 1, 1, generator=random)
        >>> clouds = sizes * torch.randn(64, 16, 2, generator=random)
        >>> _ = torch.manual_seed(0)
        >>> network = RipsNet(dim=2, pixels=1, pooling="mean")
        >>> report = fit_ripsnet(network, clouds, sizes, epochs=30, learning_rate=1e-2, batch_size=16)
        >>> report.epochs_run, report.r2 > 0.8
        (30, True)
    """
    if not all(is_whole(number, 1) for number in (epochs, batch_size, patience)):
        raise ValueError(
            f"epochs, batch_size and patience are at least 1, got {epochs!r}, {batch_size!r} and {patience!r}"
        )
    if not (is_real(learning_rate, 0) and learning_rate > 0 and is_real(save_every, 0) and is_whole(seed)):
        raise ValueError(
            f"the learning rate is positive, save_every at least 0 and the seed a whole number, got "
            f"{learning_rate!r}, {save_every!r} and {seed!r}"
        )
    _check_data(network, clouds, images)
    clouds, images = clouds.detach(), images.detach().flatten(1)
    known = is_real(validation_fraction)
    training = len(clouds) - round(len(clouds) * validation_fraction) if known else 0
    if not 0 < training < len(clouds):
        raise ValueError(
            f"validation_fraction={validation_fraction!r} leaves {training} of {len(clouds)} clouds for "
            f"training; both parts need at least one"
        )
    mean_image = images[:training].mean(dim=0)
    constant_mse = F.mse_loss(mean_image.expand_as(images[training:]), images[training:]).item()
    if not constant_mse > 0:
        raise ValueError("every validation image equals the mean training image; there is nothing to learn")
    if standardise:
        points = clouds[:training].flatten(0, 1)
        std = points.std(dim=0, correction=0)
        network.input_mean.copy_(points.mean(dim=0))
        network.input_std.copy_(torch.where(std > 0, std, 1.0))

    def error(indices: Tensor) -> Tensor:
        """The sum over clouds of the mean over pixels."""
        inputs, targets = (part[indices].to(network.input_mean) for part in (clouds, images))
        return F.mse_loss(network(inputs), targets) * len(indices)

    def batches(indices: Tensor) -> list[Tensor]:
        return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]

    held_out = batches(torch.arange(training, len(clouds)))
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adamax(network.parameters(), lr=learning_rate)
    best_epoch, best_train_mse, best_validation_mse = -1, math.inf, math.inf
    best_weights: dict[str, Tensor] = {}
    identity: list[float] = []
    if state is not None:
        identity = _training_identity(network, clouds, images, learning_rate, batch_size, training, seed)
    epoch, first = -1, 0
    if state is not None and state.exists():
        saved = _read_state(state, identity)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        best_epoch, best_train_mse, best_validation_mse = saved["best"]
        best_weights, epoch = saved["best_weights"], saved["epoch"]
        first = epoch + 1
    written = time.monotonic()
    stopped = epoch - best_epoch >= patience
    for epoch in range(first, first if stopped else epochs):
        network.train()
        errors = []
        for indices in batches(torch.randperm(training, generator=generator)):
            summed = error(indices)
            optimiser.zero_grad()
            (summed / len(indices)).backward()
            optimiser.step()
            errors.append(summed.detach())
        network.eval()
        with torch.no_grad():
            validation_mse = sum(error(part).item() for part in held_out) / (len(clouds) - training)
        train_mse = float(torch.stack(errors).sum()) / training
        if not math.isfinite(train_mse + validation_mse):
            raise TrainingDiverged(
                f"the error of the RipsNet became {train_mse} (training), {validation_mse} (validation) in "
                f"epoch {epoch}; lower the learning rate, now {learning_rate}"
            )
        if progress is not None:
            progress(epoch, train_mse, validation_mse)
        if validation_mse < best_validation_mse - _MIN_DELTA:
            best_epoch, best_train_mse, best_validation_mse = epoch, train_mse, validation_mse
            best_weights = copy.deepcopy(network.state_dict())
        if state is not None and time.monotonic() - written >= save_every:
            present = {
                "identity": identity,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "best": (best_epoch, best_train_mse, best_validation_mse),
                "best_weights": best_weights,
                "epoch": epoch,
            }
            _write_state(state, present)
            written = time.monotonic()
        if epoch - best_epoch >= patience:
            break
    network.load_state_dict(best_weights)
    return RipsNetReport(
        train_mse=best_train_mse,
        validation_mse=best_validation_mse,
        constant_mse=constant_mse,
        r2=1 - best_validation_mse / constant_mse,
        best_epoch=best_epoch,
        epochs_run=epoch + 1,
    )


def _training_identity(
    network: RipsNet,
    clouds: Tensor,
    images: Tensor,
    learning_rate: float,
    batch_size: int,
    training: int,
    seed: int,
) -> list[float]:
    """Numbers that are the same only for the same training; a sum sees every changed cloud and weight."""
    parts = (clouds, images, *network.state_dict().values())
    sums = [float(part.double().sum()) for part in parts]
    return [*map(float, (*clouds.shape, images.shape[1], learning_rate, batch_size, training, seed)), *sums]


def _read_state(path: Path, identity: list[float]) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        same = saved["identity"] == identity
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}, where a RipsNet's training stood ({error}); delete it"
        ) from error
    if not same:
        raise CheckpointError(
            f"{path} is where the training of another RipsNet stood, with other clouds or settings; delete "
            f"it to begin anew, or name another place"
        )
    return saved


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_data(network: RipsNet, clouds: Tensor, images: Tensor) -> None:
    _check_network(network)
    for name, given in (("clouds", clouds), ("images", images)):
        check_tensor(name, given)
    if clouds.ndim != 3 or images.ndim < 2 or len(clouds) != len(images) or len(clouds) == 0:
        raise ValueError(
            f"every cloud needs one image: got clouds of shape {tuple(clouds.shape)} and "
            f"images of shape {tuple(images.shape)}"
        )
    check_reals("clouds", clouds, "clouds", "points", "dim", finite=False)
    check_reals("images", images.flatten(1), "clouds", "pixels", finite=False)
    dim, pixels = clouds.shape[2], images[0].numel()
    if (dim, pixels) != (network.dim, network.pixels):
        raise ValueError(
            f"the network reads points of {network.dim} coordinates and draws {network.pixels} pixels, the "
            f"data have {dim} and {pixels}; build RipsNet(dim={dim}, pixels={pixels})"
        )
    ends = (end for given in (clouds, images) for end in given.detach().aminmax())  # of NaN both are NaN
    if not all(end.isfinite() for end in ends):
        raise ValueError("clouds and images must be finite, found values that are infinite or not a number")
    if images.min() < 0 or images.mean(dim=0).max() > 1:
        raise ValueError(
            f"a RipsNet ends in a sigmoid and cannot draw values from {images.min().item():.3g} to "
            f"{images.max().item():.3g}; make the images with PersistenceImage.fit(…, normalise=True)"
        )


def _check_network(network: Any) -> None:
    if not isinstance(network, RipsNet):
        raise TypeError(
            f"the network is a RipsNet, got {type(network).__name__}; build RipsNet(dim=…, pixels=…)"
        )


def check_drawn(network: Any, image: PersistenceImage) -> None:
    """Raise unless this is a RipsNet that draws as many pixels as a persistence image has.

    Raises:
        TypeError: If network or image are something else.
        ValueError: If the network draws another number of pixels.
    """
    check_image(image)
    _check_network(network)
    if network.pixels != image.pixels:
        rows, columns = image.resolution
        raise ValueError(
            f"this RipsNet draws {network.pixels} pixels, but the image has "
            f"{rows} × {columns} = {image.pixels}"
        )


@dataclass
class RipsNetArtefact:
    """A trained RipsNet with all that is needed to use it again, or to refuse to.

    The official code keeps the weights only: neither what the images mean nor for which teacher they were
    learned can be told from its files.

    Args:
        network: The trained network.
        image: How the images it learned were made.
        dimension: Homology dimension of those images.
        teacher: Name of the teacher whose features it learned from.
        teacher_fingerprint: Of the teacher's weights.
        feature: Name of the feature.
        cloud_size: Points per cloud it learned from; with sum pooling other sizes are out of its reach.
        report: Numbers of the training, such as those of :class:`RipsNetReport`.
        provenance: Versions, seed and command, for the reader.

    Raises:
        TypeError: If the network is no RipsNet, or the image no PersistenceImage.
        ValueError: If the image has another number of pixels than the network, or the dimension or the size
            of clouds is no such number.
    """

    network: RipsNet
    image: PersistenceImage
    dimension: int
    teacher: str
    teacher_fingerprint: str
    feature: str
    cloud_size: int
    report: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_drawn(self.network, self.image)
        if not (is_whole(self.dimension, 0) and is_whole(self.cloud_size, 1)):
            raise ValueError(
                f"a RipsNet learned one dimension, counted from 0, of clouds of at least 1 point, got "
                f"dimension={self.dimension!r} and cloud_size={self.cloud_size!r}"
            )

    def check(self, *, teacher: str, fingerprint: str, feature: str, dim: int) -> None:
        """Raise unless the artefact was made for this teacher, these weights and this feature.

        Raises:
            ArtefactMismatch: With both sides, and what to do.
        """
        sides = {
            "teacher": (self.teacher, teacher),
            "fingerprint": (self.teacher_fingerprint, fingerprint),
            "feature": (self.feature, feature),
            "feature width": (self.network.dim, dim),
        }
        wrong = [
            f"{name}: made for {made}, used with {used}"
            for name, (made, used) in sides.items()
            if made != used
        ]
        if wrong:
            raise ArtefactMismatch(
                f"this RipsNet belongs to something else ({'; '.join(wrong)}); "
                f"make a new one with `topokd prepare ripsnet`"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, atomically: the path holds the old file or the new one, never half.

        Raises:
            OSError: If the directory cannot be written to.
        """
        path = Path(path)
        network = self.network
        described: dict[str, Any] = {
            "network": {
                "dim": network.dim,
                "pixels": network.pixels,
                "pooling": network.pooling,
                "widths": list(network.widths),
            },
            "image": self.image.to_dict(),
            "dimension": self.dimension,
            "teacher": self.teacher,
            "teacher_fingerprint": self.teacher_fingerprint,
            "feature": self.feature,
            "cloud_size": self.cloud_size,
            "report": self.report,
            "provenance": self.provenance,
        }
        tensors = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        content = save(tensors, metadata={"format": _FORMAT, "artefact": json.dumps(described)})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RipsNetArtefact":
        """Read what :meth:`save` wrote, on the CPU and in evaluation mode.

        Raises:
            CheckpointError: If there is no such file, it is damaged, or it is something else.

        Example:
            >>> import tempfile
            >>> image = PersistenceImage((0.0, 0.0), (0.0, 1.0), bandwidth=0.1, resolution=(5, 5))
            >>> network = RipsNet(dim=3, pixels=25)
            >>> made = RipsNetArtefact(network, image, 0, "resnet20", "a1b2", "pooled", cloud_size=32)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     made.save(f"{folder}/ripsnet.safetensors")
            ...     found = RipsNetArtefact.load(f"{folder}/ripsnet.safetensors")
            >>> (
            ...     found.image == image,
            ...     torch.equal(found.network(torch.ones(1, 4, 3)), network(torch.ones(1, 4, 3))),
            ... )
            (True, True)
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"cannot read a RipsNet from {path}: {error}; make one with `topokd prepare ripsnet`"
            ) from error
        if metadata.get("format") != _FORMAT:
            raise CheckpointError(
                f"{path} is a safetensors file but not a RipsNet (its format is {metadata.get('format')!r}, "
                f"not {_FORMAT!r}); make one with `topokd prepare ripsnet`"
            )
        try:
            return cls._build(json.loads(metadata["artefact"]), tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the RipsNet in {path} is incomplete or inconsistent: {error}; "
                f"make a new one with `topokd prepare ripsnet`"
            ) from error

    @classmethod
    def _build(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "RipsNetArtefact":
        settings = dict(described)
        network = RipsNet(**settings.pop("network")).to(tensors["input_mean"].dtype)
        network.load_state_dict(tensors)
        image = PersistenceImage.from_dict(settings.pop("image"))
        return cls(network=network.eval(), image=image, **settings)
