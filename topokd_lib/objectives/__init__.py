"""The index of methods, in the order in which they were invented; one file each."""

from topokd_lib.objectives.base import InitStage, Objective, WeightedSum
from topokd_lib.objectives.cross_entropy import CrossEntropy
from topokd_lib.objectives.kd import KD, kd_loss
from topokd_lib.objectives.topkd import TopKD, feature_cloud, topology_loss

__all__ = [
    "KD",
    "CrossEntropy",
    "InitStage",
    "Objective",
    "TopKD",
    "WeightedSum",
    "feature_cloud",
    "kd_loss",
    "topology_loss",
]
