"""What is computed before training and kept as an artefact."""

from topokd_lib.prepare.attributions import (
    AttributionPlan,
    attribution_map,
    integrated_gradients,
    prepare_attributions,
)
from topokd_lib.prepare.clouds import clouds_of_test_images, teacher_clouds
from topokd_lib.prepare.dist_pro import DistProPlan, hold_out, hypergradient, search_pathways
from topokd_lib.prepare.image_persistence import prepare_image_persistence
from topokd_lib.prepare.ripsnet import RipsNetPlan, prepare_ripsnet
from topokd_lib.prepare.teacher_cache import CachedTeacher, Outputs, OutputsSpec, plan_outputs

__all__ = [
    "AttributionPlan",
    "CachedTeacher",
    "DistProPlan",
    "Outputs",
    "OutputsSpec",
    "RipsNetPlan",
    "attribution_map",
    "clouds_of_test_images",
    "hold_out",
    "hypergradient",
    "integrated_gradients",
    "plan_outputs",
    "prepare_attributions",
    "prepare_image_persistence",
    "prepare_ripsnet",
    "search_pathways",
    "teacher_clouds",
]
