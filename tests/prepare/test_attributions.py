"""Integrated gradients against official values and an integral by hand; a preparation that can be killed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from topokd_lib.data import ImageData, load_digits, normalise
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.models import FeatureModel, Teacher, create_model
from topokd_lib.outputs import Normalisation
from topokd_lib.prepare import AttributionPlan, attribution_map, integrated_gradients, prepare_attributions
from topokd_lib.prepare import attributions as attributions_module

PLAN = AttributionPlan(steps=6, batch_size=5)


class SmallNetwork(FeatureModel):
    """The network of the golden values: three convolutions and a mean."""

    name, num_classes, feature_names = "small", 10, ()

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1)
        self.c3, self.fc = nn.Conv2d(16, 24, 3, 2, padding=1), nn.Linear(24, 10)

    def compute(self, images, taps):
        x = images
        for layer in (self.c1, self.c2, self.c3):
            x = F.relu(layer(x))
        return self.fc(x.mean(dim=(2, 3)))

    @property
    def last_layer(self):
        return self.fc

    def modules_up_to(self, name):
        return ()

    def norm_before(self, name):
        raise ValueError(name)


@pytest.fixture(scope="module")
def few():
    return make_data()


def make_data():
    digits = load_digits(size=8)
    train, test = slice(0, 1437, 60), slice(0, 360, 60)
    return ImageData("few", digits.train_images[train], digits.train_labels[train], digits.test_images[test],
                     digits.test_labels[test], digits.classes, digits.normalisation)  # fmt: skip


def make_teacher(seed=0, **options):
    """Its logits are not proportional to the image, as those of an untrained network are."""
    torch.manual_seed(seed)
    model = create_model("resnet8", num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.3 * torch.randn(len(module.running_mean))
    return Teacher(model, **options)


@pytest.fixture(scope="module")
def teacher():
    return make_teacher()


# --------------------------------------------------------------------------------------- the attributions


@pytest.fixture
def official(golden):
    values = golden("igkd/igkd_cases")
    model = SmallNetwork().eval()
    model.load_state_dict({k.removeprefix("w/"): torch.tensor(v) for k, v in values.items() if k[:2] == "w/"})
    return model, torch.tensor(values["x"]), torch.tensor(values["y"]), values


def test_the_official_attributions(official):
    model, images, targets, values = official
    np.testing.assert_allclose(model(images).detach(), values["logits"], atol=1e-6)
    attributions, missing = integrated_gradients(model, images, targets)
    np.testing.assert_allclose(attributions, values["captum_default_attr"], atol=1e-6)
    np.testing.assert_allclose(missing, values["captum_default_delta"], atol=1e-5)
    np.testing.assert_allclose(attribution_map(attributions), values["official_map"], atol=2e-6)


@pytest.mark.parametrize("steps", [8, 200])
def test_other_numbers_of_steps(official, steps):
    model, images, targets, values = official
    attributions, missing = integrated_gradients(model, images, targets, steps=steps)
    np.testing.assert_allclose(attribution_map(attributions), values[f"captum_n{steps}_map"], atol=2e-6)
    np.testing.assert_allclose(missing, values[f"captum_n{steps}_delta"], atol=1e-5)


def test_an_integral_by_hand():
    """Ten lines with numpy's Gauss–Legendre points agree with captum; the baseline is not zero."""
    torch.manual_seed(3)
    model = SmallNetwork().eval()
    images, baseline, targets = torch.rand(2, 3, 8, 8), torch.rand(3, 8, 8), torch.tensor([1, 7])
    points, weights = np.polynomial.legendre.leggauss(12)
    total = torch.zeros_like(images)
    for place, weight in zip((1 + points) / 2, weights / 2, strict=True):
        between = (baseline + float(place) * (images - baseline)).requires_grad_()
        model(between).gather(1, targets[:, None]).sum().backward()
        total += float(weight) * between.grad
    found, _ = integrated_gradients(model, images, targets, baseline=baseline, steps=12)
    torch.testing.assert_close(found, total * (images - baseline), rtol=1e-4, atol=1e-7)


def test_attributions_are_complete(few, teacher):
    """They add up to the difference of the logits, and better so with more steps."""
    images = normalise(few.test_images, few.normalisation)
    logits = teacher.model(images) - teacher.model(torch.zeros_like(images))
    difference = logits.gather(1, few.test_labels[:, None])[:, 0].detach()
    errors = []
    for steps in (4, 300):
        attributions, missing = integrated_gradients(teacher.model, images, few.test_labels, steps=steps)
        total = attributions.sum(dim=(1, 2, 3))
        torch.testing.assert_close(total - missing, difference, atol=1e-4, rtol=1e-4)
        errors.append(((total - difference).abs() / difference.abs()).mean().item())
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 3


def test_what_a_network_ignores_gets_nothing():
    """And a linear function gives every input its own share: the weight times the difference."""
    torch.manual_seed(0)
    model = SmallNetwork().eval()
    with torch.no_grad():
        model.c1.weight[:, 2] = 0  # the third channel is not seen
    attributions, _ = integrated_gradients(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert attributions[:, 2].abs().max() == 0
    assert attributions[:, :2].abs().max() > 0


def test_parameters_collect_nothing(few):
    model = create_model("resnet8", num_classes=10).eval()
    integrated_gradients(model, normalise(few.test_images, few.normalisation), few.test_labels, steps=2)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------ the directory


def arrays(path):
    return {file.name: np.load(file) for file in sorted(path.glob("*.npy"))}


def test_maps_are_those_of_each_image(few, teacher, tmp_path):
    path = prepare_attributions(teacher, few, PLAN, tmp_path / "maps")
    made = arrays(path)
    assert set(made) == {"train.npy", "test.npy", "train_missing.npy", "test_missing.npy"}
    for part, images, labels in (
        ("train", few.train_images, few.train_labels),
        ("test", few.test_images, few.test_labels),
    ):
        seen = normalise(images, few.normalisation)
        expected, missing = integrated_gradients(teacher.model, seen, labels, steps=6)
        assert made[f"{part}.npy"].dtype == np.float16
        np.testing.assert_allclose(made[f"{part}.npy"], attribution_map(expected), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(made[f"{part}_missing.npy"], missing, rtol=1e-3, atol=1e-5)
    about = json.loads((path / "about.json").read_text())
    assert about["teacher_fingerprint"] == teacher.fingerprint()
    assert about["data_fingerprint"] == few.fingerprint()
    assert about["plan"] == {"steps": 6, "baseline": "mean", "target": "label"}


def test_the_teachers_normalisation_is_used(few, tmp_path):
    own = Normalisation((0.5,) * 3, (0.25,) * 3)
    teacher = make_teacher(normalisation=own, data_normalisation=few.normalisation)
    path = prepare_attributions(teacher, few, PLAN, tmp_path / "maps")
    seen = normalise(few.test_images, own)
    expected, _ = integrated_gradients(teacher.model, seen, few.test_labels, steps=6)
    np.testing.assert_allclose(np.load(path / "test.npy"), attribution_map(expected), rtol=1e-2, atol=1e-4)
    with pytest.raises(ArtefactMismatch, match=r"was made otherwise: translation is .*'scale': \["):
        prepare_attributions(make_teacher(), few, PLAN, path)


def test_black_is_black_and_a_prediction_is_the_teachers(few, teacher, tmp_path):
    plan = replace(PLAN, baseline="black", target="prediction")
    path = prepare_attributions(teacher, few, plan, tmp_path / "maps")
    seen = normalise(few.test_images, few.normalisation)
    black = normalise(torch.zeros_like(few.test_images[:1]), few.normalisation)[0]
    predicted = teacher.model(seen).argmax(dim=1)
    expected, _ = integrated_gradients(teacher.model, seen, predicted, baseline=black, steps=6)
    np.testing.assert_allclose(np.load(path / "test.npy"), attribution_map(expected), rtol=1e-3, atol=1e-6)


KILLED = """\
import os, sys, torch
from topokd_lib.prepare import attributions as attributions_module
from topokd_lib.prepare import AttributionPlan, prepare_attributions
sys.path.insert(0, {here!r})
from test_attributions import few, make_teacher
def stop(_, done, total):
    if done >= 15:
        os._exit(9)
data = few.__wrapped__() if hasattr(few, "__wrapped__") else few
prepare_attributions(make_teacher(), data, AttributionPlan(steps=6, batch_size=5), {path!r}, progress=stop)
"""


def test_a_killed_preparation_goes_on(few, teacher, tmp_path, monkeypatch):
    whole = arrays(prepare_attributions(teacher, few, PLAN, tmp_path / "whole"))
    path = tmp_path / "maps"
    code = KILLED.format(here=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert not path.exists()
    begun = np.load(tmp_path / "maps.partial" / "train_missing.npy")
    assert int((~np.isnan(begun)).sum()) == 15
    explained, told = [], []

    def counted(model, images, targets, **options):
        explained.append(len(images))
        return integrated_gradients(model, images, targets, **options)

    monkeypatch.setattr(attributions_module, "integrated_gradients", counted)
    prepare_attributions(teacher, few, PLAN, path, progress=lambda *step: told.append(step))
    assert sum(explained) == 15  # the other fifteen were there
    assert told[0] == ("attributions", 5, 30)
    assert told[-1] == ("attributions", 30, 30)
    resumed = arrays(path)
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert not (tmp_path / "maps.partial").exists()


def test_what_is_there_is_not_made_again(few, teacher, tmp_path):
    path = prepare_attributions(teacher, few, PLAN, tmp_path / "maps")
    before = (path / "train.npy").stat().st_mtime_ns
    told = []
    again = prepare_attributions(
        teacher, few, replace(PLAN, batch_size=3), path, progress=lambda *step: told.append(step)
    )
    assert again == path
    assert told == []
    assert (path / "train.npy").stat().st_mtime_ns == before


class TestErrors:
    @pytest.mark.parametrize("finished", [True, False])
    def test_made_otherwise(self, finished, few, teacher, tmp_path):
        path = prepare_attributions(teacher, few, PLAN, tmp_path / "maps")
        if not finished:
            path.rename(tmp_path / "maps.partial")
        with pytest.raises(ArtefactMismatch, match=r"was made otherwise: teacher_fingerprint is .* Choose"):
            prepare_attributions(make_teacher(seed=1), few, PLAN, path)
        with pytest.raises(ArtefactMismatch, match=r"plan is .*'steps': 6.* there and .*'steps': 7.* here"):
            prepare_attributions(teacher, few, replace(PLAN, steps=7), path)

    def test_something_else_is_there(self, few, teacher, tmp_path):
        with pytest.raises(DataError, match="holds no attributions"):
            prepare_attributions(teacher, few, PLAN, tmp_path)

    def test_a_place_that_cannot_be_written(self, few, teacher, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"cannot write the attributions .* what is done is kept"):
            prepare_attributions(teacher, few, PLAN, tmp_path / "file" / "maps")

    def test_a_teacher_of_fewer_classes(self, few, tmp_path):
        teacher = Teacher(create_model("resnet8", num_classes=5))
        with pytest.raises(ValueError, match=r"resnet8 has 5 classes, few has 10"):
            prepare_attributions(teacher, few, PLAN, tmp_path / "maps")

    def test_attributions_that_are_not_numbers(self, few, tmp_path):
        teacher = make_teacher()
        with torch.no_grad():
            teacher.model.fc.weight.fill_(torch.nan)
        with pytest.raises(ValueError, match=r"of resnet8 for train image 0 ff\. are not finite in float16"):
            prepare_attributions(teacher, few, PLAN, tmp_path / "maps")

    def test_a_network_in_training_mode(self):
        with pytest.raises(ValueError, match=r"resnet8 is in training mode.*call eval\(\)"):
            integrated_gradients(create_model("resnet8", num_classes=10), torch.rand(1, 3, 8, 8),
                                 torch.tensor([0]))  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "got steps=0 and batch_size=8"),
            ({"baseline": "white"}, "baseline is one of mean, black, got 'white'"),
            ({"target": "second"}, "target is one of label, prediction, got 'second'"),
        ],
    )
    def test_plans_that_cannot_be_carried_out(self, options, message, unchecked):
        with pytest.raises(ValueError, match=message):
            AttributionPlan(**options)

    def test_captum_that_is_not_there(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "captum.attr", None)
        model = create_model("resnet8", num_classes=10).eval()
        with pytest.raises(ImportError, match=r"need captum.*pip install 'topokd-lib\[attribution\]'"):
            integrated_gradients(model, torch.rand(1, 3, 8, 8), torch.tensor([0]))
