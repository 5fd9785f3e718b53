"""How near a student is to its teacher, where the answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from topokd_lib.analysis import Comparison, compare
from topokd_lib.analysis.comparison import scaled_deaths
from topokd_lib.data import ImageData
from topokd_lib.data.loaders import EpochLoader
from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.outputs import Normalisation
from topokd_lib.topology import PersistenceImage

IMAGE = PersistenceImage((0.0, 0.0), (0.0, 5.0), bandwidth=0.5, resolution=(8, 2), weight="persistence")


class Points(FeatureModel):
    """Its pooled feature is the row of red pixels itself, so that clouds can be written down by hand."""

    feature_names = ("pooled",)

    def __init__(self, *, scale: float = 1.0, flip: bool = False) -> None:
        super().__init__()
        self.name, self.num_classes, self.scale = "points", 2, scale
        self.fc = nn.Linear(2, 2)
        nn.init.eye_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.flip = flip

    def compute(self, images, taps):
        pooled = taps.keep("pooled", self.scale * images[:, 0].flatten(1))
        logits = self.fc(pooled)
        return logits.flip(1) if self.flip else logits

    @property
    def last_layer(self):
        return self.fc

    def modules_up_to(self, name):
        return ()

    def norm_before(self, name):
        raise ValueError(name)


def loader(points, *, batch_size):
    """Test images of 1 × 2 pixels whose red values, in whole units, are the points."""
    pixels = torch.tensor(points, dtype=torch.uint8)[:, None, None, :].repeat(1, 3, 1, 1)
    labels = torch.zeros(len(points), dtype=torch.long)
    units = Normalisation((0.0,) * 3, (1 / 255,) * 3)  # a pixel of value 3 is the number 3
    data = ImageData("points", pixels, labels, pixels, labels, ("a", "b"), units)
    return EpochLoader(data, batch_size=batch_size)


LINE = [(0, 0), (1, 0), (3, 0)]
"""Its spanning tree has the edges 1 and 2; the mean distance is (1 + 2 + 3) / 3 = 2."""


def test_scaled_deaths_by_hand():
    deaths, mean = scaled_deaths(torch.tensor([LINE], dtype=torch.float32))
    torch.testing.assert_close(deaths, torch.tensor([[0.5, 1.0]]))
    torch.testing.assert_close(mean, torch.tensor([2.0]))


def test_scaled_deaths_have_no_unit():
    clouds = torch.randn(3, 12, 4)
    deaths, mean = scaled_deaths(clouds)
    again, larger = scaled_deaths(7 * clouds)
    torch.testing.assert_close(again, deaths)
    torch.testing.assert_close(larger, 7 * mean)


def test_identical_networks_agree_in_everything():
    source = loader([(0, 0), (1, 0), (3, 0), (2, 5), (9, 1), (4, 4)], batch_size=3)
    assert compare(Points(), Teacher(Points()), source, image=IMAGE) == Comparison(1.0, 0.0, 0.0, 1.0, 2)


def test_scale_of_the_student_changes_the_images_and_not_the_scaled_deaths():
    source = loader(LINE, batch_size=3)
    found = compare(Points(scale=2.0), Teacher(Points()), source, image=IMAGE)
    assert found.agreement == 1.0
    assert found.death_distance == pytest.approx(0.0, abs=1e-6)
    assert found.scale_ratio == pytest.approx(2.0)
    # Persistence images by hand: bars at p = 1, 2 for the teacher and p = 2, 4 for the student.
    rows = torch.linspace(0, 5, 8)

    def bump(p):
        return p * torch.exp(-((rows - p) ** 2) / (2 * 0.25)) / (2 * torch.pi * 0.25)

    expected = (bump(2.0) + bump(4.0) - bump(1.0) - bump(2.0)).square().mean().item()
    assert found.image_distance == pytest.approx(expected, rel=1e-5)
    assert found.image_distance > 0.01


class Elsewhere(Points):
    """Sees the points of :data:`LINE` at other places: 0, 1.5, 3 in place of 0, 1, 3."""

    def compute(self, images, taps):
        first = images[:, 0, :, 0]
        moved = images.clone()
        moved[:, 0, :, 0] = torch.where(first == 1, torch.full_like(first, 1.5), first)
        return super().compute(moved, taps)


def test_death_distance_by_hand():
    found = compare(Elsewhere(), Teacher(Points()), loader(LINE, batch_size=3), image=IMAGE)
    # Student: edges 1.5 and 1.5, mean distance 2: deaths 0.75, 0.75 against 0.5, 1.0.
    assert found.death_distance == pytest.approx(0.25, rel=1e-5)
    assert found.scale_ratio == pytest.approx(1.0)


def test_agreement_counts_every_image_and_clouds_only_full_ones():
    points = [(1, 0), (0, 1), (1, 0), (2, 0), (3, 1)]
    found = compare(Points(flip=True), Teacher(Points()), loader(points, batch_size=2), image=IMAGE)
    assert (found.agreement, found.clouds) == (0.0, 2)
    assert found.image_distance == 0.0


def test_student_is_left_in_evaluation_mode_and_teacher_untouched():
    student, teacher = Points().train(), Teacher(Points())
    fingerprint = teacher.fingerprint()
    compare(student, teacher, loader(LINE, batch_size=3), image=IMAGE)
    assert not student.training
    assert teacher.fingerprint() == fingerprint


def test_errors():
    source = loader(LINE, batch_size=3)
    with pytest.raises(FeatureNotFound, match="has no feature 'poled'"):
        compare(Points(), Teacher(Points()), source, image=IMAGE, feature="poled")
    short = EpochLoader(
        replace(
            source.data, test_images=source.data.test_images[:2], test_labels=source.data.test_labels[:2]
        ),
        batch_size=3,
    )
    with pytest.raises(
        ValueError, match="a cloud has 3 points, and there are 2 test images; lower batch_size"
    ):
        compare(Points(), Teacher(Points()), short, image=IMAGE)
