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
    "objective_names",
    "topology_loss",
]


def objective_names() -> list[str]:
    """Names of the methods that a recipe can use as a term."""
    exported = {name: globals()[name] for name in __all__}
    return [
        name
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, Objective) and cls not in (Objective, WeightedSum)
    ]
