"""TopKD: the student's cloud of features should have the persistence image of the teacher's.

Reference:
    J. Kim, J. You, D. Lee, H. Y. Kim, J.-H. Jung. Do Topological Characteristics Help in Knowledge
    Distillation? ICML 2024. [kim2024topkd]
Explained in:
    book/topology_in_distillation/topkd_digits.ipynb
"""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch
from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.clouds import Connector, RunningMean, feature_cloud, make_connector
from topokd_lib.objectives.exact_images import ExactImages
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact, scale_points

__all__ = ["TopKD", "topology_loss"]


def topology_loss(
    student_images: Float[Tensor, "clouds pixels"], teacher_images: Float[Tensor, "clouds pixels"]
) -> Float[Tensor, ""]:
    r"""Mean squared difference of persistence images.

    .. math:: L_\mathrm{top} = \frac{1}{P} \sum_{i=1}^{P} (\rho^T_i - \rho^S_i)^2

    The paper writes a norm; its code, and its Table 8, use this mean over the :math:`P = 400` pixels.
    """
    return F.mse_loss(student_images, teacher_images)


class TopKD(Objective):
    r""":func:`topology_loss` between the persistence images of the two clouds of a minibatch.

    The feature vectors of a minibatch are a point cloud. With ``image="ripsnet"``, the method as published, a
    frozen RipsNet that was trained on the teacher's clouds estimates both persistence images. With
    ``image="exact"`` both are computed, differentiably. That is the control which the paper lacks, and it
    needs no preparation: without an artefact the conventions of the images are fitted to the teacher's first
    minibatches (:class:`~topokd_lib.objectives.ExactImages`), or given.

    Args:
        pair: The two networks.
        artefact: A RipsNet prepared for this teacher (``topokd prepare ripsnet``), or the path of one. Exact
            images take their conventions from it if there is one.
        image: Where the images come from.
        student_feature: The student's feature; by default that of the teacher.
        teacher_feature: The teacher's; by default the artefact's, or ``"pooled"``.
        connector: A map of the student's points into the teacher's space, see
            :func:`~topokd_lib.objectives.make_connector`. ``"auto"`` adds a linear one where RipsNet needs
            it; exact diagrams of clouds in different spaces can be compared without.
        dimensions: Homology dimensions of exact images without an artefact; 0 by default.
        normalise: ``"mean"`` or ``"max"`` draws the images of clouds that were divided by their mean or
            largest distance, so that they compare shapes and no sizes; ``"none"`` of clouds as they are. By
            default ``"none"`` with an artefact, which was made so, as published, and ``"mean"`` without: a
            student whose features are much smaller or larger than the teacher's has no bar inside images of
            fixed ranges, and then no gradient.
        target: ``"batch"`` compares with the teacher's image of the same minibatch. ``"constant"`` is a
            control: the mean of the teacher's images so far, which knows nothing of the present batch.
        conventions: Images that are to be drawn, one per dimension, in place of fitted ones.
        fit_clouds: Minibatches that conventions are fitted to.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ArtefactMismatch: If the artefact was made for another teacher, feature, width or cloud size.
        CheckpointError: If the artefact cannot be read.
        ValueError: If there is no teacher, or options contradict each other.

    Differs from:
        The official code (jekim5418/TopKD, loops.py) also reads the last minibatch of an epoch, whose 16
        points are unlike the clouds that RipsNet was trained on; here every cloud has the batch size. It fits
        the image's bandwidth, range and maximum on the training clouds and forgets them; here they are in the
        artefact. Its connector is a 1×1 convolution of the pooled map, which is the same linear map. Its
        RipsNet learns from a teacher in training mode and is used with one in evaluation mode; here the modes
        are options of the preparation and of the teacher.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        artefact: Path | RipsNetArtefact | None = None,
        image: Literal["ripsnet", "exact"] = "ripsnet",
        student_feature: str | None = None,
        teacher_feature: str | None = None,
        connector: Connector = "auto",
        dimensions: tuple[int, ...] | None = None,
        normalise: Literal["none", "mean", "max"] | None = None,
        target: Literal["batch", "constant"] = "batch",
        conventions: tuple[PersistenceImage, ...] | None = None,
        fit_clouds: int = 16,
    ) -> None:
        super().__init__()
        pair.require_teacher("TopKD")
        if artefact is not None and not isinstance(artefact, RipsNetArtefact):
            artefact = RipsNetArtefact.load(Path(artefact))
        normalise = normalise or ("mean" if artefact is None else "none")
        _check_options(artefact, image, dimensions, normalise, target, conventions)
        self.teacher_feature = teacher_feature or (artefact.feature if artefact else "pooled")
        self.student_feature = student_feature or self.teacher_feature
        shapes = pair.shapes(student=self.student_feature, teacher=self.teacher_feature)
        student_dim, teacher_dim = shapes[0][0], shapes[1][0]
        if artefact is not None:
            _check_artefact(artefact, pair, self.teacher_feature, teacher_dim)
            conventions, dimensions = (artefact.image,), (artefact.dimension,)
        self.student_features = (self.student_feature,)
        self.teacher_features = (self.teacher_feature,)
        self.normalise = normalise
        self.exact = ExactImages(
            dimensions or (0,), conventions=conventions, clouds=fit_clouds, points=pair.batch_size
        )
        self.ripsnet: RipsNet | None = None
        if image == "ripsnet" and artefact is not None:
            self.ripsnet = deepcopy(artefact.network).requires_grad_(requires_grad=False)
        self.connector = make_connector(connector, student_dim, teacher_dim, needed=self.ripsnet is not None)
        self.mean_target = RunningMean(self.exact.pixels) if target == "constant" else None

    def images(self, clouds: Float[Tensor, "clouds points dim"]) -> Float[Tensor, "clouds pixels"]:
        """Persistence images of clouds in the teacher's feature space, one row each."""
        if self.ripsnet is not None:
            return torch.as_tensor(self.ripsnet(clouds))
        return torch.as_tensor(self.exact(self.scaled(clouds)))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        taught = feature_cloud(teacher[self.teacher_feature]).detach()
        refitted = self.ripsnet is None and self.exact.observes and self.exact.observe(self.scaled(taught))
        cloud = self.connector(feature_cloud(student[self.student_feature]))
        images, target = self._images_of_both(cloud, taught)
        if self.mean_target is not None:
            if refitted:  # means of images of different conventions mean nothing
                self.mean_target.restart()
            target = torch.as_tensor(self.mean_target(target))
        return topology_loss(images, target)

    def _images_of_both(self, cloud: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
        """Of the student and the teacher; in one call, which is faster, if their clouds lie in one space."""
        if self.ripsnet is None and cloud.shape == taught.shape:
            images, target = self.images(torch.cat([cloud, taught])).split(1)
            return images, target.detach()
        with torch.no_grad():
            target = self.images(taught)
        return self.images(cloud), target

    def scaled(self, clouds: Float[Tensor, "clouds points dim"]) -> Float[Tensor, "clouds points dim"]:
        """Clouds in the unit in which exact images are drawn."""
        return torch.stack([scale_points(cloud, self.normalise) for cloud in clouds])


def _check_options(
    artefact: RipsNetArtefact | None,
    image: str,
    dimensions: tuple[int, ...] | None,
    normalise: str,
    target: str,
    conventions: tuple[PersistenceImage, ...] | None,
) -> None:
    for name, value, known in (
        ("image", image, ("ripsnet", "exact")),
        ("normalise", normalise, ("none", "mean", "max")),
        ("target", target, ("batch", "constant")),
    ):
        if value not in known:
            raise ValueError(f"TopKD has no {name}={value!r}; known: {', '.join(known)}")
    if image == "ripsnet" and artefact is None:
        raise ValueError(
            "image='ripsnet' needs the artefact of a RipsNet; make one with `topokd prepare ripsnet`, or "
            "take image='exact', which needs nothing"
        )
    if artefact is None:
        return
    if normalise != "none":
        raise ValueError(
            f"this RipsNet and its images are of clouds as they are, and normalise={normalise!r} changes "
            f"their size; take image='exact' without an artefact"
        )
    if dimensions not in (None, (artefact.dimension,)) or conventions is not None:
        raise ValueError(
            f"the artefact says what is drawn (dimension {artefact.dimension}), and so do dimensions="
            f"{dimensions} or conventions; leave one of the two out"
        )


def _check_artefact(artefact: RipsNetArtefact, pair: Pair, feature: str, dim: int) -> None:
    teacher = pair.require_teacher("TopKD")
    artefact.check(teacher=teacher.name, fingerprint=teacher.fingerprint(), feature=feature, dim=dim)
    if artefact.cloud_size != pair.batch_size:
        raise ArtefactMismatch(
            f"the RipsNet was trained on clouds of {artefact.cloud_size} points, and a minibatch of this "
            f"run has {pair.batch_size}; train with batch_size={artefact.cloud_size}, or prepare another "
            f"one (topokd prepare ripsnet)"
        )
