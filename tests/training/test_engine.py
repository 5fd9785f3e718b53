import random

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from topokd_lib.training import EngineSpec, make_fabric, seed_all
from topokd_lib.training.engine import share_buffers


def draw() -> tuple[float, ...]:
    legacy = np.random.rand()  # noqa: NPY002 (the global state is what is tested)
    return (*torch.rand(3).tolist(), legacy, random.random())


def test_a_seed_and_its_stream_fix_every_generator():
    seed_all(3, 1, 4)
    first = draw()
    seed_all(3, 1, 4)
    assert draw() == first


@pytest.mark.parametrize("stream", [(3, 1, 5), (3, 2, 4), (4, 1, 4), (3, 1), (1, 3, 4)])
def test_any_other_stream_is_another(stream):
    seed_all(3, 1, 4)
    first = draw()
    seed_all(*stream)
    assert not set(draw()) & set(first)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match=r"must not be negative, got \(-1, 2\)"):
        seed_all(-1, 2)


def test_one_process_needs_no_launch():
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    assert (fabric.world_size, fabric.device.type) == (1, "cpu")


def test_several_processes_do_not_exchange_buffers_at_every_step():
    fabric = make_fabric(EngineSpec(accelerator="cpu", devices=2))
    assert isinstance(fabric.strategy, DDPStrategy)
    assert list(fabric.strategy._ddp_kwargs.values()) == [False]
    assert fabric.world_size == 2


def test_automatic_devices_on_a_cpu_are_one_process():
    assert EngineSpec(accelerator="cpu", devices="auto").processes == 1
    assert EngineSpec(accelerator="cpu", devices="auto", num_nodes=3).processes == 3


@pytest.mark.parametrize(
    ("precision", "computed"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)]
)
def test_inputs_of_a_module_are_never_rounded(precision, computed):
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            self.seen = x.dtype, self.linear(x).dtype
            return self.linear(x)

    fabric = make_fabric(EngineSpec(accelerator="cpu", precision=precision))
    look = Look()
    out = fabric.setup(look)(torch.ones(1, 2))
    assert look.seen == (torch.float32, computed)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("settings", [{"devices": 0}, {"num_nodes": 0}])
def test_no_device_is_refused(settings):
    with pytest.raises(ValueError, match="at least one device on at least one node"):
        EngineSpec(**settings)


def test_an_unknown_precision_is_refused():
    spec = EngineSpec()
    object.__setattr__(spec, "precision", "64-true")  # past the type check of the tests
    with pytest.raises(ValueError, match="is '32-true' or 'bf16-mixed', got '64-true'"):
        spec.__post_init__()


def test_sharing_in_one_process_changes_nothing():
    norm = nn.BatchNorm1d(2)
    norm.running_mean += 1
    share_buffers(Fabric(accelerator="cpu", devices=1), norm)
    assert norm.running_mean.tolist() == [1, 1]
