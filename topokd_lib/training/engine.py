"""Where the computation happens: device, number of processes, precision, and the random state."""

import inspect
import os
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from topokd_lib.errors import Interrupted
from topokd_lib.models import FeatureModel

__all__ = [
    "EngineSpec",
    "gather_objects",
    "launch",
    "lost_processes",
    "make_fabric",
    "random_state",
    "restore_random_state",
    "seed_all",
    "share_buffers",
]


@dataclass(frozen=True)
class EngineSpec:
    """What to compute on.

    Args:
        accelerator: ``auto`` takes a GPU if there is one; ``cpu``, ``cuda`` and ``mps`` insist.
        devices: Processes per node, one device each; ``auto`` takes every GPU, or one process without any.
        num_nodes: Machines that work together.
        precision: ``32-true``, or ``bf16-mixed``: the student computes in bfloat16 where autocast thinks it
            safe, while inputs, teacher and every loss stay in float32.
        channels_last: Keep the channels of a pixel side by side in memory, as convolutions like it.
        compile: Translate both networks with ``torch.compile``, which takes a minute at the start.
        accumulate: Batches whose gradients are averaged before each step of the optimiser. Every loss sees
            each batch by itself; those that compare the images of a batch therefore do not see a larger one.
        gather: Let every loss see the batches of all processes together, as one process with all the images
            would. Without it each process compares its own images, and the gradients are averaged.

    Raises:
        ValueError: If a value is out of range.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    gather: bool = False

    def __post_init__(self) -> None:
        if (self.devices != "auto" and self.devices < 1) or self.num_nodes < 1:
            raise ValueError(
                f"training needs at least one device on at least one node, got devices={self.devices} "
                f"and num_nodes={self.num_nodes}"
            )
        if self.accumulate < 1:
            raise ValueError(
                f"a step needs the gradients of at least one batch, got accumulate={self.accumulate}"
            )
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"the precision is '32-true' or 'bf16-mixed', got {self.precision!r}")

    @property
    def uses_cuda(self) -> bool:
        """Whether the computation runs on NVIDIA or ROCm GPUs."""
        return self.accelerator == "cuda" or (self.accelerator == "auto" and torch.cuda.is_available())

    @property
    def processes(self) -> int:
        """Processes on all nodes together."""
        gpus = torch.cuda.device_count() if self.uses_cuda else 1
        return self.num_nodes * (max(gpus, 1) if self.devices == "auto" else self.devices)

    def tune(self, network: FeatureModel) -> None:
        """Arrange a network as ``channels_last`` and ``compile`` say; its numbers change by rounding only.

        Raises:
            ValueError: If ``torch.compile`` does not work here.
        """
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compile:
            _require_compiler("cuda" if self.uses_cuda else "cpu")
            network.compiled = True


@cache
def _require_compiler(device: str) -> None:
    """Translate a line, so that a missing compiler is noticed before work starts."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # every backend has its own
        raise ValueError(
            f"engine.compile=true does not work here ({' '.join(str(error).split())[:200]}); install a C++ "
            f"compiler such as g++, or drop it"
        ) from error


class Float32Inputs(MixedPrecision):
    """Mixed precision that leaves the inputs of a module alone.

    Fabric's own casts every floating-point tensor that enters a module, so the teacher's logits and features
    would be rounded to bfloat16 before any loss sees them.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(spec: EngineSpec | None = None) -> Fabric:
    """A Fabric for this specification.

    With several processes call its ``launch()`` first of all; it starts the other processes by running the
    same command again. Running statistics are not exchanged at every step: each process keeps those of its
    own images, and :func:`share_buffers` hands out those of process 0 before they are used.
    """
    spec = spec or EngineSpec()
    settings: dict[str, Any] = {
        "accelerator": spec.accelerator,
        "devices": spec.processes // spec.num_nodes,
        "num_nodes": spec.num_nodes,
    }
    if spec.processes > 1:
        # Newer versions of torch renamed the argument and warn about the old name.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        no_exchange: dict[str, Any] = {name: False}
        settings["strategy"] = DDPStrategy(**no_exchange)
    if spec.precision == "bf16-mixed":
        settings["plugins"] = Float32Inputs("bf16-mixed", device="cuda" if spec.uses_cuda else "cpu")
    return Fabric(**settings)


def launch(fabric: Fabric, spec: EngineSpec) -> None:
    """Start the other processes, or join those that torchrun or SLURM has started.

    A worker group that torchrun starts again finds the addresses of the dead one in its store; processes that
    read them before they are replaced wait for nobody (torch 2.15). Here every attempt has names of its own.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and spec.processes > 1:
        rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        agent = dist.TCPStore(host, port, processes, is_master=False)  # type: ignore[attr-defined]
        store = dist.PrefixStore(f"attempt{attempt}", agent)  # type: ignore[attr-defined]
        backend = "nccl" if spec.uses_cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    fabric.launch()


def seed_all(seed: int, *stream: int) -> None:
    """Seed torch, NumPy and Python from a seed and the numbers that tell streams apart.

    Training calls it with rank, stage and epoch at the start of every epoch, so that there is no random state
    to save: an epoch's dropout is the same whether or not the run was interrupted before it.

    Raises:
        ValueError: If a number is negative.

    Example:
        >>> seed_all(0, 1)
        >>> first = torch.rand(1)
        >>> seed_all(0, 2)
        >>> bool(first == torch.rand(1))
        False
        >>> seed_all(0, 1)
        >>> bool(first == torch.rand(1))
        True
    """
    if min(seed, *stream, 0) < 0:
        raise ValueError(f"seeds must not be negative, got {(seed, *stream)}")
    words = np.random.SeedSequence((seed, *stream)).generate_state(2)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(int(words[0]))  # noqa: NPY002 (augmentations of others may read the global state)
    random.seed(int(words[1]))


def random_state(fabric: Fabric) -> dict[str, Any]:
    """The state of the generators that :func:`seed_all` seeds, in plain containers for a checkpoint."""
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002
    assert isinstance(numpy_state, tuple)
    name, keys, *rest = numpy_state
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(fabric.device) if fabric.device.type == "cuda" else None,
        "numpy": [name, keys.tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def restore_random_state(fabric: Fabric, state: Mapping[str, Any]) -> None:
    """Continue where :func:`random_state` was taken."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], fabric.device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


@contextmanager
def lost_processes(fabric: Fabric) -> Iterator[None]:
    """Tell that another process of the run has ended, where its messages are missed.

    Raises:
        Interrupted: In place of what the communication library says.
    """
    try:
        yield
    except RuntimeError as error:
        ours = type(error).__module__.startswith("topokd_lib")
        if ours or fabric.world_size == 1 or not re.search(r"(?i)gloo|nccl|peer|socket", str(error)):
            raise
        raise Interrupted(
            f"another process of this run has ended ({str(error).splitlines()[0][:120]}); "
            f"the same command goes on from the last state that was stored"
        ) from error


def gather_objects(fabric: Fabric, item: Any) -> list[Any]:
    """What every process holds, in the order of their ranks, on all of them."""
    if fabric.world_size == 1:
        return [item]
    items: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(items, item)
    return items


def share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give every process the buffers (such as running statistics) of process 0."""
    if fabric.world_size == 1:
        return
    buffers = list(module.buffers())
    for own, shared in zip(buffers, fabric.broadcast([b.cpu() for b in buffers]), strict=True):
        own.copy_(shared)
