"""The weight at which a term pulls as hard at the student as another: equal gradients, not equal numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch

from topokd_lib.errors import RecipeError, require_feature, require_name
from topokd_lib.recipes.recipe import Recipe
from topokd_lib.recipes.run import assemble
from topokd_lib.training import fit, make_fabric, seed_all, term_gradients

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` measured.

    Args:
        term: The term whose weight was asked for.
        reference: The term that it is compared with.
        share: Wanted ratio of the gradients' norms.
        epochs: Trained before the measurement, without the term.
        weight: At which the ratio is ``share``.
        norms: Mean norm of the gradient of each term, without its weight, with respect to the embedding.
        cosine: Of the angle between the two gradients, averaged.
        batches: Measured.
    """

    term: str
    reference: str
    share: float
    epochs: int
    weight: float
    norms: Mapping[str, float]
    cosine: float
    batches: int


def calibrate(
    recipe: Recipe,
    term: str,
    *,
    reference: str = "kd",
    share: float = 1.0,
    epochs: int = 1,
    batches: int = 32,
    feature: str = "pooled",
) -> Calibration:
    r"""Measure the weight at which a term's gradient is ``share`` times as long as the reference's.

    .. math:: w = \text{share} \cdot w_\text{ref} \cdot
              \frac{\sum_b \lVert \partial L_\text{ref} / \partial F_b \rVert}
                   {\sum_b \lVert \partial L_\text{term} / \partial F_b \rVert}

    over minibatches :math:`b` with the student's embedding :math:`F_b`. The gradients change most in the
    first steps of a training, soft targets' more than those of topological terms: a weight that is calibrated
    at the start gives a tenth of the share later. So an epoch without the term comes first; its student is
    thrown away.

    Args:
        recipe: With both terms; their order and the term's own weight do not matter.
        term: Name of the term.
        reference: Name of the other, whose weight in the recipe counts.
        share: Wanted ratio.
        epochs: Trained before the measurement; 0 measures at the start.
        batches: To average over; at most one epoch is read.
        feature: The student's embedding.

    Raises:
        UnknownName: If the recipe has no such term.
        FeatureNotFound: If the student has no such feature.
        RecipeError: If a number is out of its range, the recipe cannot be carried out, or a term has no
            gradient.
    """
    for name in (term, reference):
        require_name("term", name, recipe.terms)
    if term == reference or not share > 0 or epochs < 0 or batches < 1:
        raise RecipeError(
            f"two different terms, a positive share, epochs of at least 0 and batches of at least 1 are "
            f"needed, got {term!r} and {reference!r}, share={share}, epochs={epochs}, batches={batches}"
        )
    if not recipe.terms[reference].weight > 0:
        raise RecipeError(f"the reference {reference!r} has weight 0 in this recipe and pulls at nothing")
    fabric = make_fabric(replace(recipe.engine, devices=1, num_nodes=1))
    parts = assemble(recipe)
    student, teacher, objective, loader = parts.student, parts.teacher, parts.objective, parts.loader
    require_feature("student", student.name, feature, student.feature_names)
    weight = objective.weights[reference]
    if epochs:
        objective.weights[term] = 0.0
        schedule = replace(recipe.schedule, epochs=epochs, milestones=(), warmup_epochs=0)
        fit(fabric, student, teacher, objective, loader, schedule, seed=recipe.seed)
    for module in filter(None, (student, teacher, objective)):
        fabric.to_device(module)
    student.train()
    seed_all(recipe.seed)
    sums = torch.zeros(3)
    count = 0
    for batch in map(fabric.to_device, islice(loader.train_batches(epochs), batches)):
        out = student.extract(batch.images, (*objective.student_features, feature))
        taught = teacher(batch, objective.teacher_features) if teacher is not None else None
        if taught is None:
            raise RecipeError("a term is calibrated against what a teacher says, and this recipe names none")
        losses = {name: objective.terms[name](out, taught, batch) for name in (term, reference)}
        gradients = term_gradients(losses, out.features[feature])
        one, two = (gradients[name].flatten().float().cpu() for name in (term, reference))
        norms = torch.stack([one.norm(), two.norm()])
        cosine = (one @ two) / norms.prod().clamp(min=torch.finfo(torch.float32).tiny)
        sums += torch.cat([norms, cosine[None]])
        count += 1
    own, other, cosine_mean = (sums / count).tolist()
    if not (own > 0 and other > 0):
        raise RecipeError(
            f"no weight makes the gradients alike: with respect to {feature!r} that of {term!r} is "
            f"{own:.3g} and that of {reference!r} {other:.3g} long; does the term read another feature?"
        )
    return Calibration(
        term, reference, share, epochs, share * weight * other / own, {term: own, reference: other},
        cosine_mean, count,
    )  # fmt: skip
