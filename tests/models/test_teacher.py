"""The teacher is frozen, stays in evaluation mode, and sees images as it was trained to."""

import pytest
import torch
from torch import nn

from topokd_lib.models import Teacher, create_model
from topokd_lib.outputs import Batch, Normalisation
from topokd_lib.testing import toy_batch


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
        Teacher(model, normalisation=Normalisation((0.5,), (0.2,)))
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
