"""Topology of point clouds: persistence diagrams, persistence images, and RipsNet, which estimates them."""

from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.images import PersistenceImage
from topokd_lib.topology.rips import rips_diagrams
from topokd_lib.topology.ripsnet import RipsNet, RipsNetArtefact, RipsNetReport, fit_ripsnet
from topokd_lib.topology.spanning_tree import check_points, edge_lengths, h0_deaths, minimum_spanning_tree

__all__ = [
    "PersistenceDiagrams",
    "PersistenceImage",
    "RipsNet",
    "RipsNetArtefact",
    "RipsNetReport",
    "check_points",
    "edge_lengths",
    "fit_ripsnet",
    "h0_deaths",
    "minimum_spanning_tree",
    "rips_diagrams",
]
