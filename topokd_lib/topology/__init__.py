"""Topology of clouds, images, signals and graphs: persistence diagrams and images, and RipsNet."""

from topokd_lib.topology.agreement import CloudAgreement, cloud_agreement
from topokd_lib.topology.alpha import alpha_diagrams
from topokd_lib.topology.complexes import (
    FilteredComplex,
    betti_numbers,
    boundary_matrix,
    closure,
    euler_characteristic,
    faces,
    rank_mod_2,
    triangulated_grid,
)
from topokd_lib.topology.cubical import cubical_diagrams
from topokd_lib.topology.curves import betti_curve, persistence_entropy
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.distance_matrices import (
    check_same_samples,
    edge_weights,
    pairwise_distances,
    scale_distances,
    scale_points,
)
from topokd_lib.topology.distances import (
    bottleneck_distance,
    optimal_matching,
    sliced_wasserstein_distance,
    sorted_deaths_distance,
    wasserstein_distance,
)
from topokd_lib.topology.graph_filtrations import graph_diagrams
from topokd_lib.topology.graphs import (
    cosine_graph,
    graph_spectrum,
    nearest_neighbours,
    normalised_adjacency,
    normalised_laplacian,
    signal_smoothness,
    spectral_distance,
)
from topokd_lib.topology.health import RipsNetHealth, TopologyHealth, topology_health
from topokd_lib.topology.image_persistence import CubicalPersistence, ImagePersistence, ScanPersistence
from topokd_lib.topology.images import PersistenceImage, tgd_official
from topokd_lib.topology.landscapes import persistence_landscape, persistence_silhouette
from topokd_lib.topology.reduction import Reduction, reduce_boundary
from topokd_lib.topology.rips import rips_diagrams
from topokd_lib.topology.ripsnet import RipsNet, RipsNetArtefact, RipsNetReport, fit_ripsnet
from topokd_lib.topology.ripsnet_checks import CHANGES, ImageChange, Robustness, examine_ripsnet, robustness
from topokd_lib.topology.rtd import cross_barcode, rtd1, rtd_lite_barcode
from topokd_lib.topology.signals import signal_diagrams
from topokd_lib.topology.spanning_tree import (
    check_points,
    edge_lengths,
    h0_deaths,
    minimum_spanning_tree,
    mst_edges,
)

__all__ = [
    "CHANGES",
    "CloudAgreement",
    "CubicalPersistence",
    "FilteredComplex",
    "ImageChange",
    "ImagePersistence",
    "PersistenceDiagrams",
    "PersistenceImage",
    "Reduction",
    "RipsNet",
    "RipsNetArtefact",
    "RipsNetHealth",
    "RipsNetReport",
    "Robustness",
    "ScanPersistence",
    "TopologyHealth",
    "alpha_diagrams",
    "betti_curve",
    "betti_numbers",
    "bottleneck_distance",
    "boundary_matrix",
    "check_points",
    "check_same_samples",
    "closure",
    "cloud_agreement",
    "cosine_graph",
    "cross_barcode",
    "cubical_diagrams",
    "edge_lengths",
    "edge_weights",
    "euler_characteristic",
    "examine_ripsnet",
    "faces",
    "fit_ripsnet",
    "graph_diagrams",
    "graph_spectrum",
    "h0_deaths",
    "minimum_spanning_tree",
    "mst_edges",
    "nearest_neighbours",
    "normalised_adjacency",
    "normalised_laplacian",
    "optimal_matching",
    "pairwise_distances",
    "persistence_entropy",
    "persistence_landscape",
    "persistence_silhouette",
    "rank_mod_2",
    "reduce_boundary",
    "rips_diagrams",
    "robustness",
    "rtd1",
    "rtd_lite_barcode",
    "scale_distances",
    "scale_points",
    "signal_diagrams",
    "signal_smoothness",
    "sliced_wasserstein_distance",
    "sorted_deaths_distance",
    "spectral_distance",
    "tgd_official",
    "topology_health",
    "triangulated_grid",
    "wasserstein_distance",
]
