"""Functions on graphs: against the column algorithm and gudhi, as signals on a path, with gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.topology import FilteredComplex, graph_diagrams, reduce_boundary, signal_diagrams

quick = settings(max_examples=50)


@st.composite
def functions(draw):
    """A graph, with loops at a vertex and repeated edges, and functions full of ties on it."""
    vertices = draw(st.integers(1, 7))
    ends = st.integers(0, vertices - 1)
    edges = draw(st.lists(st.tuples(ends, ends), max_size=14))
    shape = (draw(st.integers(1, 3)), vertices)
    values = draw(hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
    return torch.from_numpy(values), torch.tensor(edges, dtype=torch.int64).reshape(-1, 2)


def in_order(bars):
    bars = np.asarray(bars)
    return bars[np.lexsort(bars.T)]


@given(functions(), st.booleans())
@quick
def test_diagrams_are_those_of_the_column_algorithm(drawn, superlevel):
    values, edges = drawn
    found = graph_diagrams(values, edges, dimensions=(0, 1, 2), superlevel=superlevel, essential="keep")
    simplices = [tuple(sorted(set(edge))) for edge in edges.tolist()] + [(v,) for v in range(values.shape[1])]
    for index, row in enumerate((-values if superlevel else values).tolist()):
        filtration = FilteredComplex.lower_star(simplices, dict(enumerate(row)))
        expected = reduce_boundary(filtration).diagrams((0, 1, 2), essential="keep")
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(in_order(ours[index]), in_order(theirs[0]))


@given(hnp.arrays(np.float64, (2, 9), elements=st.integers(-3, 3).map(float)).map(torch.from_numpy))
@quick
def test_a_path_is_a_signal(values):
    steps = torch.arange(8)
    (found,) = graph_diagrams(values, torch.stack([steps, steps + 1], dim=1))
    for ours, theirs in zip(found.to_list(), signal_diagrams(values).to_list(), strict=True):
        np.testing.assert_array_equal(in_order(ours), in_order(theirs))


def test_gradients():
    values = torch.stack([torch.randperm(8), torch.randperm(8)]).double().requires_grad_()
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7], [7, 0]])

    def bars(x):
        h0, h1 = graph_diagrams(x, edges, dimensions=(0, 1), essential="keep")
        return torch.where(h0.deaths.isfinite(), h0.deaths, 0.0), h0.births, h1.births

    assert graph_diagrams(values, edges)[0].counts.max() > 0
    assert torch.autograd.gradcheck(bars, (values,))


def test_a_cycle_by_hand():
    """Two valleys, 0 and 1, meet at 2; the ring is closed at its highest vertex, 3."""
    values = torch.tensor([[0.0, 2.0, 1.0, 3.0]], requires_grad=True)
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
    h0, h1 = graph_diagrams(values, edges, dimensions=(0, 1), essential="keep")
    assert in_order(h0[0].detach()).tolist() == [[1.0, 2.0], [0.0, np.inf]]
    assert h1[0].tolist() == [[3.0, np.inf]]
    h1.births.sum().backward()
    assert values.grad.tolist() == [[0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("values", "edges", "options", "message"),
    [
        (torch.zeros(3), torch.tensor([[0, 1]]), {}, r"got shape \(3,\); add a batch axis"),
        (torch.zeros(1, 0), torch.zeros(0, 2, dtype=torch.int64), {}, "no axis may be 0"),
        (torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 1]]), {}, "got torch.int64; convert"),
        (
            torch.tensor([[float("nan")]]),
            torch.tensor([[0, 0]]),
            {},
            r"nan at \(function, vertex\) = \(0, 0\)",
        ),
        (torch.zeros(1, 2), torch.tensor([0, 1]), {}, r"integers of shape \(edges, 2\), .* shape \(2,\)"),
        (torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), {}, "got torch.float32"),
        (torch.zeros(1, 2), torch.tensor([[0, 1], [1, 2]]), {}, r"edge 1 joins \(1, 2\), but there are 2"),
        (torch.zeros(1, 2), torch.tensor([[-1, 1]]), {}, r"edge 0 joins \(-1, 1\)"),
        (torch.zeros(1, 2), torch.tensor([[0, 1]]), {"dimensions": (1, 1)}, r"different .* got \(1, 1\)"),
        (torch.zeros(1, 2), torch.tensor([[0, 1]]), {"essential": "all"}, "'drop' or 'keep', got 'all'"),
    ],
)
def test_wrong_input_is_refused(unchecked, values, edges, options, message):
    with pytest.raises(ValueError, match=message):
        graph_diagrams(values, edges, **options)
