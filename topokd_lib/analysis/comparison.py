"""How near a student is to its teacher: in what it says, and in the shape of its features."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.data import EpochLoader, StreamLoader
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.prepare import clouds_of_test_images
from topokd_lib.topology import CloudAgreement, PersistenceImage, cloud_agreement, h0_deaths, rips_diagrams

__all__ = ["Comparison", "compare", "scaled_deaths", "shape_agreement"]


@dataclass(frozen=True)
class Comparison:
    """A student beside its teacher, averaged over test minibatches.

    Args:
        agreement: Fraction of test images to which both give the same class.
        image_distance: Mean squared difference of the exact persistence images of both clouds. It depends on
            the scale of the features, as TopKD's loss does.
        death_distance: Root mean square difference of the sorted H0 deaths after each cloud was divided by
            its mean distance between points: the same comparison without scale.
        scale_ratio: Mean distance between the student's points over that between the teacher's.
        clouds: Number of minibatches.
    """

    agreement: float
    image_distance: float
    death_distance: float
    scale_ratio: float
    clouds: int


def scaled_deaths(
    clouds: Float[Tensor, "clouds points dim"],
) -> tuple[Float[Tensor, "clouds bars"], Float[Tensor, " clouds"]]:
    """Sorted H0 deaths in units of the mean distance between the cloud's points, and that distance."""
    points = clouds.shape[1]
    distances = torch.cdist(clouds, clouds, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum(dim=(1, 2)) / (points * (points - 1))
    return h0_deaths(clouds) / mean[:, None], mean


@torch.no_grad()
def compare(
    student: FeatureModel,
    teacher: Teacher,
    loader: EpochLoader | StreamLoader,
    *,
    image: PersistenceImage,
    feature: str = "pooled",
    dimension: int = 0,
) -> Comparison:
    """Compare two networks on the test images, in clouds of the loader's batch size.

    Args:
        student: Left in evaluation mode.
        teacher: Any width; diagrams of clouds in different spaces are comparable.
        loader: Gives the test images; those that do not fill a last cloud count for the agreement only.
        image: The conventions of the persistence image, such as those in a RipsNet's artefact.
        feature: Name of the feature in both networks.
        dimension: Homology dimension of the images.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there are fewer test images than points in a cloud.
    """
    students, teachers, agreement = clouds_of_test_images(student, teacher, loader, feature=feature)
    images = [image(rips_diagrams(clouds, dimensions=(dimension,))[0]) for clouds in (students, teachers)]
    (deaths, scale), (teacher_deaths, teacher_scale) = scaled_deaths(students), scaled_deaths(teachers)
    return Comparison(
        agreement=agreement,
        image_distance=float((images[0] - images[1]).square().mean()),
        death_distance=float((deaths - teacher_deaths).square().mean().sqrt()),
        scale_ratio=float((scale / teacher_scale).mean()),
        clouds=len(students),
    )


def shape_agreement(
    student: FeatureModel,
    teacher: Teacher,
    loader: EpochLoader,
    *,
    feature: str = "pooled",
    neighbours: int = 5,
) -> CloudAgreement:
    """What the student has taken over of the shape of the teacher's features, on the test images.

    Args:
        student: Left in evaluation mode.
        teacher: Any width.
        loader: Gives the test images; its batch size is the number of points of a cloud.
        feature: Name of the feature in both networks.
        neighbours: See :func:`~topokd_lib.topology.cloud_agreement`.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there are fewer test images than points in a cloud, or too few points for the
            neighbours.
    """
    students, teachers, _ = clouds_of_test_images(student, teacher, loader, feature=feature)
    return cloud_agreement(students, teachers, neighbours=neighbours)
