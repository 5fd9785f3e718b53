"""Time several ways to compute the same thing: agreement first, then interleaved rounds and medians."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

GATE = 4
"""Items on which contenders have to agree before they are timed."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Args:
        name: What is compared.
        compute: From the number of items to the results of that many, `(items, …)`, or to numbers about them.
        items: How many items one sample takes: enough for the clock, few enough for the budget.
        missing: Why it cannot run here, if so: it is named in the table and not run.
        comparable: False if it computes something else, whose time is of interest all the same.
        floor: The least ratio of its time to ours, about half of what was measured; below is a regression.
            None: nothing is promised.
    """

    name: str
    compute: Callable[[int], npt.NDArray[np.floating]] | None = None
    items: int = 1
    missing: str = ""
    comparable: bool = True
    floor: float | None = None


@dataclass(frozen=True)
class Case:
    """Contenders for one input; the first that can run is the reference that the others must agree with.

    Args:
        name: The size, for the table.
        contenders: Reference first; ratios are to the last, which is ours and never missing.
        tolerance: Largest difference allowed, relative to the largest value of the reference.
    """

    name: str
    contenders: tuple[Contender, ...]
    tolerance: float


@dataclass
class Timing:
    """What one contender took, in milliseconds per item, and how many MiB at its peak if that was asked."""

    name: str
    difference: float | None
    agrees: bool
    missing: str = ""
    floor: float | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: float | None = None

    @property
    def median(self) -> float:
        """Median CPU time: other work on the machine does not count."""
        return statistics.median(self.cpu)

    @property
    def spread(self) -> float:
        """Interquartile range of the CPU time relative to its median."""
        if len(self.cpu) < 4:
            return float("nan")
        lower, _, upper = statistics.quantiles(self.cpu, n=4)
        return (upper - lower) / self.median

    @property
    def slowdown(self) -> float:
        """Wall time over CPU time: well above 1, something else was running."""
        return statistics.median(self.wall) / self.median

    def below_floor(self, ours: "Timing") -> bool:
        """Whether ours is less far ahead than promised."""
        timed = bool(self.cpu) and bool(ours.cpu)
        return timed and self.floor is not None and self.median < self.floor * ours.median


def disagreement(found: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """Largest difference relative to the largest value of the reference; infinite if shapes differ."""
    if found.shape != reference.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def run_case(case: Case, *, seconds: float, rounds: int, seed: int = 0) -> list[Timing]:
    """Check every contender on a few items, then time those that agree, in a new random order each round.

    Stops after `rounds` rounds, or after `seconds` if three rounds are done.
    """
    start = time.perf_counter()
    reference = next(contender.compute(GATE) for contender in case.contenders if not contender.missing)
    timings = []
    for contender in case.contenders:
        if contender.missing:
            timings.append(Timing(contender.name, None, agrees=False, missing=contender.missing))
            continue
        found = contender.compute(GATE)  # what has to be compiled is compiled now
        difference = disagreement(found, reference) if contender.comparable else None
        agrees = difference is None or difference <= case.tolerance
        timings.append(Timing(contender.name, difference, agrees, floor=contender.floor))
    order = [pair for pair in zip(case.contenders, timings, strict=True) if pair[1].agrees]
    shuffle = random.Random(seed)
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        shuffle.shuffle(order)
        for contender, timing in order:
            wall, cpu = time.perf_counter(), time.process_time()
            contender.compute(contender.items)
            timing.wall.append((time.perf_counter() - wall) * 1e3 / contender.items)
            timing.cpu.append((time.process_time() - cpu) * 1e3 / contender.items)
    return timings
