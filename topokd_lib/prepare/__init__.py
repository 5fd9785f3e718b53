"""What is computed before training and kept as an artefact."""

from topokd_lib.prepare.clouds import teacher_clouds
from topokd_lib.prepare.ripsnet import RipsNetPlan, prepare_ripsnet

__all__ = ["RipsNetPlan", "prepare_ripsnet", "teacher_clouds"]
