"""What every public name of ``topokd_lib.topology`` refuses, and that it says so itself.

A row is a callable with arguments that it takes, and for each argument values that it must not take. Of an
error only its origin is looked at: the library raises it itself, before torch, numpy or gudhi do. What
messages say is tested beside the other tests of each function.
"""

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import topokd_lib
from topokd_lib import topology
from topokd_lib.topology import (
    CubicalPersistence,
    FilteredComplex,
    ImagePersistence,
    PersistenceDiagrams,
    PersistenceImage,
    RipsNet,
    RipsNetArtefact,
    ScanPersistence,
)

LIBRARY = Path(topokd_lib.__file__).parent
INF, NAN = float("inf"), float("nan")


def reals(
    right: torch.Tensor, *, finite: bool = True, empty: bool = False, more: bool = False
) -> dict[str, Any]:
    """Ways to get a tensor of real numbers wrong; infinite, empty or with more axes it may be right."""
    wrong = {
        "None": None,
        "a number": 1.0,
        "a list": right.tolist(),
        "an array": right.numpy(),
        "an axis too few": right[0],
        "whole numbers": right.long(),
        "truth values": right > 0.5,
        "complex numbers": right.to(torch.complex64),
    }
    if not more:
        wrong["an axis too many"] = right[None]
    if not empty:
        wrong |= {"nothing": right[:0], "nothing in it": right[..., :0]}
    if finite:
        for name, value in (("not a number", NAN), ("infinite", INF)):
            wrong[name] = right.clone(memory_format=torch.contiguous_format)
            wrong[name].view(-1)[-2] = value
    return wrong


def matrices(right: torch.Tensor) -> dict[str, Any]:
    negative, uneven = right.clone(), right.clone()
    negative[..., 0, 1] = negative[..., 1, 0] = -1.0
    uneven[..., 0, 1] += 1.0
    return reals(right) | {"negative": negative, "not symmetric": uneven, "not square": right[..., :-1]}


def numbers(*out_of_range: Any, whole: bool = True) -> dict[str, Any]:
    wrong = [None, "3", NAN, [1], *out_of_range, *([1.5] if whole else [])]
    return {repr(number): number for number in wrong}


def lists(right: list[Any]) -> dict[str, Any]:
    return {
        "None": None,
        "a number": 1,
        "nothing": [],
        "numbers": [1, 2],
        "a word in it": [*right[:-1], "word"],
    }


NAMES = {"None": None, "unknown": "unknown", "a number": 1}
DIMENSIONS = {
    "None": None,
    "a number": 1,
    "none": (),
    "negative": (-1,),
    "twice": (0, 0),
    "half": (0.5,),
    "word": "0",
}
DIMENSION = numbers(-1)

POINTS = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
CLOUD, OTHER = POINTS
LENGTHS = topology.pairwise_distances(CLOUD)
WEIGHTS = topology.cosine_graph(CLOUD)
PICTURES = (255 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
EDGES = torch.tensor([[0, 1], [1, 2]])
TREE = topology.minimum_spanning_tree(POINTS)
H0, H1 = (
    PersistenceDiagrams.from_list([[[0.0, 1.0], [0.0, 2.0]], [[0.0, 3.0]]], dimension) for dimension in (0, 1)
)
IMAGE = PersistenceImage((0.0, 0.0), (0.0, 3.0), bandwidth=0.5, resolution=(4, 4))
NETWORK = RipsNet(dim=3, pixels=16, widths=(4, 4, 4, 4, 4, 4))
TRIANGLE = topology.closure([(0, 1, 2)])
FILTRATION = FilteredComplex.rips(CLOUD.numpy(), dimension=2)
ARTEFACT = RipsNetArtefact(NETWORK, IMAGE, 0, "resnet20", "fingerprint", "pooled", 6)


def bars(*, finite: bool) -> dict[str, Any]:
    """Ways to get diagrams wrong."""
    wrong = {
        "None": None,
        "all dimensions": (H0, H1),
        "a tensor": H0.pairs,
        "an array": H0.pairs.numpy(),
        "a list": H0.to_list(),
        "a bar that is not a number": diagrams_with(0.0, NAN),
        "a bar that dies too early": diagrams_with(2.0, 1.0),
    }
    return wrong | ({"a bar that never dies": diagrams_with(0.0, INF)} if finite else {})


def diagrams_with(birth: float, death: float) -> PersistenceDiagrams:
    pairs = H0.pairs.clone()
    pairs[1, 0] = torch.tensor([birth, death])
    return PersistenceDiagrams(pairs, H0.mask, 0)


def pair(*, finite: bool) -> dict[str, dict[str, Any]]:
    wrong = bars(finite=finite) | {
        "another dimension": H1,
        "fewer diagrams": H0.select(torch.tensor([0])),
        "another precision": PersistenceDiagrams(H0.pairs.double(), H0.mask, 0),
        "another device": PersistenceDiagrams(H0.pairs.to("meta"), H0.mask.to("meta"), 0),
    }
    return {"first": wrong, "second": wrong}


SAME_CLOUDS = {"fewer clouds": POINTS[:1], "fewer points": POINTS[:, :5]}
SAME_POINTS = {"fewer points": CLOUD[:5], "one point": CLOUD[:1]}
PAIRS_OF_POINTS = {
    "None": None,
    "a list": EDGES.tolist(),
    "real numbers": EDGES.float(),
    "truth values": EDGES > 0,
    "triples": torch.tensor([[0, 1, 2]]),
    "a point that is not there": torch.tensor([[0, 6]]),
    "a negative number": torch.tensor([[0, -1]]),
    "an axis too few": EDGES[0],
}
SIMPLICES = {
    "None": None,
    "a number": 3,
    "numbers": [0, 1],
    "lists": [[0], [1], [0, 1]],
    "words": ["a", "b"],
    "a descending one": [(0,), (1,), (1, 0)],
    "an empty one": [()],
    "halves": [(0.5,)],
    "twice the same": [(0,), (0,)],
    "a missing face": [(0, 1)],
}
FREE_SIMPLICES = {name: SIMPLICES[name] for name in list(SIMPLICES)[:-2]}
SIMPLEX = {
    "None": None,
    "a number": 3,
    "a list": [0, 1],
    "descending": (1, 0),
    "empty": (),
    "halves": (0.5, 1.5),
}
POLICIES = {
    "infinite": {"None": None, "unknown": "cut", "infinite": INF, "not a number": NAN},
    "zero_length": NAMES,
    "duplicates": NAMES,
    "nan": NAMES,
}
SETTINGS = {
    "resolution": numbers(1),
    "span": numbers(0.0, INF, whole=False),
    "bandwidth": numbers(0.0, -1.0, whole=False),
    "shortest": numbers(-0.1, 1.0, whole=False),
    "faintest": numbers(-0.1, 0.0, whole=False),
    "precision": NAMES,
}
WRONG_PICTURES = {
    "None": None,
    "an array": PICTURES.numpy(),
    "real numbers": PICTURES / 255,
    "an axis too few": PICTURES[0],
    "an axis too many": PICTURES[None],
    "nothing": PICTURES[:0],
}
CHANNELS = reals(PICTURES[0].float())
STRUCTURES = {"None": None, "a list": [1], "a word": "image"}
MATCHING = {"order": numbers(0.5, INF, whole=False), "ground": NAMES}
IMAGE_SETTINGS = {
    "birth_range": {
        "None": None,
        "one": (0.0,),
        "down": (1.0, 0.0),
        "NaN": (NAN, 1.0),
        "words": ("0", "1"),
        "number": 1.0,
    },
    "persistence_range": {
        "None": None,
        "one": (0.0,),
        "width 0": (1.0, 1.0),
        "infinite": (0.0, INF),
        "number": 1.0,
    },
    "bandwidth": numbers(0.0, -1.0, INF, whole=False),
    "resolution": {
        "None": None,
        "number": 20,
        "0": (0, 20),
        "three": (1, 2, 3),
        "half": (1.5, 2),
        "words": ("4", "4"),
    },
    "weight": NAMES,
    "value": NAMES,
    "scale": numbers(0.0, -1.0, INF, whole=False),
}
ROBUSTNESS = {
    "network": STRUCTURES,
    "image": STRUCTURES | {"another size": PersistenceImage((0.0, 0.0), (0.0, 3.0), 0.5, (5, 5))},
    "clouds": reals(POINTS) | {"another width": POINTS[..., :2]},
    "dimension": DIMENSION,
    "seed": numbers(),
}


@dataclass(frozen=True)
class Row:
    """Arguments that work, and for some of them values that must not."""

    function: Callable[..., Any]
    right: dict[str, Any]
    wrong: dict[str, dict[str, Any]]


def row(function: Callable[..., Any], right: dict[str, Any], **wrong: dict[str, Any]) -> Row:
    return Row(function, right, wrong)


def other(diagrams: Any) -> Any:
    """``to_giotto`` takes others by place."""
    return H0.to_giotto(diagrams)


TABLE: dict[str, list[Row]] = {
    "CubicalPersistence": [
        row(
            CubicalPersistence,
            {"construction": "vertices"},
            construction=NAMES,
            dimensions=DIMENSIONS | {"a third": (2,)},
            **SETTINGS,
        ),
        row(CubicalPersistence(construction="vertices"), {"pictures": PICTURES}, pictures=WRONG_PICTURES),
        row(
            CubicalPersistence(construction="vertices").diagrams,
            {"channels": PICTURES[0].float()},
            channels=CHANNELS,
        ),
    ],
    "FilteredComplex": [
        row(
            FilteredComplex,
            {"values": {(0,): 0.0}},
            values={
                "None": None,
                "a list": [(0,)],
                "a word": {(0,): "0"},
                "not a number": {(0,): NAN},
                "infinite": {(0,): INF},
                "too early": {(0,): 0.0, (1,): 1.0, (0, 1): 0.5},
                "a missing face": {(0, 1): 0.5},
                "a number": {0: 0.0},
            },
        ),
        row(
            FilteredComplex.lower_star,
            {"simplices": [(0, 1)], "vertex_values": {0: 1.0, 1: 2.0}},
            simplices=FREE_SIMPLICES,
            vertex_values={
                "None": None,
                "a list": [0.0, 1.0],
                "too few": {0: 1.0},
                "words": {0: "1", 1: "2"},
            },
        ),
        row(
            FilteredComplex.rips,
            {"points": CLOUD.numpy(), "dimension": 1},
            points={
                "None": None,
                "an axis too many": POINTS.numpy(),
                "not a number": [[NAN]],
                "infinite": [[INF]],
                "words": [["a"]],
                "ragged": [[0.0], [0.0, 1.0]],
                "complex": [[1j]],
            },
            dimension=DIMENSION,
        ),
        row(FILTRATION.at, {"value": 1.0}, value=numbers(whole=False)),
    ],
    "ImagePersistence": [
        row(
            ImagePersistence.from_dict,
            {"settings": ScanPersistence().to_dict()},
            settings={
                "None": None,
                "a list": [1],
                "no kind": {},
                "unknown": {"kind": "Scan"},
                "more": {"kind": "ScanPersistence", "x": 1},
            },
        ),
    ],
    "PersistenceDiagrams": [
        row(
            PersistenceDiagrams,
            {"pairs": H0.pairs, "mask": H0.mask, "dimension": 0},
            pairs=reals(H0.pairs, finite=False, empty=True) | {"triples": torch.zeros(2, 2, 3)},
            mask={
                "None": None,
                "a list": H0.mask.tolist(),
                "whole numbers": H0.mask.long(),
                "another shape": H0.mask[:, :1],
                "another device": H0.mask.to("meta"),
            },
            dimension=DIMENSION,
        ),
        row(
            H0.__getitem__,
            {"index": 0},
            index={
                "None": None,
                "a slice": slice(2),
                "a list": [0, 1],
                "half": 0.5,
                "word": "0",
                "not there": 2,
                "before": -3,
            },
        ),
        row(
            H0.select,
            {"index": torch.tensor([1, 0])},
            index={
                "None": None,
                "a list": [0],
                "a number": 0,
                "real": torch.tensor([0.0]),
                "not there": torch.tensor([2]),
                "truth values": torch.tensor([True, False]),
                "a matrix": torch.tensor([[0]]),
            },
        ),
        row(
            PersistenceDiagrams.from_list,
            {"diagrams": [[[0.0, 1.0]]], "dimension": 0},
            diagrams={
                "None": None,
                "a number": 1.0,
                "nothing": [],
                "one diagram": [[0.0, 1.0]],
                "words": [[["a", "b"]]],
                "ragged": [[[0.0], [0.0, 1.0]]],
                "complex": [[[1j, 2j]]],
                "None in it": [None],
                "not a number": [[[0.0, NAN]]],
                "dies too early": [[[1.0, 0.0]]],
                "two devices": [torch.zeros(1, 2), torch.zeros(1, 2, device="meta")],
            },
            dimension=DIMENSION,
        ),
        row(
            PersistenceDiagrams.from_gudhi,
            {"diagrams": [[(0, (0.0, 1.0))]], "dimension": 0},
            diagrams={
                "None": None,
                "nothing": [],
                "one diagram": [(0, (0.0, 1.0))],
                "words": [[(0, ("a", "b"))]],
                "triples": [[(0, (0.0, 1.0, 2.0))]],
                "not a number": [[(0, (0.0, NAN))]],
                "dies too early": [[(0, (1.0, 0.0))]],
                "mixed": [[(0, (0.0, 1.0)), 3]],
            },
            dimension=DIMENSION,
            **POLICIES,
        ),
        row(H0.to_gudhi, {}, **POLICIES),
        row(
            PersistenceDiagrams.from_giotto,
            {"diagrams": [[[0.0, 1.0, 0]]], "dimension": 0},
            diagrams={
                "None": None,
                "nothing": [],
                "an axis too few": [[0.0, 1.0, 0]],
                "pairs": [[[0.0, 1.0]]],
                "words": [[["a", "b", "c"]]],
                "ragged": [[[0.0, 1.0, 0]], []],
                "not a number": [[[0.0, NAN, 0]]],
                "dies too early": [[[1.0, 0.0, 0]]],
            },
            dimension=DIMENSION,
            **POLICIES,
        ),
        row(H0.to_giotto, {}, **POLICIES),
        row(
            other,
            {"diagrams": H1},
            diagrams={
                "None": None,
                "a tensor": H1.pairs,
                "the same dimension": H0,
                "fewer": H1.select(torch.tensor([0])),
            },
        ),
    ],
    "PersistenceImage": [
        row(
            PersistenceImage,
            {"birth_range": (0.0, 1.0), "persistence_range": (0.0, 1.0), "bandwidth": 1.0},
            **IMAGE_SETTINGS,
        ),
        # Whether a bar dies too early is not looked at: it is in every step of a training.
        row(
            IMAGE, {"diagrams": H0}, diagrams={k: v for k, v in bars(finite=True).items() if "early" not in k}
        ),
        row(IMAGE.normalised, {"diagrams": H0}, diagrams=bars(finite=True)),
        row(PersistenceImage.topkd_official, {"diagrams": H0}, diagrams=bars(finite=True)),
        row(
            PersistenceImage.fit,
            {"diagrams": H0},
            diagrams=bars(finite=True) | {"no bar": PersistenceDiagrams.from_list([[]], 0)},
            bandwidth={k: v for k, v in IMAGE_SETTINGS["bandwidth"].items() if v is not None},
            resolution=IMAGE_SETTINGS["resolution"],
            weight=NAMES,
            value=NAMES,
            quantile=numbers(-0.1, 1.1, whole=False),
            sample=numbers(1),
            seed=numbers(),
        ),
        row(
            PersistenceImage.from_dict,
            {"settings": IMAGE.to_dict()},
            settings={
                "None": None,
                "a list": [1],
                "too few": {"bandwidth": 1.0},
                "a number": IMAGE.to_dict() | {"resolution": 4},
            },
        ),
    ],
    "RipsNet": [
        row(
            RipsNet,
            {"dim": 3, "pixels": 4},
            dim=numbers(0),
            pixels=numbers(0),
            pooling=NAMES,
            widths={
                "a number": 4,
                "five": (4,) * 5,
                "0": (4, 4, 4, 4, 4, 0),
                "halves": (0.5,) * 6,
                "words": ("4",) * 6,
            },
        ),
        row(
            NETWORK,
            {"points": POINTS},
            points=reals(POINTS, finite=False, empty=True)
            | {
                "no point": POINTS[:, :0],
                "another width": POINTS[..., :2],
                "another precision": POINTS.double(),
            },
        ),
    ],
    "RipsNetArtefact": [
        row(
            RipsNetArtefact,
            {
                "network": NETWORK,
                "image": IMAGE,
                "dimension": 0,
                "teacher": "a",
                "teacher_fingerprint": "b",
                "feature": "c",
                "cloud_size": 6,
            },
            network=STRUCTURES,
            image=STRUCTURES | {"another size": PersistenceImage((0.0, 0.0), (0.0, 3.0), 0.5, (5, 5))},
            dimension=DIMENSION,
            cloud_size=numbers(0),
        ),
        row(
            ARTEFACT.check,
            {"teacher": "resnet20", "fingerprint": "fingerprint", "feature": "pooled", "dim": 3},
            teacher={"another": "resnet56"},
            fingerprint={"another": "print"},
            feature={"another": "last"},
            dim={"another": 4},
        ),
        row(RipsNetArtefact.load, {"path": "saved"}, path={"not there": "/nowhere/net", "a folder": "/"}),
    ],
    "ScanPersistence": [
        row(
            ScanPersistence,
            {},
            scans={"None": None, "none": (), "unknown": ("diagonal",), "a word": "rows", "a number": 1},
            **SETTINGS,
        ),
        row(ScanPersistence(), {"pictures": PICTURES}, pictures=WRONG_PICTURES),
        row(ScanPersistence().diagrams, {"channels": PICTURES[0].float()}, channels=CHANNELS),
    ],
    "alpha_diagrams": [
        row(
            topology.alpha_diagrams,
            {"points": POINTS, "unit": "radius"},
            points=reals(POINTS),
            unit=NAMES,
            dimensions=DIMENSIONS,
            essential=NAMES,
        )
    ],
    "betti_curve": [
        row(
            topology.betti_curve,
            {"diagrams": H0, "positions": torch.tensor([0.5, 1.0])},
            diagrams=bars(finite=False),
            positions=reals(torch.tensor([0.5, 1.0])),
        )
    ],
    "betti_numbers": [row(topology.betti_numbers, {"simplices": TRIANGLE}, simplices=SIMPLICES)],
    "bottleneck_distance": [
        row(
            topology.bottleneck_distance,
            {"first": H0, "second": H0, "exact": False},
            relative_error=numbers(0.0, INF, whole=False),
            **pair(finite=False),
        )
    ],
    "boundary_matrix": [
        row(
            topology.boundary_matrix,
            {"simplices": TRIANGLE, "dimension": 1},
            simplices=SIMPLICES,
            dimension=DIMENSION,
        )
    ],
    "check_points": [row(topology.check_points, {"points": POINTS}, points=reals(POINTS))],
    "check_same_samples": [
        row(
            topology.check_same_samples,
            {"student": CLOUD, "teacher": OTHER, "what": "RTD"},
            student=reals(CLOUD) | SAME_POINTS,
            teacher=reals(CLOUD) | SAME_POINTS,
        )
    ],
    "closure": [row(topology.closure, {"simplices": [(0, 1)]}, simplices=FREE_SIMPLICES)],
    "cloud_agreement": [
        row(
            topology.cloud_agreement,
            {"student": POINTS, "teacher": POINTS},
            student=reals(POINTS) | SAME_CLOUDS,
            teacher=reals(POINTS) | SAME_CLOUDS,
            neighbours=numbers(0, 6),
        )
    ],
    "cosine_graph": [
        row(topology.cosine_graph, {"points": CLOUD}, points=reals(CLOUD) | {"one point": CLOUD[:1]})
    ],
    "cross_barcode": [
        row(
            topology.cross_barcode,
            {"first": LENGTHS, "second": LENGTHS},
            first=matrices(LENGTHS) | {"fewer points": LENGTHS[:5, :5]},
            second=matrices(LENGTHS) | {"fewer points": LENGTHS[:5, :5]},
            engine=NAMES,
        )
    ],
    "cubical_diagrams": [
        row(
            topology.cubical_diagrams,
            {"images": POINTS, "construction": "vertices"},
            images=reals(POINTS, more=True),
            construction=NAMES,
            dimensions=DIMENSIONS,
            essential=NAMES,
            engine=NAMES,
        )
    ],
    "edge_lengths": [
        row(
            topology.edge_lengths,
            {"points": POINTS, "edges": TREE},
            points=reals(POINTS, finite=False),
            edges={
                "None": None,
                "a list": TREE.tolist(),
                "real numbers": TREE.float(),
                "an axis too few": TREE[0],
                "a point that is not there": TREE + 1,
                "a negative number": TREE - 1,
                "fewer clouds": TREE[:1],
            },
        )
    ],
    "edge_weights": [
        row(
            topology.edge_weights,
            {"distances": LENGTHS, "edges": EDGES},
            distances=reals(LENGTHS, finite=False) | {"not square": LENGTHS[:, :-1]},
            edges=PAIRS_OF_POINTS,
        )
    ],
    "euler_characteristic": [
        row(topology.euler_characteristic, {"simplices": TRIANGLE}, simplices=SIMPLICES)
    ],
    "examine_ripsnet": [
        row(topology.examine_ripsnet, {"network": NETWORK, "image": IMAGE, "clouds": POINTS}, **ROBUSTNESS)
    ],
    "faces": [row(topology.faces, {"simplex": (0, 1)}, simplex=SIMPLEX)],
    "fit_ripsnet": [
        row(
            topology.fit_ripsnet,
            {"network": NETWORK, "clouds": POINTS.repeat(2, 1, 1), "images": torch.rand(4, 16), "epochs": 1},
            network=STRUCTURES,
            clouds=reals(POINTS.repeat(2, 1, 1))
            | {"fewer": POINTS, "another width": POINTS.repeat(2, 1, 1)[..., :2]},
            images=reals(torch.rand(4, 16), more=True)
            | {"fewer": torch.rand(2, 16), "another size": torch.rand(4, 9)},
            epochs=numbers(0),
            learning_rate=numbers(0.0, -1.0, INF, whole=False),
            batch_size=numbers(0),
            patience=numbers(0),
            validation_fraction=numbers(0.0, 1.0, -0.1, whole=False),
            seed=numbers(),
            save_every=numbers(-1.0, whole=False),
        )
    ],
    "graph_diagrams": [
        row(
            topology.graph_diagrams,
            {"values": CLOUD.T, "edges": EDGES},
            values=reals(CLOUD.T.clone()),
            edges=PAIRS_OF_POINTS,
            dimensions=DIMENSIONS,
            essential=NAMES,
        )
    ],
    "graph_spectrum": [row(topology.graph_spectrum, {"adjacency": WEIGHTS}, adjacency=matrices(WEIGHTS))],
    "h0_deaths": [row(topology.h0_deaths, {"points": POINTS}, points=reals(POINTS))],
    "minimum_spanning_tree": [row(topology.minimum_spanning_tree, {"points": POINTS}, points=reals(POINTS))],
    "mst_edges": [row(topology.mst_edges, {"distances": LENGTHS[None]}, distances=matrices(LENGTHS[None]))],
    "nearest_neighbours": [
        row(
            topology.nearest_neighbours,
            {"adjacency": WEIGHTS, "count": 2},
            adjacency=matrices(WEIGHTS),
            count=numbers(0),
        )
    ],
    "normalised_adjacency": [
        row(topology.normalised_adjacency, {"adjacency": WEIGHTS}, adjacency=matrices(WEIGHTS))
    ],
    "normalised_laplacian": [
        row(topology.normalised_laplacian, {"adjacency": WEIGHTS}, adjacency=matrices(WEIGHTS))
    ],
    "optimal_matching": [
        row(topology.optimal_matching, {"first": H0, "second": H0}, **MATCHING, **pair(finite=True))
    ],
    "pairwise_distances": [row(topology.pairwise_distances, {"points": CLOUD}, points=reals(CLOUD))],
    "persistence_entropy": [row(topology.persistence_entropy, {"diagrams": H0}, diagrams=bars(finite=True))],
    "persistence_landscape": [
        row(
            topology.persistence_landscape,
            {"diagrams": H0, "positions": torch.tensor([0.5, 1.0])},
            diagrams=bars(finite=False),
            positions=reals(torch.tensor([0.5, 1.0])),
            levels=numbers(0),
            convention=NAMES,
        )
    ],
    "persistence_silhouette": [
        row(
            topology.persistence_silhouette,
            {"diagrams": H0, "positions": torch.tensor([0.5, 1.0])},
            diagrams=bars(finite=True),
            positions=reals(torch.tensor([0.5, 1.0])),
            power=numbers(-1.0, INF, whole=False),
            convention=NAMES,
        )
    ],
    "rank_mod_2": [
        row(
            topology.rank_mod_2,
            {"matrix": np.eye(2, dtype=bool)},
            matrix={
                "None": None,
                "a list": [[1, 0], [0, 1]],
                "an axis too few": np.ones(2, dtype=bool),
                "other numbers": np.array([[2]]),
                "not a number": np.array([[NAN]]),
                "words": np.array([["a"]]),
            },
        )
    ],
    "reduce_boundary": [
        row(
            topology.reduce_boundary,
            {"filtration": FILTRATION},
            filtration={"None": None, "a list": TRIANGLE, "values": FILTRATION.values},
        ),
        row(topology.reduce_boundary(FILTRATION).diagrams, {}, dimensions=DIMENSIONS, essential=NAMES),
    ],
    "rips_diagrams": [
        row(
            topology.rips_diagrams,
            {"points": POINTS},
            points=reals(POINTS),
            dimensions=DIMENSIONS,
            engine=NAMES,
            essential=NAMES,
            max_edge_length={"word": "1", "negative": -1.0, "not a number": NAN, "a list": [1.0]},
        )
    ],
    "robustness": [
        row(
            topology.robustness,
            {"network": NETWORK, "image": IMAGE, "clouds": POINTS},
            shares={
                "None": None,
                "a number": 0.1,
                "none": (),
                "negative": (-0.1,),
                "above 1": (1.1,),
                "NaN": (NAN,),
                "word": ("0",),
            },
            kind=NAMES,
            **ROBUSTNESS,
        )
    ],
    "rtd1": [
        row(
            topology.rtd1,
            {"student": CLOUD, "teacher": OTHER},
            student=reals(CLOUD) | SAME_POINTS,
            teacher=reals(CLOUD) | SAME_POINTS,
            normalise=NAMES,
            engine=NAMES,
        )
    ],
    "rtd_lite_barcode": [
        row(
            topology.rtd_lite_barcode,
            {"first": LENGTHS, "second": LENGTHS},
            first=matrices(LENGTHS) | {"fewer points": LENGTHS[:5, :5], "one point": LENGTHS[:1, :1]},
            second=matrices(LENGTHS) | {"fewer points": LENGTHS[:5, :5], "one point": LENGTHS[:1, :1]},
        )
    ],
    "scale_distances": [
        row(
            topology.scale_distances,
            {"distances": LENGTHS, "scale": "mean"},
            distances=matrices(LENGTHS),
            scale=NAMES,
        )
    ],
    "scale_points": [
        row(topology.scale_points, {"points": CLOUD, "scale": "mean"}, points=reals(CLOUD), scale=NAMES)
    ],
    "signal_diagrams": [
        row(topology.signal_diagrams, {"signals": CLOUD}, signals=reals(CLOUD), essential=NAMES),
    ],
    "signal_smoothness": [
        row(
            topology.signal_smoothness,
            {"adjacency": WEIGHTS, "signals": CLOUD},
            adjacency=matrices(WEIGHTS),
            signals=reals(CLOUD) | {"fewer vertices": CLOUD[:5], "zero": torch.zeros(6, 1)},
        )
    ],
    "sliced_wasserstein_distance": [
        row(
            topology.sliced_wasserstein_distance,
            {"first": H0, "second": H0},
            directions=numbers(0),
            **pair(finite=True),
        )
    ],
    "sorted_deaths_distance": [
        row(
            topology.sorted_deaths_distance,
            {"first": CLOUD, "second": CLOUD},
            first=reals(CLOUD, empty=True)
            | {"negative": -CLOUD, "fewer": CLOUD[:, :2], "another device": CLOUD.to("meta")},
            second=reals(CLOUD, empty=True)
            | {"negative": -CLOUD, "fewer": CLOUD[:, :2], "another device": CLOUD.to("meta")},
            order=numbers(0.5, INF, whole=False),
        )
    ],
    "spectral_distance": [
        row(
            topology.spectral_distance,
            {"first": WEIGHTS, "second": WEIGHTS},
            first=matrices(WEIGHTS) | {"fewer vertices": WEIGHTS[:5, :5]},
            second=matrices(WEIGHTS) | {"fewer vertices": WEIGHTS[:5, :5]},
        )
    ],
    "tgd_official": [
        row(
            topology.tgd_official,
            {"diagrams": H0},
            diagrams=bars(finite=False),
            faintest=numbers(-0.1, whole=False),
        )
    ],
    "topology_health": [
        row(
            topology.topology_health,
            {"student_cloud": POINTS, "teacher_cloud": POINTS, "image": IMAGE},
            student_cloud=reals(POINTS) | SAME_CLOUDS,
            teacher_cloud=reals(POINTS) | SAME_CLOUDS,
            image=STRUCTURES,
            ripsnet={
                "a list": [1],
                "another size": RipsNet(dim=3, pixels=4),
                "another width": RipsNet(dim=4, pixels=16),
            },
            dimension=DIMENSION,
        )
    ],
    "triangulated_grid": [
        row(topology.triangulated_grid, {"height": 2, "width": 2}, height=numbers(0), width=numbers(0))
    ],
    "wasserstein_distance": [
        row(topology.wasserstein_distance, {"first": H0, "second": H0}, **MATCHING, **pair(finite=True))
    ],
}

RESULTS = {
    "CloudAgreement",
    "ImageChange",
    "Reduction",
    "RipsNetHealth",
    "RipsNetReport",
    "Robustness",
    "TopologyHealth",
}
"""Records that the library makes and a user reads."""


SWITCHES = {"clearing", "exact", "normalise", "normalised", "standardise", "superlevel"}
FREE = SWITCHES | {"needed", "progress", "state", "what"}
"""Python takes anything for true or false; the others are what a caller says of itself, calls or opens."""


def cases() -> list[Any]:
    return [
        pytest.param(entry, argument, id=f"{name} {place} {argument}")
        for name, rows in TABLE.items()
        for place, entry in enumerate(rows)
        for argument in entry.wrong
    ]


def test_every_public_name_says_what_it_refuses():
    """A new name needs a row in the table, or, if it is a record that users only read, a place in RESULTS."""
    assert set(TABLE) | RESULTS | {"CHANGES"} == set(topology.__all__)
    assert all(is_dataclass(getattr(topology, name)) for name in RESULTS)


@pytest.mark.parametrize("name", [name for name in TABLE if name[0].islower()])
def test_every_argument_says_what_it_refuses(name):
    said = {argument for entry in TABLE[name] for argument in entry.wrong}
    assert set(inspect.signature(getattr(topology, name)).parameters) <= said | FREE


@pytest.mark.parametrize("name", [name for name in TABLE if name != "RipsNetArtefact"])
def test_the_table_starts_from_what_works(name):
    for entry in TABLE[name]:
        entry.function(**entry.right)


@pytest.mark.parametrize(("entry", "argument"), cases())
def test_refused_by_the_library_itself(entry, argument, unchecked):
    found = {
        what: origin(entry.function, entry.right | {argument: wrong})
        for what, wrong in entry.wrong[argument].items()
    }
    assert {what: error for what, error in found.items() if error != "ours"} == {}


def origin(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Whether the last line that ran is one of the library that raises, and not an operation that failed."""
    try:
        function(**arguments)
    except Exception as error:  # noqa: BLE001 (which one depends on the row)
        last = traceback.extract_tb(error.__traceback__)[-1]
        inside = Path(last.filename).is_relative_to(LIBRARY) and (last.line or "").startswith("raise ")
        return "ours" if inside else f"{type(error).__name__}: {error}"
    return "no error"


def test_an_error_of_others_is_told_from_ours():
    assert origin(topology.faces, {"simplex": (1, 0)}) == "ours"
    assert origin(topology.faces, {"simplex": (0, 1)}) == "no error"
    assert origin(torch.ones(2).reshape, {"shape": (3,)}).startswith("RuntimeError: shape")
    assert origin(topology.faces, {}).startswith("TypeError: ")


# What is said, where it is said in one place for many functions.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: topology.persistence_entropy(topology.rips_diagrams(POINTS)),
            TypeError,
            r"are PersistenceDiagrams of one dimension, got tuple; take one of those that rips_diagrams",
        ),
        (
            lambda: topology.persistence_entropy(diagrams_with(2.0, 1.0)),
            ValueError,
            r"diagram 1, bar 0 is \(birth, death\) = \(2\.0, 1\.0\); a bar dies no earlier than it is born",
        ),
        (
            lambda: topology.signal_diagrams([[1.0]]),
            TypeError,
            "signals are a tensor, got list; convert with",
        ),
        (lambda: topology.cosine_graph(POINTS), ValueError, r"shape \(vertices, dim\), got \(2, 6, 3\)"),
        (lambda: topology.cosine_graph(CLOUD.long()), ValueError, r"got torch\.int64; convert with \.float"),
        (lambda: topology.cosine_graph(CLOUD[:0]), ValueError, r"nothing in points of shape \(0, 3\)"),
        (lambda: topology.cosine_graph(CLOUD / 0), ValueError, r"finite: inf at \(0, 0\) \(18 such values"),
        (lambda: topology.graph_spectrum(CLOUD), ValueError, r"are a square matrix, got shape \(6, 3\)"),
        (lambda: topology.graph_spectrum(-WEIGHTS), ValueError, "weights are at least 0, found -"),
        (lambda: topology.graph_spectrum(WEIGHTS.triu()), ValueError, "triangles of the matrix differ by"),
        (
            lambda: topology.edge_weights(LENGTHS, EDGES + 4),
            ValueError,
            r"edge 1 joins \(5, 6\), but there are 6",
        ),
        (
            lambda: topology.cross_barcode(LENGTHS, LENGTHS[:5, :5]),
            ValueError,
            "distance matrices of one shape",
        ),
        (
            lambda: topology.spectral_distance(WEIGHTS, WEIGHTS[:5, :5]),
            ValueError,
            "equally many.* got 6 and 5",
        ),
        (lambda: topology.signal_smoothness(WEIGHTS, CLOUD[:5]), ValueError, "each of the 6 vertices"),
        (lambda: H0[:1], TypeError, r"taken by its number, got slice.*select takes several"),
        (lambda: H0[2], IndexError, "there are 2 diagrams, counted from 0, got the number 2"),
        (lambda: H0.select(torch.tensor([2])), ValueError, r"go from 0 to 1, got \[2\]"),
        (lambda: H0.select(H0.mask[:, 0]), TypeError, r"are int64, got torch\.bool; .*nonzero"),
        (
            lambda: PersistenceDiagrams(H0.pairs, H0.mask.int(), 0),
            TypeError,
            r"mask of truth values.*mask\.bool",
        ),
        (lambda: PersistenceDiagrams.from_list(1, 0), TypeError, "one diagram for each sample, got int"),
        (lambda: PersistenceDiagrams.from_gudhi([(0, (0.0, 1.0))], 0), TypeError, "of one for each sample,"),
        (lambda: topology.closure([0, 1]), TypeError, r"a tuple of whole numbers.*such as \(0, 2\), got 0"),
        (lambda: topology.betti_numbers(3), TypeError, "a complex is a list of simplices, got int"),
        (lambda: topology.rank_mod_2([[1]]), TypeError, "a matrix is a numpy array, got list"),
        (lambda: topology.rank_mod_2(np.array([[2]])), ValueError, "reduce it with matrix % 2"),
        (
            lambda: topology.reduce_boundary(TRIANGLE),
            TypeError,
            "is a FilteredComplex, got list; make one with",
        ),
        (
            lambda: FilteredComplex.lower_star([(0,)], [1.0]),
            TypeError,
            r"values of vertices are a mapping.*got list.*dict\(enumerate",
        ),
        (
            lambda: NETWORK(POINTS.double()),
            TypeError,
            r"computes in torch\.float32, got clouds of torch\.float64",
        ),
        (lambda: topology.topology_health(POINTS, POINTS, "x"), TypeError, "is a PersistenceImage, got str"),
        (
            lambda: topology.robustness(IMAGE, IMAGE, POINTS),
            TypeError,
            "is a RipsNet, got PersistenceImage; build",
        ),
    ],
)
def test_messages(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
