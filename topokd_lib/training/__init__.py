"""Training: one loop for every method, runs that can be interrupted, and weights that know what they are."""

from topokd_lib.training.checkpoint import (
    StudentInfo,
    load_checkpoint,
    load_student,
    load_weights,
    save_checkpoint,
    save_student,
)
from topokd_lib.training.diagnostics import Diagnostics, GradientProbe, term_gradients
from topokd_lib.training.distiller import Distiller
from topokd_lib.training.engine import EngineSpec, make_fabric, seed_all
from topokd_lib.training.epoch import Loader
from topokd_lib.training.evaluate import Evaluation, evaluate
from topokd_lib.training.fit import fit
from topokd_lib.training.log import EpochRecord, History
from topokd_lib.training.run import DataSource, RunDirectory
from topokd_lib.training.schedule import Schedule

__all__ = [
    "DataSource",
    "Diagnostics",
    "Distiller",
    "EngineSpec",
    "EpochRecord",
    "Evaluation",
    "GradientProbe",
    "History",
    "Loader",
    "RunDirectory",
    "Schedule",
    "StudentInfo",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_student",
    "load_weights",
    "make_fabric",
    "save_checkpoint",
    "save_student",
    "seed_all",
    "term_gradients",
]
