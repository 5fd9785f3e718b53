"""``topokd prepare …``: what some methods need before training."""

from contextlib import closing

from topokd_lib.cli.parser import Stages, new_parser
from topokd_lib.objectives import pathway_weights
from topokd_lib.recipes import (
    AttributionRecipe,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
    run_attribution_recipe,
    run_dist_pro_recipe,
    run_image_persistence_recipe,
    run_ripsnet_recipe,
    run_teacher_cache,
)
from topokd_lib.recipes.load import AnyRecipe, add_recipe_options, build_recipe, parse_recipe
from topokd_lib.topology import CHANGES
from topokd_lib.training.stops import end_when_asked

__all__ = [
    "prepare_attributions",
    "prepare_dist_pro",
    "prepare_persistence",
    "prepare_ripsnet",
    "prepare_teacher_cache",
]


def prepare_dist_pro(words: list[str]) -> None:
    """Search pathway weights as a recipe says."""
    recipe = _read(words, "prepare dist-pro", DistProRecipe)
    with closing(Stages()) as stages, end_when_asked():
        process = run_dist_pro_recipe(recipe, progress=stages.show)
    first, last = (pathway_weights(process.scores[place]).sum() for place in (0, -1))
    print(
        f"{recipe.artefact}: {process.scores.shape[1]} pathways from {process.teacher} to {process.student}, "
        f"{len(process.scores)} records; their weights sum to {first:.2f} at first and {last:.2f} at last"
    )


def prepare_ripsnet(words: list[str]) -> None:
    """Train a RipsNet as a recipe says."""
    recipe = _read(words, "prepare ripsnet", RipsNetRecipe)
    with closing(Stages()) as stages, end_when_asked():
        artefact = run_ripsnet_recipe(recipe, progress=stages.show)
    report = artefact.report
    print(
        f"{recipe.artefact}: RipsNet for {artefact.teacher} {artefact.feature!r}, clouds of "
        f"{artefact.cloud_size} points\n"
        f"validation error {report['validation_mse']:.5f}, of a constant image "
        f"{report['constant_mse']:.5f}, R² {report['r2']:.3f}\n"
        f"change of the image, RipsNet's and exact:\n"
        + "\n".join(
            f"  {name:<24}{report[f'change_{name}']:10.5f}{report[f'exact_change_{name}']:10.5f}"
            for name in CHANGES
        )
    )


def prepare_teacher_cache(words: list[str]) -> None:
    """Compute a recipe's teacher outputs that are not on disk yet."""
    recipe = _read(words, "prepare teacher-cache", Recipe)
    with closing(Stages()) as stages, end_when_asked():
        teacher = run_teacher_cache(recipe, tell=print, progress=stages.show)
    spec = teacher.outputs.spec
    print(f"complete; train with --teacher.cache {spec.precision} --data.augment {spec.augment}")


def prepare_persistence(words: list[str]) -> None:
    """Compute persistence images as a recipe says."""
    recipe = _read(words, "prepare image-persistence", ImagePersistenceRecipe, pair=False)
    with closing(Stages()) as stages, end_when_asked():
        arrays = run_image_persistence_recipe(recipe, progress=stages.show)
    channels, *size = arrays.shape
    print(
        f"{recipe.artefact}: {channels} persistence images of {'×'.join(map(str, size))} pixels for each "
        f"of {len(arrays.train)} training and {len(arrays.test)} test images of {arrays.about['data']}"
    )


def prepare_attributions(words: list[str]) -> None:
    """Explain every image's logit by integrated gradients, as a recipe says."""
    recipe = _read(words, "prepare attributions", AttributionRecipe)
    with closing(Stages()) as stages, end_when_asked():
        arrays = run_attribution_recipe(recipe, progress=stages.show)
    print(
        f"{recipe.artefact}: maps of {'×'.join(map(str, arrays.shape))} pixels for each of "
        f"{len(arrays.train)} training and {len(arrays.test)} test images of {arrays.about['data']}, which "
        f"explain {arrays.about['teacher']}"
    )


def _read(words: list[str], command: str, kind: type[AnyRecipe], *, pair: bool = True) -> AnyRecipe:
    """The recipe that the words behind a command describe."""
    parser = new_parser(command, f"[--config RECIPE] {'[--pair PAIR] ' if pair else ''}[--FIELD VALUE ...]")
    add_recipe_options(parser, kind)
    recipe, _ = build_recipe(parser, parse_recipe(parser, words)[0], kind)
    return recipe
