"""What is computed before training and kept as an artefact."""

from topokd_lib.prepare.clouds import clouds_of_test_images, teacher_clouds
from topokd_lib.prepare.ripsnet import RipsNetPlan, prepare_ripsnet
from topokd_lib.prepare.teacher_cache import CachedTeacher, Outputs, OutputsSpec, plan_outputs

__all__ = ["RipsNetPlan", "clouds_of_test_images", "prepare_ripsnet", "teacher_clouds"]
__all__ = [
    "CachedTeacher",
    "Outputs",
    "OutputsSpec",
    "RipsNetPlan",
    "plan_outputs",
    "prepare_ripsnet",
    "teacher_clouds",
]
