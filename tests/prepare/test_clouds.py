"""The clouds of a teacher: shuffled, augmented minibatches, seen by a network that does not change."""

import pytest
import torch

from topokd_lib.data import EpochLoader, load_digits
from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import feature_cloud
from topokd_lib.prepare import teacher_clouds


@pytest.fixture(scope="module")
def data():
    return load_digits(size=8)


@pytest.fixture
def teacher():
    return Teacher(create_model("resnet8", num_classes=10))


def loader(data, **settings):
    return EpochLoader(data, **{"batch_size": 64, "augment": "crop", **settings})


def test_a_cloud_is_what_the_teacher_makes_of_a_training_batch(data, teacher):
    source = loader(data, seed=3)
    clouds = teacher_clouds(teacher, source, feature="pooled", clouds=2)
    batches = source.train_batches(0)
    expected = torch.cat([feature_cloud(teacher(next(batches), ["pooled"])["pooled"]) for _ in range(2)])
    torch.testing.assert_close(clouds, expected)
    assert clouds.shape == (2, 64, 64)
    assert not clouds.requires_grad


def test_augmentation_and_seed_reach_the_clouds(data, teacher):
    def first(**settings):
        return teacher_clouds(teacher, loader(data, **settings), feature="pooled", clouds=1)

    assert torch.equal(first(seed=1), first(seed=1))
    assert not torch.equal(first(seed=1), first(seed=2))
    assert not torch.equal(first(augment="crop"), first(augment="none"))


def test_more_clouds_than_an_epoch_has_go_on_with_the_next(data, teacher):
    source = loader(data, batch_size=500, augment="none")
    assert source.steps_per_epoch == 2
    told = []
    clouds = teacher_clouds(teacher, source, feature="pooled", clouds=5, progress=lambda *t: told.append(t))
    assert told == [(made, 5) for made in range(1, 6)]
    assert len({cloud.sum().item() for cloud in clouds}) == 5  # every epoch has its own order
    later = next(iter(source.train_batches(2)))
    torch.testing.assert_close(clouds[4], teacher(later, ["pooled"])["pooled"])


def test_maps_are_averaged_over_their_pixels(data, teacher):
    clouds = teacher_clouds(teacher, loader(data), feature="stage3", clouds=1)
    pooled = teacher_clouds(teacher, loader(data), feature="pooled", clouds=1)
    torch.testing.assert_close(clouds, pooled)


def test_errors(data, teacher):
    with pytest.raises(ValueError, match="at least one cloud is needed, got clouds=0"):
        teacher_clouds(teacher, loader(data), feature="pooled", clouds=0)
    with pytest.raises(FeatureNotFound, match=r"resnet8 has no feature 'poled'\. Did you mean 'pooled'\?"):
        teacher_clouds(teacher, loader(data), feature="poled", clouds=1)
