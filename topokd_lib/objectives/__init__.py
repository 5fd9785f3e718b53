"""The index of methods, in the order in which they were invented; one file each."""

# ruff: noqa: I001 (imports tell the order)

from topokd_lib.objectives.base import InitStage, Objective, WeightedSum
from topokd_lib.objectives.cross_entropy import CrossEntropy
from topokd_lib.objectives.kd import KD, kd_loss
from topokd_lib.objectives.fitnet import FitNet, hint_loss
from topokd_lib.objectives.at import AT, attention_loss, attention_map
from topokd_lib.objectives.fsp import FSP, flow_loss, flow_matrix
from topokd_lib.objectives.nst import NST, selectivity_loss
from topokd_lib.objectives.pkt import PKT, neighbour_loss, neighbour_probabilities
from topokd_lib.objectives.vid import VID, variational_loss
from topokd_lib.objectives.rkd import RKD, angle_cosines, normalised_distances, relational_loss
from topokd_lib.objectives.ofd import OFD, negative_margin, partial_distance
from topokd_lib.objectives.cc import CC, consecutive_loss, correlation_loss, gaussian_correlation
from topokd_lib.objectives.sp import SP, similarity_loss, similarity_matrix
from topokd_lib.objectives.crd import CRD, contrast_loss, contrast_scores
from topokd_lib.objectives.gkd import GKD, graph_loss, similarity_graphs
from topokd_lib.objectives.semckd import SemCKD, calibrated_loss, layer_attention
from topokd_lib.objectives.signature import Signature, signature_loss
from topokd_lib.objectives.srrl import SRRL, representation_loss
from topokd_lib.objectives.review_kd import ReviewKD, hierarchical_loss
from topokd_lib.objectives.crcd import CRCD, gradient_loss, relation_scores
from topokd_lib.objectives.dkd import DKD, dkd_loss, non_target_loss, target_loss
from topokd_lib.objectives.mgd import MGD, generation_loss, random_mask
from topokd_lib.objectives.dist import DIST, dist_loss, pearson_correlation
from topokd_lib.objectives.dist_pro import DistPro, PathwayProcess, pathway_weights, pathways
from topokd_lib.objectives.simkd import SimKD, alignment_loss
from topokd_lib.objectives.norm import NORM, n_to_one_loss
from topokd_lib.objectives.cat_kd import CATKD, activation_map_loss, binary_maps
from topokd_lib.objectives.lskd import LSKD, standardised_logits
from topokd_lib.objectives.srd import SRD, log_distance_loss, standardise_channels
from topokd_lib.objectives.vkd import VkD, projection_loss
from topokd_lib.objectives.wkd_l import WKDL, class_costs, target_cross_entropy, transport_loss
from topokd_lib.objectives.wkd_f import WKDF, cell_statistics, gaussian_transport_loss
from topokd_lib.objectives.clouds import RunningMean, feature_cloud, make_connector
from topokd_lib.objectives.exact_images import ExactImages
from topokd_lib.objectives.topkd import TopKD, topology_loss
from topokd_lib.objectives.sorted_deaths import SortedDeaths, sorted_deaths_loss
from topokd_lib.objectives.rtd_lite import RTDLite, rtd_lite_loss
from topokd_lib.objectives.tgd import TGD, merged_kd_loss, merged_similarity_loss

__all__ = [
    "AT",
    "CATKD",
    "CC",
    "CRCD",
    "CRD",
    "DIST",
    "DKD",
    "FSP",
    "GKD",
    "KD",
    "LSKD",
    "MGD",
    "NORM",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SP",
    "SRD",
    "SRRL",
    "TGD",
    "VID",
    "WKDF",
    "WKDL",
    "CrossEntropy",
    "DistPro",
    "ExactImages",
    "FitNet",
    "InitStage",
    "Objective",
    "PathwayProcess",
    "RTDLite",
    "ReviewKD",
    "RunningMean",
    "SemCKD",
    "Signature",
    "SimKD",
    "SortedDeaths",
    "TopKD",
    "VkD",
    "WeightedSum",
    "activation_map_loss",
    "alignment_loss",
    "angle_cosines",
    "attention_loss",
    "attention_map",
    "binary_maps",
    "calibrated_loss",
    "cell_statistics",
    "class_costs",
    "consecutive_loss",
    "contrast_loss",
    "contrast_scores",
    "correlation_loss",
    "dist_loss",
    "dkd_loss",
    "feature_cloud",
    "flow_loss",
    "flow_matrix",
    "gaussian_correlation",
    "gaussian_transport_loss",
    "generation_loss",
    "gradient_loss",
    "graph_loss",
    "hierarchical_loss",
    "hint_loss",
    "kd_loss",
    "layer_attention",
    "log_distance_loss",
    "make_connector",
    "merged_kd_loss",
    "merged_similarity_loss",
    "n_to_one_loss",
    "negative_margin",
    "neighbour_loss",
    "neighbour_probabilities",
    "non_target_loss",
    "normalised_distances",
    "objective_names",
    "partial_distance",
    "pathway_weights",
    "pathways",
    "pearson_correlation",
    "projection_loss",
    "random_mask",
    "relation_scores",
    "relational_loss",
    "representation_loss",
    "rtd_lite_loss",
    "selectivity_loss",
    "signature_loss",
    "similarity_graphs",
    "similarity_loss",
    "similarity_matrix",
    "sorted_deaths_loss",
    "standardise_channels",
    "standardised_logits",
    "target_cross_entropy",
    "target_loss",
    "topology_loss",
    "transport_loss",
    "variational_loss",
]


def objective_names() -> list[str]:
    """Names of the methods that a recipe can use as a term."""
    exported = {name: globals()[name] for name in __all__}
    return [
        name
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, Objective) and cls not in (Objective, WeightedSum)
    ]
