"""What makes training fast changes no more than the rounding: each switch next to the plain path."""

import functools
import json
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.recipes.made import make_teacher
from topokd_lib.cli import main
from topokd_lib.data import EpochLoader, load_digits
from topokd_lib.models import create_model
from topokd_lib.models.base import _compiled
from topokd_lib.recipes import assemble, load_recipe, stand_in_options
from topokd_lib.recipes.recipe import Recipe
from topokd_lib.training import EngineSpec, Schedule, fit, make_fabric
from topokd_lib.training import engine as engine_module


@pytest.fixture
def words(tmp_path):
    weights = make_teacher(tmp_path / "teacher.safetensors")
    return ["--config", "digits/kd", "--teacher.weights", str(weights), "--schedule.epochs", "1"]


@pytest.fixture
def traced(monkeypatch):
    """``torch.compile`` without its C++ compiler, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    _compiled.cache_clear()
    engine_module._require_compiler.cache_clear()
    yield
    _compiled.cache_clear()
    engine_module._require_compiler.cache_clear()
    torch._dynamo.reset()


def trained(words, out):
    assert main(["train", *words, "--out", str(out)]) == 0
    curve = json.loads((out / "record.json").read_text())["curve"]
    shutil.rmtree(out)
    return [(epoch["loss"], epoch["test"]["loss"]) for epoch in curve]


SWITCHES = {
    "channels-last": ["--engine.channels_last", "true"],
    "fused": ["--schedule.fused", "true"],
    "all": ["--engine.channels_last", "true", "--schedule.fused", "true", "--data.on_device", "false"],
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_rounding_only(switch, words, tmp_path):
    words = [*words, "--schedule.lr", "0.002"]  # large steps amplify a difference of 10⁻⁷ within an epoch
    plain, fast = trained(words, tmp_path / "run"), trained([*words, *SWITCHES[switch]], tmp_path / "run")
    np.testing.assert_allclose(fast, plain, rtol=1e-4)


def test_channels_last_networks_have_the_same_gradients():
    plain = create_model("resnet8", num_classes=5).double()
    other = deepcopy(plain)
    EngineSpec(channels_last=True).tune(other)
    assert other.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for network in (plain, other):
        network.extract(images, ["stage1"])["stage1"].square().sum().backward()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-9, atol=1e-9)


def test_translated_networks_say_the_same(traced):
    model = create_model("resnet8", num_classes=5)
    images = torch.randn(4, 3, 32, 32)
    names = ["stem", "stage2.preact", "pooled"]
    plain = deepcopy(model).train()
    expected = plain.extract(images, names)
    EngineSpec(compile=True).tune(model)
    found = model.train().extract(images, names)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    expected.logits.square().sum().backward()
    found.logits.square().sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-5)


def test_a_copy_of_a_translated_network_uses_its_own_weights(traced):
    model = create_model("resnet8", num_classes=5).eval()
    EngineSpec(compile=True).tune(model)
    images = torch.randn(2, 3, 32, 32)
    copy = deepcopy(model)
    with torch.no_grad():
        copy.last_layer.bias.add_(1)
    torch.testing.assert_close(copy(images), model(images) + 1)


@pytest.mark.slow
def test_a_recipe_can_translate_its_networks(words, tmp_path, traced):
    plain = trained(words, tmp_path / "run")
    fast = trained([*words, "--engine.compile", "true"], tmp_path / "run")
    np.testing.assert_allclose(fast, plain, rtol=1e-3)


@pytest.mark.slow
def test_the_real_compiler_agrees():
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    model = create_model("resnet8", num_classes=5).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model.extract(images, ["stage1", "pooled"])
        EngineSpec(compile=True).tune(model)
        found = model.extract(images, ["stage1", "pooled"])
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["stage1"], expected["stage1"], rtol=1e-5, atol=1e-5)


def test_a_missing_compiler_is_noticed_before_work_starts(words, monkeypatch, capsys, tmp_path):
    def refuse(function):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", refuse)
    engine_module._require_compiler.cache_clear()
    assert main(["train", *words, "--engine.compile", "true", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "topokd: engine.compile=true does not work here (no C++ compiler was found); install a C++ "
        "compiler such as g++, or drop it\n"
    )
    assert not (tmp_path / "run").exists()


def test_fused_steps_are_those_of_the_formula():
    start = torch.randn(50, dtype=torch.float64)
    ends = []
    for fused in (False, True):
        parameter = torch.nn.Parameter(start.clone())
        schedule = Schedule(epochs=5, lr=0.1, milestones=(3,), nesterov=True, fused=fused)
        optimizer = schedule.build([parameter])
        for epoch in range(5):
            schedule.set_epoch(optimizer, epoch)
            optimizer.zero_grad()
            parameter.sin().sum().backward()
            optimizer.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host needs, for which a GPU would have to finish all before."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if any(name.startswith(waiting) for waiting in self.WAITING):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def waits(words, epochs, steps):
    """What one run waits for, from its first batch on."""
    recipe, _ = load_recipe(words[1], words[2:], kind=Recipe)
    parts = assemble(recipe)
    loader = EpochLoader(load_digits(size=8), batch_size=1437 // steps, augment="crop")
    assert loader.steps_per_epoch == steps
    with Waits() as counted:
        fit(
            make_fabric(EngineSpec()),
            parts.student,
            parts.teacher,
            parts.objective,
            loader,
            Schedule(epochs=epochs, milestones=()),
            progress=False,
        )
    return len(counted.found)


def test_no_step_waits_for_the_device(words):
    """Twenty steps more in an epoch wait for nothing more."""
    assert waits(words, epochs=1, steps=30) == waits(words, epochs=1, steps=10) > 0


def test_a_rehearsal_on_noise_takes_recipes_for_images_on_disk(tmp_path):
    text = "data: {name: imagenet, batch_size: 2, augment: resized-crop-flip}\nstudent: resnet8\n"
    options = stand_in_options(text, tmp_path, synthetic=True)
    assert options[:2] == ["--data.name", "noise"]
    assert options[-2:] == ["--data.augment", "none"]
