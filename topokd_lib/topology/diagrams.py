"""Persistence diagrams of a whole batch in one tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topokd_lib.topology.checks import as_array, check_tensor, is_whole

__all__ = ["PersistenceDiagrams", "check_diagrams", "require_finite", "split"]

Infinite = Literal["keep", "drop", "error"] | float
"""Bars that never die: as they are, left out, refused, or dead at this filtration value."""


@dataclass(frozen=True, eq=False)
class PersistenceDiagrams:
    """One persistence diagram per cloud, padded to the same number of bars.

    Args:
        pairs: Birth and death of every bar, in filtration units; an essential bar dies at infinity. Where
            ``mask`` is false the row is padding and holds 0. Padding may stand anywhere.
        mask: True where a bar is real.
        dimension: Homology dimension: 0 components, 1 loops, 2 voids.

    Raises:
        TypeError: If pairs or mask are not tensors, of real numbers and of truth values.
        ValueError: If the shapes do not belong together, the devices differ, or the dimension is not a whole
            number from 0 on. Bars are not looked at here, which would cost time in every step of a training:
            :meth:`from_list` refuses those that die before they are born, and so does what takes diagrams.

    Example:
        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0], [0.0, 3.0]], [[0.0, 2.0]]], dimension=0)
        >>> len(diagrams), diagrams.counts.tolist(), diagrams.persistence.tolist()
        (2, [2, 1], [[1.0, 3.0], [2.0, 0.0]])
        >>> diagrams[1]
        tensor([[0., 2.]])
    """

    pairs: Float[Tensor, "batch bars 2"]
    mask: Bool[Tensor, "batch bars"]
    dimension: int

    def __post_init__(self) -> None:
        check_tensor("pairs", self.pairs)
        check_tensor("masks", self.mask)
        if not self.pairs.is_floating_point() or self.mask.dtype != torch.bool:
            raise TypeError(
                f"diagrams are real pairs and a mask of truth values, got {self.pairs.dtype} and "
                f"{self.mask.dtype}; convert with pairs.float() and mask.bool()"
            )
        if self.pairs.device != self.mask.device:
            raise ValueError(
                f"pairs and mask are on one device, got {self.pairs.device} and {self.mask.device}"
            )
        if self.pairs.ndim != 3 or self.pairs.shape[2] != 2 or self.mask.shape != self.pairs.shape[:2]:
            raise ValueError(
                f"diagrams are pairs of shape (batch, bars, 2) and a mask of shape (batch, bars), got "
                f"{tuple(self.pairs.shape)} and {tuple(self.mask.shape)}; "
                f"PersistenceDiagrams.from_list pads diagrams of different size"
            )
        if not is_whole(self.dimension, 0):
            raise ValueError(f"homology dimensions are whole numbers, counted from 0, got {self.dimension!r}")

    @property
    def births(self) -> Float[Tensor, "batch bars"]:
        """Filtration value at which each bar begins; 0 in padding."""
        return self.pairs[..., 0]

    @property
    def deaths(self) -> Float[Tensor, "batch bars"]:
        """Filtration value at which each bar ends, infinity for an essential one; 0 in padding."""
        return self.pairs[..., 1]

    @property
    def persistence(self) -> Float[Tensor, "batch bars"]:
        """Length of each bar, death minus birth; 0 in padding."""
        return self.deaths - self.births

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of real bars in each diagram."""
        return self.mask.sum(dim=1)

    def __len__(self) -> int:
        return int(self.pairs.shape[0])

    def __getitem__(self, index: int) -> Float[Tensor, "bars 2"]:
        """One diagram without its padding.

        Raises:
            TypeError: If ``index`` is not one whole number.
            IndexError: If there is no such diagram.
        """
        if not is_whole(index):
            raise TypeError(f"a diagram is taken by its number, got {index!r}; select takes several")
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} diagrams, counted from 0, got the number {index}")
        return self.pairs[index][self.mask[index]]

    def select(self, index: Int[Tensor, " chosen"]) -> "PersistenceDiagrams":
        """The diagrams with these numbers, in this order; one may be taken several times.

        Raises:
            TypeError: If the numbers are not a tensor of ``int64``.
            ValueError: If they are not in a row, or there is no such diagram.

        Example:
            >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0]], [[0.0, 2.0]]], dimension=0)
            >>> diagrams.select(torch.tensor([1, 1])).deaths.tolist()
            [[2.0], [2.0]]
        """
        check_tensor("numbers of diagrams", index)
        if index.dtype != torch.int64:
            raise TypeError(
                f"numbers of diagrams are int64, got {index.dtype}; a mask has mask.nonzero()[:, 0]"
            )
        if index.ndim != 1 or not ((index >= 0) & (index < len(self))).all():
            raise ValueError(
                f"numbers of diagrams stand in a row and go from 0 to {len(self) - 1}, got {index.tolist()}"
            )
        return PersistenceDiagrams(self.pairs[index], self.mask[index], self.dimension)

    def to_list(self) -> list[Tensor]:
        """Every diagram without its padding; the inverse of :meth:`from_list`."""
        return [self[index] for index in range(len(self))]

    def flat(self) -> Float[Tensor, "bars 2"]:
        """The real bars of all diagrams, one diagram after the other."""
        return self.pairs[self.mask]

    @classmethod
    def from_list(cls, diagrams: Sequence[Any], dimension: int) -> "PersistenceDiagrams":
        """Pad diagrams of different size, given as tensors, arrays or nested lists of (birth, death).

        Gradients flow through tensors. An empty diagram may be given as ``[]``.

        Raises:
            TypeError: If these are not several diagrams, or one does not consist of real numbers.
            ValueError: If there is no diagram, or one is not of shape (bars, 2), or has a bar that is not a
                number or dies before it is born; or if they are on different devices.

        Example:
            >>> PersistenceDiagrams.from_list([[[0.0, 1.0], [0.5, 2.0]], []], dimension=1).counts
            tensor([2, 0])
        """
        _check_several(diagrams)
        devices = {str(diagram.device) for diagram in diagrams if isinstance(diagram, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"diagrams of a batch are on one device, got {', '.join(sorted(devices))}")
        tensors = [_diagram(index, diagram) for index, diagram in enumerate(diagrams)]
        dtype = max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).bits)
        pairs = pad_sequence([tensor.to(dtype) for tensor in tensors], batch_first=True)
        counts = torch.tensor([len(tensor) for tensor in tensors], device=pairs.device)
        mask = torch.arange(pairs.shape[1], device=pairs.device) < counts[:, None]
        return cls(pairs, mask, dimension)

    @classmethod
    def from_gudhi(
        cls,
        diagrams: Sequence[Any],
        dimension: int,
        *,
        infinite: Infinite = "keep",
        zero_length: Literal["keep", "drop"] = "keep",
        duplicates: Literal["keep", "drop"] = "keep",
        nan: Literal["error", "drop"] = "error",
    ) -> "PersistenceDiagrams":
        """Take over diagrams in either of gudhi's forms, one for each sample.

        The forms are a list of ``(dimension, (birth, death))``, of which the bars of ``dimension`` are taken,
        and an array of shape (bars, 2), which does not know its dimension. Values keep their unit: a squared
        radius stays one. By default nothing is lost.

        Args:
            diagrams: What ``persistence()`` or ``persistence_intervals_in_dimension()`` return, sample by
                sample.
            dimension: Homology dimension.
            infinite: ``"keep"``, ``"drop"`` or refuse (``"error"``) bars with an infinite end, or a number:
                the filtration value at which they die.
            zero_length: What to do with bars that die when they are born.
            duplicates: A diagram counts equal bars; ``"drop"`` keeps the first of each.
            nan: What to do with bars that have an end that is not a number.

        Raises:
            ValueError: If a policy says so, or see :meth:`from_list`.

        Example:
            >>> gudhi = [(1, (2.0, 3.0)), (0, (0.0, float("inf"))), (0, (0.0, 1.0))]
            >>> PersistenceDiagrams.from_gudhi([gudhi], dimension=0, infinite=5.0)[0].tolist()
            [[0.0, 5.0], [0.0, 1.0]]
        """
        policy = _Policy(infinite, zero_length, duplicates, nan)
        _check_several(diagrams)
        bars = [_gudhi_bars(index, diagram, dimension) for index, diagram in enumerate(diagrams)]
        return cls.from_list([policy(index, diagram) for index, diagram in enumerate(bars)], dimension)

    def to_gudhi(
        self,
        *,
        infinite: Infinite = "keep",
        zero_length: Literal["keep", "drop"] = "keep",
        duplicates: Literal["keep", "drop"] = "keep",
        nan: Literal["error", "drop"] = "error",
    ) -> list[list[tuple[int, tuple[float, float]]]]:
        """One list of ``(dimension, (birth, death))`` per diagram: the form that gudhi plots.

        For gudhi's distances and representations, which take arrays, see :meth:`to_list`. The policies are
        those of :meth:`from_gudhi`.

        Raises:
            ValueError: If a policy says so.

        Example:
            >>> PersistenceDiagrams.from_list([[[0.0, 1.0]]], dimension=0).to_gudhi()
            [[(0, (0.0, 1.0))]]
        """
        policy = _Policy(infinite, zero_length, duplicates, nan)
        bars = [policy(index, diagram).tolist() for index, diagram in enumerate(self.to_list())]
        return [[(self.dimension, (birth, death)) for birth, death in diagram] for diagram in bars]

    @classmethod
    def from_giotto(
        cls,
        diagrams: npt.ArrayLike,
        dimension: int,
        *,
        infinite: Infinite = "keep",
        zero_length: Literal["keep", "drop"] = "drop",
        duplicates: Literal["keep", "drop"] = "keep",
        nan: Literal["error", "drop"] = "error",
    ) -> "PersistenceDiagrams":
        """Take the bars of one dimension from giotto-tda's array of (birth, death, dimension).

        giotto-tda pads with bars of length 0, which nothing tells from real ones: they are left out unless
        ``zero_length="keep"``. Under its default, reduced homology, it has left out one infinite bar of
        dimension 0 already. The policies are those of :meth:`from_gudhi`.

        Args:
            diagrams: Array of shape (samples, bars, 3).
            dimension: Homology dimension.
            infinite: See :meth:`from_gudhi`.
            zero_length: See :meth:`from_gudhi`.
            duplicates: See :meth:`from_gudhi`.
            nan: See :meth:`from_gudhi`.

        Raises:
            ValueError: If the shape is another, or see :meth:`from_gudhi`.

        Example:
            >>> giotto = [[[0.0, 1.0, 0], [0.0, 0.0, 0], [2.0, 3.0, 1]]]
            >>> PersistenceDiagrams.from_giotto(giotto, dimension=0)[0].tolist()
            [[0.0, 1.0]]
        """
        array = as_array("giotto-tda's diagrams", diagrams).astype(np.float64)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                f"giotto-tda's diagrams have the shape (samples, bars, 3), with birth, death and dimension, "
                f"got {array.shape}"
            )
        policy = _Policy(infinite, zero_length, duplicates, nan)
        bars = [torch.from_numpy(sample[sample[:, 2] == dimension, :2]) for sample in array]
        return cls.from_list([policy(index, diagram) for index, diagram in enumerate(bars)], dimension)

    def to_giotto(
        self,
        *others: "PersistenceDiagrams",
        infinite: Infinite = "error",
        zero_length: Literal["keep", "drop"] = "keep",
        duplicates: Literal["keep", "drop"] = "keep",
        nan: Literal["error", "drop"] = "error",
    ) -> npt.NDArray[np.float64]:
        """giotto-tda's array of (birth, death, dimension), shape (samples, bars, 3).

        Each dimension has at least one row and is padded as giotto-tda does, by bars of length 0 at its
        smallest birth: a real bar of length 0 is not told from padding afterwards. giotto-tda's transformers
        cannot use infinite bars, so that they are refused unless ``infinite`` says otherwise. The policies
        are those of :meth:`from_gudhi`.

        Args:
            others: The same samples in other dimensions.
            infinite: See :meth:`from_gudhi`.
            zero_length: See :meth:`from_gudhi`.
            duplicates: See :meth:`from_gudhi`.
            nan: See :meth:`from_gudhi`.

        Raises:
            ValueError: If a policy says so, a dimension comes twice, or the numbers of samples differ.

        Example:
            >>> h0 = PersistenceDiagrams.from_list([[[0.0, 1.0]], []], dimension=0)
            >>> h1 = PersistenceDiagrams.from_list([[[2.0, 3.0]], [[2.0, 4.0]]], dimension=1)
            >>> h0.to_giotto(h1).tolist()
            [[[0.0, 1.0, 0.0], [2.0, 3.0, 1.0]], [[0.0, 0.0, 0.0], [2.0, 4.0, 1.0]]]
        """
        policy = _Policy(infinite, zero_length, duplicates, nan)
        blocks = []
        for other in others:
            check_diagrams(other, values=False)
        parts = sorted((self, *others), key=lambda diagrams: diagrams.dimension)
        if len({len(part) for part in parts}) > 1 or len({part.dimension for part in parts}) < len(parts):
            raise ValueError(
                f"one array holds the same samples in different dimensions, got "
                f"{', '.join(f'{len(part)} samples in dimension {part.dimension}' for part in parts)}"
            )
        for part in parts:
            bars = [policy(index, diagram).cpu().numpy() for index, diagram in enumerate(part.to_list())]
            padding = min((float(diagram.min(initial=np.inf)) for diagram in bars), default=np.inf)
            rows = max(1, *map(len, bars))
            block = np.full((len(bars), rows, 3), padding if np.isfinite(padding) else 0.0)
            block[..., 2] = part.dimension
            for target, diagram in zip(block, bars, strict=True):
                target[: len(diagram), :2] = diagram
            blocks.append(block)
        return np.concatenate(blocks, axis=1)


@dataclass(frozen=True)
class _Policy:
    """What a conversion does with bars on which formats disagree; gradients flow through what stays."""

    infinite: Infinite
    zero_length: str
    duplicates: str
    nan: str

    def __post_init__(self) -> None:
        cap = isinstance(self.infinite, (int, float)) and np.isfinite(self.infinite)
        if not cap and self.infinite not in ("keep", "drop", "error"):
            raise ValueError(
                f"infinite bars are handled by 'keep', 'drop', 'error' or a finite number, "
                f"got {self.infinite!r}"
            )
        for name, known in (
            ("zero_length", ("keep", "drop")),
            ("duplicates", ("keep", "drop")),
            ("nan", ("error", "drop")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {' or '.join(map(repr, known))}, got {getattr(self, name)!r}")

    def __call__(self, index: int, diagram: Any) -> Tensor:
        bars = _bars(index, diagram)
        missing = bars.detach().isnan().any(dim=1)
        if self.nan == "error":
            _refuse(index, bars, missing, "an end is not a number; nan='drop' leaves such bars out")
        bars = bars[~missing]
        endless = bars.detach().isinf().any(dim=1)
        if self.infinite == "error":
            _refuse(index, bars, endless, "an end is infinite; infinite='drop' or a number handles such bars")
        elif self.infinite == "drop":
            bars = bars[~endless]
        elif not isinstance(self.infinite, str):
            never = bars.detach()[:, 1] == torch.inf
            _refuse(index, bars, endless & ~never, f"only a death is moved to infinite={self.infinite}")
            late = never & (bars.detach()[:, 0] > self.infinite)
            _refuse(index, bars, late, f"it is born after infinite={self.infinite}, where it is to die")
            deaths = torch.where(never, self.infinite, bars[:, 1])
            bars = torch.stack([bars[:, 0], deaths], dim=1)
        if self.zero_length == "drop":
            bars = bars[bars.detach()[:, 1] != bars.detach()[:, 0]]
        if self.duplicates == "drop":
            _, first = np.unique(bars.detach().cpu().numpy(), axis=0, return_index=True)
            bars = bars[np.sort(first)]
        return bars


def _refuse(index: int, bars: Tensor, wrong: Tensor, reason: str) -> None:
    if wrong.any():
        bar = tuple(bars[int(wrong.nonzero()[0])].tolist())
        raise ValueError(f"diagram {index} has the bar (birth, death) = {bar}: {reason}")


def _check_several(diagrams: Any) -> None:
    if not isinstance(diagrams, (list, tuple, np.ndarray, Tensor)) or not getattr(diagrams, "ndim", 1):
        raise TypeError(f"diagrams are a list, one diagram for each sample, got {type(diagrams).__name__}")
    if len(diagrams) == 0:
        raise ValueError("a batch holds at least one diagram, got an empty list")


def _gudhi_bars(index: int, diagram: Any, dimension: int) -> Any:
    """The bars of one dimension, if the diagram says to which dimension each belongs."""
    if not isinstance(diagram, (list, tuple)) or not diagram or not all(map(_of_a_dimension, diagram)):
        return diagram
    bars = [bar for own, bar in diagram if own == dimension]
    return as_array(f"bars of diagram {index}", bars).astype(np.float64)


def _of_a_dimension(bar: Any) -> bool:
    return isinstance(bar, (list, tuple)) and len(bar) == 2 and np.ndim(bar[1]) == 1


def _bars(index: int, diagram: Any) -> Tensor:
    if isinstance(diagram, Tensor) and not diagram.is_complex():
        tensor = diagram
    else:
        tensor = torch.as_tensor(as_array(f"bars of diagram {index}, of one for each sample,", diagram))
    if isinstance(diagram, (list, tuple)) or not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if tensor.numel() == 0:
        tensor = tensor.reshape(0, 2)
    if tensor.ndim != 2 or tensor.shape[1] != 2:
        raise ValueError(f"diagram {index} must have the shape (bars, 2), got {tuple(tensor.shape)}")
    return tensor


def _diagram(index: int, diagram: Any) -> Tensor:
    tensor = _bars(index, diagram)
    wrong = ~(tensor.detach()[:, 1] >= tensor.detach()[:, 0])
    if wrong.any():
        bar = int(wrong.nonzero()[0])
        _refuse_bar(index, bar, tensor[bar])
    return tensor


def check_diagrams(diagrams: Any, *, values: bool = True) -> None:
    """Raise unless these are diagrams, whose bars die no earlier than they are born.

    Args:
        diagrams: What a user gave.
        values: Whether to look at the bars, which takes a pass over them.

    Raises:
        TypeError: If they are something else.
        ValueError: With the first bar that is wrong.
    """
    if not isinstance(diagrams, PersistenceDiagrams):
        raise TypeError(
            f"diagrams are PersistenceDiagrams of one dimension, got {type(diagrams).__name__}; take one of "
            f"those that rips_diagrams(…) returns, or PersistenceDiagrams.from_list([…], dimension=0)"
        )
    if values and (wrong := diagrams.mask & ~(diagrams.deaths >= diagrams.births)).any():
        index, bar = (int(i) for i in wrong.nonzero()[0])
        _refuse_bar(index, bar, diagrams.pairs[index, bar])


def _refuse_bar(index: int, bar: int, ends: Tensor) -> NoReturn:
    raise ValueError(
        f"diagram {index}, bar {bar} is (birth, death) = {tuple(ends.tolist())}; "
        f"a bar dies no earlier than it is born, and both are numbers"
    )


def split(diagrams: PersistenceDiagrams, bars: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs and masks of a few diagrams at a time: about ``bars`` rows, at least one diagram."""
    size = max(1, bars // max(1, diagrams.pairs.shape[1]))
    if len(diagrams) <= size:
        yield diagrams.pairs, diagrams.mask
        return
    yield from zip(diagrams.pairs.split(size), diagrams.mask.split(size), strict=True)


def require_finite(diagrams: PersistenceDiagrams, purpose: str) -> None:
    """Raise unless these are diagrams whose bars all begin and end somewhere.

    Raises:
        TypeError: If they are something else.
        ValueError: With the first bar that does not.
    """
    check_diagrams(diagrams)
    wrong = diagrams.mask & ~diagrams.pairs.detach().isfinite().all(dim=2)
    if wrong.any():
        index, bar = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"{purpose} need bars that end: diagram {index} has (birth, death) = "
            f"{tuple(diagrams.pairs[index, bar].tolist())}; leave essential bars out with "
            f"rips_diagrams(…, essential='drop')"
        )
