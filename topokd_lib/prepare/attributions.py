"""Integrated gradients of a teacher for every image of a data set, computed once and kept on disk.

Reference:
    M. Sundararajan, A. Taly, Q. Yan. Axiomatic Attribution for Deep Networks. ICML 2017, §3.
    [sundararajan2017ig]
    D. Hernandez, J. Chang, T. Nordling. Knowledge Distillation: Enhancing Neural Network Compression with
    Integrated Gradients. 2025. [hernandez2025igkd]
Differs from:
    The official code (nordlinglab/ModelCompression-IntegratedGradients, Compute_IGs.py) attributes images
    that are cropped and mirrored at random, in a random order, and reads the maps by the images' numbers:
    each image gets the map of another. Here images are as they are and in their order;
    :class:`~topokd_lib.data.OverlayLoader` can bring the disorder back.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.data import ImageData, normalise
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.models import FeatureModel, Teacher

__all__ = ["AttributionPlan", "attribution_map", "integrated_gradients", "prepare_attributions"]

FORMAT = "topokd-extra-1"
PARTS = ("train", "test")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AttributionPlan:
    """How attributions are made.

    Args:
        steps: Points on the way from the baseline to the image; 50 in the official code.
        baseline: What stands for "nothing to see": the ``"mean"`` colour of the teacher's training images, as
            in the official code, which has zeros in normalised space, or ``"black"``.
        target: Whose logit is explained: that of the ``"label"``, as in the official code, or of the
            teacher's own ``"prediction"``.
        batch_size: Images at a time; each takes ``steps`` passes through the network, all at once.

    Raises:
        ValueError: If a number is not positive, or a word is unknown.
    """

    steps: int = 50
    baseline: Literal["mean", "black"] = "mean"
    target: Literal["label", "prediction"] = "label"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"attributions need at least one step and one image at a time, got steps={self.steps} and "
                f"batch_size={self.batch_size}"
            )
        for name, known in (("baseline", ("mean", "black")), ("target", ("label", "prediction"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, got {getattr(self, name)!r}")


def integrated_gradients(
    model: FeatureModel,
    images: Float[Tensor, "batch channels height width"],
    targets: Int[Tensor, " batch"],
    *,
    baseline: Float[Tensor, "channels height width"] | None = None,
    steps: int = 50,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
    r"""What every number of an image adds to one logit, compared with a baseline.

    .. math:: \mathrm{IG}_i(x) = (x_i - x'_i) \int_0^1
              \frac{\partial z_y}{\partial x_i} \big( x' + t (x - x') \big) \, dt

    The integral is a sum over Gauss–Legendre points. Attributions are complete: they add up to
    :math:`z_y(x) - z_y(x')`, but for the error of the sum, which is returned as well and falls with
    ``steps``.

    Args:
        model: In evaluation mode. Its parameters collect no gradients.
        images: As the model sees them, normalised.
        targets: The class whose logit is explained, for each image.
        baseline: :math:`x'`, likewise; ``None``: zeros, which is the mean colour.
        steps: Number of points.

    Returns:
        The attributions, and by how much their sums miss the difference of the logits.

    Raises:
        ImportError: If captum, which does the work, is not installed.
        ValueError: If the model is in training mode.

    Example:
        >>> from topokd_lib.models import create_model
        >>> model = create_model("resnet8", num_classes=10).eval()
        >>> images = torch.rand(2, 3, 8, 8)
        >>> attributions, missing = integrated_gradients(model, images, torch.tensor([3, 5]))
        >>> difference = (model(images) - model(torch.zeros_like(images)))[[0, 1], [3, 5]]
        >>> torch.allclose(attributions.sum(dim=(1, 2, 3)) - missing, difference, atol=1e-4)
        True
    """
    if model.training:
        raise ValueError(
            f"{model.name} is in training mode, where images of a batch change each other's logits; call "
            f"eval()"
        )
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise ImportError(
            "integrated gradients need captum, which is not installed: pip install 'topokd-lib[attribution]'"
        ) from error
    attributions, missing = IntegratedGradients(model).attribute(
        images,
        baselines=torch.zeros_like(images) if baseline is None else baseline.expand_as(images),
        target=targets,
        n_steps=steps,
        method="gausslegendre",
        return_convergence_delta=True,
    )
    return attributions.detach().to(images.dtype), missing.detach().to(images.dtype)


def attribution_map(
    attributions: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch height width"]:
    r"""How much each pixel matters, whatever its sign: :math:`\sum_c |\mathrm{IG}_{chw}|`.

    Example:
        >>> attribution_map(torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]]]]))
        tensor([[[4.0000, 2.5000]]])
    """
    return attributions.abs().sum(dim=1)


def prepare_attributions(
    teacher: Teacher,
    data: ImageData,
    plan: AttributionPlan,
    path: Path | str,
    *,
    progress: Progress | None = None,
) -> Path:
    """Attribution maps of a teacher for all training and test images, or what is left to do of them.

    They lie in a directory that :class:`~topokd_lib.data.SampleArrays` opens: ``train.npy`` and ``test.npy``
    with one float16 map per image, ``train_missing.npy`` and ``test_missing.npy`` with what the sum of each
    image's attributions misses, and ``about.json``. While work goes on, the directory is called
    ``PATH.partial``; after an interruption the same call goes on from the last complete batch.

    Args:
        teacher: Whose logits are explained, with the normalisation that it was trained with.
        data: The images, as they are: nothing is cropped or mirrored.
        plan: All other choices.
        path: The directory. If it is there and was made in the same way, nothing is done.
        progress: Called with ("attributions", images done, images in all).

    Returns:
        The directory.

    Raises:
        ArtefactMismatch: If ``path``, or the beginning of it, was made with another teacher, of other images
            or in another way.
        DataError: If the directory cannot be read or written.
        ImportError: If captum is not installed.
        ValueError: If the teacher knows fewer classes than there are, or an attribution is not a number that
            float16 can hold.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from topokd_lib.data import ImageData, load_digits
        >>> from topokd_lib.models import create_model
        >>> digits = load_digits(size=8)
        >>> few = ImageData(
        ...     "few",
        ...     digits.train_images[:4],
        ...     digits.train_labels[:4],
        ...     digits.test_images[:2],
        ...     digits.test_labels[:2],
        ...     digits.classes,
        ...     digits.normalisation,
        ... )
        >>> teacher = Teacher(create_model("resnet8", num_classes=10))
        >>> with TemporaryDirectory() as folder:
        ...     made = prepare_attributions(teacher, few, AttributionPlan(steps=4), folder + "/maps")
        ...     np.load(made / "train.npy").shape
        (4, 8, 8)
    """
    if teacher.num_classes < data.num_classes:
        raise ValueError(
            f"teacher {teacher.name} has {teacher.num_classes} classes, {data.name} has {data.num_classes}; "
            f"attributions need the logit of every label"
        )
    path = Path(path)
    identity = {
        "format": FORMAT,
        "data": data.name,
        "data_fingerprint": data.fingerprint(),
        "teacher": teacher.name,
        "teacher_fingerprint": teacher.fingerprint(),
        "translation": {name: getattr(teacher, name).flatten().tolist() for name in ("scale", "shift")},
        "plan": {name: value for name, value in asdict(plan).items() if name != "batch_size"},
    }
    if path.exists():
        _require_same(path / "about.json", identity)
        return path
    beginning = path.with_name(f"{path.name}.partial")
    images = {"train": data.train_images, "test": data.test_images}
    labels = {"train": data.train_labels, "test": data.test_labels}
    total = sum(map(len, images.values()))
    with _told_where(path):
        _begin(beginning, identity, {part: (len(x), *x.shape[2:]) for part, x in images.items()})
        passed = 0
        for part in PARTS:
            maps, missing = (np.load(beginning / f"{part}{e}.npy", mmap_mode="r+") for e in ("", "_missing"))
            for start in range(0, len(maps), plan.batch_size):
                here = slice(start, min(start + plan.batch_size, len(maps)))
                if np.isnan(missing[here]).any():
                    found = _explain(teacher, data, images[part][here], labels[part][here], plan)
                    maps[here] = _half(attribution_map(found[0]), teacher, f"{part} image {start} ff.")
                    maps.flush()
                    missing[here] = found[1].cpu().numpy()  # a number here says that the maps are there
                    missing.flush()
                if progress is not None:
                    progress("attributions", passed + here.stop, total)
            passed += len(maps)
        beginning.replace(path)
    return path


def _explain(
    teacher: Teacher, data: ImageData, pixels: Tensor, labels: Tensor, plan: AttributionPlan
) -> tuple[Tensor, Tensor]:
    """Attributions of a few images, in the space of the teacher's inputs."""
    device = next(teacher.model.parameters()).device

    def seen(pixels: Tensor) -> Tensor:
        images = normalise(pixels.to(device), data.normalisation)
        return images * teacher.scale + teacher.shift if teacher.scale.numel() else images

    images = seen(pixels)
    black = seen(torch.zeros_like(pixels[:1]))[0] if plan.baseline == "black" else None
    with torch.no_grad():
        targets = teacher.model(images).argmax(dim=1) if plan.target == "prediction" else labels.to(device)
    return integrated_gradients(teacher.model, images, targets, baseline=black, steps=plan.steps)


def _half(maps: Tensor, teacher: Teacher, where: str) -> Any:
    halved = maps.half()
    if not halved.isfinite().all():
        raise ValueError(
            f"attributions of {teacher.name} for {where} are not finite in float16 (largest "
            f"{float(maps.max()):.3g}); are its weights and its normalisation right?"
        )
    return halved.cpu().numpy()


def _begin(folder: Path, identity: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Arrays for everything, unless they are there; ``about.json`` comes last and says that they are."""
    about = folder / "about.json"
    if about.exists():
        _require_same(about, identity)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for part, shape in shapes.items():
        np.save(folder / f"{part}.npy", np.zeros(shape, np.float16))
        np.save(folder / f"{part}_missing.npy", np.full(shape[:1], np.nan, np.float32))
    partial = folder / "about.json.partial"
    partial.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    partial.replace(about)


def _require_same(about: Path, identity: dict[str, Any]) -> None:
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        differing = [name for name in identity if known.get(name) != identity[name]]
    except (AttributeError, OSError, ValueError) as error:
        raise DataError(
            f"{about.parent} holds no attributions ({error}); choose another path, or delete it"
        ) from None
    if differing:
        raise ArtefactMismatch(
            f"{about.parent} was made otherwise: "
            + "; ".join(f"{name} is {known.get(name)} there and {identity[name]} here" for name in differing)
            + ". Choose another path, or delete it"
        )


@contextmanager
def _told_where(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the attributions {path} ({error.strerror or error}); what is done is kept. Make "
            f"room, or choose another path"
        ) from error
