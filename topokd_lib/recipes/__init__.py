"""Experiments as data: recipes, and what carries them out."""

from topokd_lib.recipes.calibrate import Calibration, calibrate
from topokd_lib.recipes.extras import ExtraSpec
from topokd_lib.recipes.files import find_recipe, recipe_names, recipe_title
from topokd_lib.recipes.load import load_recipe
from topokd_lib.recipes.overlays import OverlaySpec
from topokd_lib.recipes.pairs import BenchmarkPair, benchmark_pairs
from topokd_lib.recipes.recipe import (
    AttributionRecipe,
    DataSpec,
    DiagnosticsSpec,
    DistProRecipe,
    ImagePersistenceRecipe,
    NeckSpec,
    Recipe,
    RipsNetRecipe,
    TeacherSpec,
    Term,
)
from topokd_lib.recipes.run import (
    assemble,
    default_directory,
    evaluate_run,
    rehearse,
    run_attribution_recipe,
    run_dist_pro_recipe,
    run_image_persistence_recipe,
    run_recipe,
    run_ripsnet_recipe,
    run_teacher_cache,
)
from topokd_lib.recipes.stand_ins import stand_in_options

__all__ = [
    "AttributionRecipe",
    "BenchmarkPair",
    "Calibration",
    "DataSpec",
    "DiagnosticsSpec",
    "DistProRecipe",
    "ExtraSpec",
    "ImagePersistenceRecipe",
    "NeckSpec",
    "OverlaySpec",
    "Recipe",
    "RipsNetRecipe",
    "TeacherSpec",
    "Term",
    "assemble",
    "benchmark_pairs",
    "calibrate",
    "default_directory",
    "evaluate_run",
    "find_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_title",
    "rehearse",
    "run_attribution_recipe",
    "run_dist_pro_recipe",
    "run_image_persistence_recipe",
    "run_recipe",
    "run_ripsnet_recipe",
    "run_teacher_cache",
    "stand_in_options",
]
