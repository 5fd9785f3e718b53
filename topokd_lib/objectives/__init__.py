"""The index of methods, in the order in which they were invented; one file each."""

# ruff: noqa: I001 (imports tell the order)

from topokd_lib.objectives.base import InitStage, Objective, WeightedSum
from topokd_lib.objectives.cross_entropy import CrossEntropy
from topokd_lib.objectives.kd import KD, kd_loss
from topokd_lib.objectives.fitnet import FitNet, hint_loss
from topokd_lib.objectives.at import AT, attention_loss, attention_map
from topokd_lib.objectives.fsp import FSP, flow_loss, flow_matrix
from topokd_lib.objectives.nst import NST, selectivity_loss
from topokd_lib.objectives.vid import VID, variational_loss
from topokd_lib.objectives.ofd import OFD, negative_margin, partial_distance
from topokd_lib.objectives.topkd import TopKD, feature_cloud, topology_loss

__all__ = [
    "AT",
    "FSP",
    "KD",
    "NST",
    "OFD",
    "VID",
    "CrossEntropy",
    "FitNet",
    "InitStage",
    "Objective",
    "TopKD",
    "WeightedSum",
    "attention_loss",
    "attention_map",
    "feature_cloud",
    "flow_loss",
    "flow_matrix",
    "hint_loss",
    "kd_loss",
    "negative_margin",
    "objective_names",
    "partial_distance",
    "selectivity_loss",
    "topology_loss",
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
