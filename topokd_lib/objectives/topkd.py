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
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch
from topokd_lib.objectives.base import Objective
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact, rips_diagrams

__all__ = ["TopKD", "feature_cloud", "topology_loss"]


def feature_cloud(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "1 batch dim"]:
    """The point cloud of a minibatch: one point per image, feature maps averaged over their pixels.

    Raises:
        ValueError: If the feature is neither a vector nor a map per image.

    Example:
        >>> feature_cloud(torch.ones(64, 16, 8, 8)).shape
        torch.Size([1, 64, 16])
    """
    if feature.ndim == 4:
        feature = feature.mean(dim=(2, 3))
    if feature.ndim != 2:
        raise ValueError(
            f"a point cloud needs one vector or one map per image, got a feature of shape "
            f"{tuple(feature.shape)}"
        )
    return feature[None]


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
    ``image="exact"`` both are computed: the diagram from the cloud, differentiably, and the image with the
    conventions stored in the artefact. That is the control which the paper lacks.

    If the two features differ in width, a trainable linear map takes the student's into the teacher's space.

    Args:
        pair: The two networks.
        artefact: A RipsNet prepared for this teacher (``topokd prepare ripsnet``), or the path of one.
        image: Where the images come from.
        student_feature: The student's feature; by default the one that the artefact names for the teacher.
        connector: ``"auto"`` adds the linear map when the widths differ, ``"none"`` never.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ArtefactMismatch: If the artefact was made for another teacher, feature, width or cloud size.
        CheckpointError: If the artefact cannot be read.
        ValueError: If there is no teacher, or the widths differ and ``connector="none"``.

    Differs from:
        The official code (jekim5418/TopKD, loops.py) also reads the last minibatch of an epoch, whose 16
        points are unlike the clouds that RipsNet was trained on; here every cloud has the batch size. It fits
        the image's bandwidth, range and maximum on the training clouds and forgets them; here they are in the
        artefact. Its connector is a 1×1 convolution of the pooled map, which is the same linear map.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        artefact: Path | RipsNetArtefact,
        image: Literal["ripsnet", "exact"] = "ripsnet",
        student_feature: str | None = None,
        connector: Literal["auto", "none"] = "auto",
    ) -> None:
        super().__init__()
        teacher = pair.require_teacher("TopKD")
        if not isinstance(artefact, RipsNetArtefact):
            artefact = RipsNetArtefact.load(Path(artefact))
        self.teacher_feature = artefact.feature
        self.student_feature = student_feature or artefact.feature
        shapes = pair.shapes(student=self.student_feature, teacher=self.teacher_feature)
        student_dim, teacher_dim = shapes[0][0], shapes[1][0]
        artefact.check(
            teacher=teacher.name,
            fingerprint=teacher.fingerprint(),
            feature=self.teacher_feature,
            dim=teacher_dim,
        )
        if artefact.cloud_size != pair.batch_size:
            raise ArtefactMismatch(
                f"the RipsNet was trained on clouds of {artefact.cloud_size} points, and a minibatch of this "
                f"run has {pair.batch_size}; train with batch_size={artefact.cloud_size}, or prepare another "
                f"one (topokd prepare ripsnet)"
            )
        if student_dim != teacher_dim and connector == "none":
            raise ValueError(
                f"student {self.student_feature!r} has {student_dim} channels, teacher "
                f"{self.teacher_feature!r} has {teacher_dim}; allow a connector (connector='auto') or choose "
                f"features of equal width"
            )
        self.student_features = (self.student_feature,)
        self.teacher_features = (self.teacher_feature,)
        self.dimension = artefact.dimension
        self.persistence_image: PersistenceImage = artefact.image
        self.ripsnet: RipsNet | None = None
        if image == "ripsnet":
            self.ripsnet = deepcopy(artefact.network).requires_grad_(requires_grad=False)
        self.connector = nn.Identity() if student_dim == teacher_dim else nn.Linear(student_dim, teacher_dim)

    def images(self, clouds: Float[Tensor, "clouds points dim"]) -> Float[Tensor, "clouds pixels"]:
        """Persistence images of clouds in the teacher's feature space, one row each."""
        if self.ripsnet is not None:
            return torch.as_tensor(self.ripsnet(clouds))
        (diagrams,) = rips_diagrams(clouds, dimensions=(self.dimension,))
        return self.persistence_image(diagrams).flatten(1)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        student_cloud = self.connector(feature_cloud(student[self.student_feature]))
        with torch.no_grad():
            target = self.images(feature_cloud(teacher[self.teacher_feature]))
        return topology_loss(self.images(student_cloud), target)
