"""The teacher is frozen, stays in evaluation mode, and sees images as it was trained to."""

import pytest
import torch
from torch import nn

from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import Teacher, TeacherGroup, create_model
from topokd_lib.outputs import Batch, Normalisation
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch

ONE = Normalisation((0.5,), (0.2,))


@pytest.fixture
def model():
    return create_model("resnet8", num_classes=5)


def test_it_is_frozen_and_never_in_training_mode(model):
    teacher = Teacher(model)
    assert not any(p.requires_grad for p in teacher.parameters())
    nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not teacher(toy_batch(), ["pooled"])["pooled"].requires_grad


def test_batch_statistics_leave_the_running_ones_alone(model):
    teacher = Teacher(model, batch_statistics=True)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    plain = model.eval()(toy_batch().images)
    taught = Teacher(model, batch_statistics=True).train()(toy_batch()).logits
    assert not torch.allclose(plain, taught)
    after = teacher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_images_are_translated_into_its_normalisation(model):
    own = Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    data = Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = torch.rand(4, 3, 16, 16)

    def normalised(by):
        return (pixels - torch.tensor(by.mean)[:, None, None]) / torch.tensor(by.std)[:, None, None]

    labels = torch.zeros(4, dtype=torch.long)
    teacher = Teacher(model, normalisation=own, data_normalisation=data)
    found = teacher(Batch(normalised(data), labels, labels)).logits
    torch.testing.assert_close(found, model.eval()(normalised(own)))


def test_one_normalisation_alone_is_refused(model):
    with pytest.raises(ValueError, match="both are needed"):
        Teacher(model, normalisation=ONE)
    with pytest.raises(ValueError, match="positive standard deviation"):
        Normalisation((0.5,), (0.0,))


def test_the_fingerprint_changes_with_any_weight(model):
    teacher = Teacher(model)
    before = teacher.fingerprint()
    assert before == Teacher(model).fingerprint()
    assert len(before) == 16
    with torch.no_grad():
        model.fc.bias[0] += 1e-6
    assert teacher.fingerprint() != before


# ------------------------------------------------------------------------- what is read in place of images


@pytest.fixture
def reader():
    """A teacher of two channels that come as an extra of the batch."""
    network = create_model("resnet8", num_classes=5, in_channels=2)
    return Teacher(network, normalisation=Normalisation((0.1, 0.2), (0.3, 0.4)), reads="map")


def test_an_extra_is_read_in_place_of_the_images(reader):
    batch = toy_batch()
    levels = torch.randint(0, 256, (8, 2, 20, 20), dtype=torch.uint8)
    batch.extras["map"] = levels
    mean, std = torch.tensor([0.1, 0.2])[:, None, None], torch.tensor([0.3, 0.4])[:, None, None]
    expected = reader.model((levels / 255 - mean) / std)
    torch.testing.assert_close(reader(batch).logits, expected)


def test_a_batch_without_the_extra(reader):
    with pytest.raises(ValueError, match=r"teacher resnet8 reads 'map' .* carries none; .*data\.extras\.map"):
        reader(toy_batch())


@pytest.mark.parametrize("options", [{}, {"normalisation": ONE, "data_normalisation": ONE}])
def test_a_reader_needs_its_own_normalisation_alone(model, options):
    with pytest.raises(ValueError, match="reads 'map' needs the normalisation that it was trained with"):
        Teacher(model, reads="map", **options)


# ----------------------------------------------------------------------------------------- several teachers


@pytest.fixture
def group(model, reader):
    return TeacherGroup({"image": Teacher(model), "topology": reader})


@pytest.fixture
def batch():
    batch = toy_batch()
    batch.extras["map"] = torch.randint(0, 256, (8, 2, 20, 20), dtype=torch.uint8)
    return batch


def test_a_group_offers_the_features_of_all_members(group, batch):
    names = ("image/stage1", "topology/stage1", "topology/logits")
    found = group(batch, names)
    assert set(found.features) == set(names) < set(group.feature_names)
    image, topology = (group.members[name](batch, ["stage1"]) for name in ("image", "topology"))
    assert torch.equal(found.logits, image.logits)
    assert torch.equal(found["image/stage1"], image["stage1"])
    assert torch.equal(found["topology/stage1"], topology["stage1"])
    assert torch.equal(found["topology/logits"], topology.logits)
    assert group(batch, group.feature_names).features.keys() == set(group.feature_names)


def test_members_that_nobody_listens_to_do_not_work(group):
    """The batch lacks what the second one reads."""
    assert set(group(toy_batch(), ["image/pooled"]).features) == {"image/pooled"}


def test_a_group_is_a_frozen_teacher(group, batch):
    nn.Sequential(group).train()
    assert not any(module.training for member in group.members.values() for module in member.modules())
    assert not any(p.requires_grad for p in group.parameters())
    assert not group(batch, ["topology/pooled"])["topology/pooled"].requires_grad
    assert (group.num_classes, group.name) == (5, "image: resnet8, topology: resnet8")
    before = group.fingerprint()
    with torch.no_grad():
        group.members["topology"].model.fc.bias[0] += 1e-6
    assert group.fingerprint() != before
    other = group.with_batch_statistics()
    assert not torch.allclose(other(batch).logits, group(batch).logits)


def test_what_a_group_cannot_be(model, group, batch):
    with pytest.raises(ValueError, match="at least one; got none"):
        TeacherGroup({})
    third = Teacher(create_model("resnet8", num_classes=3))
    with pytest.raises(ValueError, match=r"the same classes.*; got a with 5, b with 3"):
        TeacherGroup({"a": Teacher(model), "b": third})
    with pytest.raises(FeatureNotFound, match=r"'stage1'\. Did you mean 'image/stage1'"):
        group(batch, ["stage1"])
    with pytest.raises(ValueError, match=r"has 2 \(image: resnet8, topology: resnet8\); name one"):
        _ = group.model
    with pytest.raises(AttributeError, match="'modell'"):
        _ = group.modell


def test_a_pair_is_measured_with_blank_extras(group):
    options = {"image_shape": (3, 16, 16), "train_labels": torch.arange(5), "batch_size": 4}
    student = create_model("resnet8", num_classes=5)
    pair = Pair.measure(student, group, **options, extra_shapes={"map": (2, 20, 20)})
    assert pair.teacher_shapes["topology/stage1"] == (16, 20, 20)
    assert pair.teacher_shapes["image/logits"] == (5,)
    with pytest.raises(ValueError, match="reads 'map' from the extras of a batch"):
        Pair.measure(student, group, **options)
