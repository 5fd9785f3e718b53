"""The contracts of models and objectives, as checks that anybody can run on their own.

A new model or a new objective of this library is covered as soon as it is exported: the test suite runs every
check on every name. For a class that lives elsewhere:

    >>> from topokd_lib.objectives import KD
    >>> for check in OBJECTIVE_CHECKS.values():
    ...     check(KD, toy_pair())

Checks raise :class:`AssertionError` with a sentence that says what is wrong and why it matters.
"""

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib import objectives
from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import FeatureModel, Teacher, TeacherGroup, create_model
from topokd_lib.objectives import Objective, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.recipes import NeckSpec
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact

__all__ = [
    "MODEL_CHECKS",
    "NEEDS_NECK",
    "OBJECTIVE_CHECKS",
    "objective_cases",
    "toy_batch",
    "toy_group",
    "toy_outputs",
    "toy_pair",
    "toy_ripsnet",
]

ObjectiveFactory = Callable[[Pair], Objective]
NEEDS_NECK: dict[str, Literal["n-to-one", "teacher-classifier"]] = {
    "NORM": "n-to-one",
    "SimKD": "teacher-classifier",
}
"""Objectives that read what a neck of the student makes, and the kind of neck."""
CLASSES, BATCH, SIZE = 5, 8, 16


# ---------------------------------------------------------------------------------------------- toy material


def toy_pair(
    student: str = "resnet8",
    teacher: str = "resnet14",
    *,
    batch_size: int = BATCH,
    neck: Literal["n-to-one", "teacher-classifier"] | None = None,
) -> Pair:
    """Two small untrained networks of the library for 16×16 images of five classes.

    Args:
        student: Name of the network that learns.
        teacher: Name of the network that teaches.
        batch_size: Images per step.
        neck: Gives the student a neck made for this teacher (:class:`~topokd_lib.recipes.NeckSpec`).
    """
    torch.manual_seed(0)
    networks = [create_model(name, num_classes=CLASSES) for name in (student, teacher)]
    if neck is not None:
        NeckSpec(neck, parts=3).insert(networks[0], Teacher(networks[1]))
    return Pair.measure(
        networks[0],
        Teacher(networks[1]),
        image_shape=(3, SIZE, SIZE),
        train_labels=torch.arange(40) % CLASSES,
        batch_size=batch_size,
    )


def toy_group(student: str = "resnet8", teachers: Collection[str] = ("resnet14", "resnet20")) -> Pair:
    """The same student with a group of two teachers, called ``image`` and ``topology``."""
    torch.manual_seed(0)
    networks = [Teacher(create_model(name, num_classes=CLASSES)) for name in teachers]
    return Pair.measure(
        create_model(student, num_classes=CLASSES),
        TeacherGroup(dict(zip(("image", "topology"), networks, strict=True))),
        image_shape=(3, SIZE, SIZE),
        train_labels=torch.arange(40) % CLASSES,
        batch_size=BATCH,
    )


def toy_batch(size: int = BATCH, seed: int = 1) -> Batch:
    """Seeded random images; the indices are distinct and the labels those of :func:`toy_pair`."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(40, generator=generator)[:size]
    images = torch.randn(size, 3, SIZE, SIZE, generator=generator)
    return Batch(images, indices % CLASSES, indices)


def toy_outputs(
    pair: Pair,
    batch: Batch,
    *,
    student_features: Collection[str],
    teacher_features: Collection[str],
) -> tuple[ModelOutput, ModelOutput]:
    """What both networks say about a batch, as leaves: the student's tensors require gradients."""
    with torch.no_grad():
        seen = pair.student.train().extract(batch.images, student_features)
        taught = pair.require_teacher("a toy output")(batch, teacher_features)
    return _leaves(seen), taught


def toy_ripsnet(pair: Pair, feature: str = "pooled") -> RipsNetArtefact:
    """An untrained RipsNet with the metadata of the pair's teacher; enough to test the wiring."""
    torch.manual_seed(2)
    teacher = pair.require_teacher("a RipsNet")
    image = PersistenceImage(
        birth_range=(0.0, 0.0), persistence_range=(0.0, 3.0), bandwidth=0.3, resolution=(6, 6), weight="tanh"
    )
    dim = pair.teacher_shapes[feature][0]
    return RipsNetArtefact(
        network=RipsNet(dim, image.pixels, pooling="mean"),
        image=image,
        dimension=0,
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint(),
        feature=feature,
        cloud_size=pair.batch_size,
        report={},
        provenance={},
    )


def objective_cases() -> dict[str, ObjectiveFactory]:
    """Every objective of the library, and how a test builds it on a toy pair.

    A class that needs nothing but the pair is found by itself; one that needs an artefact, or has modes worth
    testing on their own, is listed here. Not among them is what needs two teachers: TGD, whose checks run on
    :func:`toy_group`; those that need a student with a neck are in :data:`NEEDS_NECK`.
    """
    listed: dict[str, ObjectiveFactory] = {
        "CATKD-binary": lambda pair: objectives.CATKD(pair, normalise=True, binarise=True),
        "FSP": _joint_fsp,  # in the two-step form the main training has no term that could be checked
        "MGD-position": lambda pair: objectives.MGD(pair, mask="position"),
        "WKDF-bottleneck": lambda pair: objectives.WKDF(pair, projector="bottleneck", cells=2),
        "TopKD": lambda pair: objectives.TopKD(pair, artefact=toy_ripsnet(pair)),
        "SortedDeaths-constant": lambda pair: objectives.SortedDeaths(pair, target="constant"),
        "TopKD-artefact": lambda pair: objectives.TopKD(pair, artefact=toy_ripsnet(pair), image="exact"),
        "TopKD-constant": lambda pair: objectives.TopKD(pair, artefact=toy_ripsnet(pair), target="constant"),
        "TopKD-exact": lambda pair: objectives.TopKD(pair, image="exact", fit_clouds=3),
        "TopKD-exact-constant": lambda pair: objectives.TopKD(
            pair, image="exact", target="constant", fit_clouds=2
        ),
        "TopKD-loops": lambda pair: objectives.TopKD(pair, image="exact", dimensions=(0, 1), normalise="max"),
        "TopKD-isometric": lambda pair: objectives.TopKD(
            pair, artefact=toy_ripsnet(pair), connector="isometric"
        ),
        "TopKD-stage": lambda pair: objectives.TopKD(
            pair, artefact=toy_ripsnet(pair, "stage3"), student_feature="stage2"
        ),
        "WeightedSum": lambda pair: WeightedSum(
            {"ce": objectives.CrossEntropy(pair), "kd": objectives.KD(pair)}, {"ce": 0.1, "kd": 0.9}
        ),
    }
    exported = {name: getattr(objectives, name) for name in objectives.__all__}
    found: dict[str, ObjectiveFactory] = {
        name: cls
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, Objective) and cls not in (Objective, objectives.TGD)
    }
    return {name: build for name, build in (found | listed).items() if name not in NEEDS_NECK}


def _joint_fsp(pair: Pair) -> Objective:
    """FSP as one term, between layers of equal width; a wide teacher has them two stages earlier."""
    narrow = ("stage2", "stage3")
    equal = pair.student_shapes["stage2"][0] == pair.teacher_shapes["stage2"][0]
    wide = narrow if equal else ("stem", "stage1")
    return objectives.FSP(pair, student_features=narrow, teacher_features=wide, init_epochs=0)


# ------------------------------------------------------------------------------------- contract of objectives

ORDER_MATTERS: frozenset[str] = frozenset({"CC", "CRCD", "CRD", "MGD", "SemCKD"})
"""Objectives whose loss depends on the order of the images in a batch (CC multiplies the errors of
neighbours, SemCKD has weights for every place), on what they saw before (CRD and CRCD remember the first
order when they see the second), or on random numbers that are drawn image by image (MGD)."""


def loss_is_a_finite_float32(build: ObjectiveFactory, pair: Pair) -> None:
    """One finite number in float32, also when the networks ran in bfloat16."""
    objective = _build(build, pair)
    loss = _loss(objective, pair)
    assert loss.shape == (), f"a loss is one number, got shape {tuple(loss.shape)}"
    assert loss.dtype == torch.float32, f"a loss is float32, got {loss.dtype}"
    assert torch.isfinite(loss), f"the loss of an ordinary batch is {loss.item()}"
    batch = toy_batch()
    student, teacher = _outputs(objective, pair, batch)
    halved = objective(_bfloat16(student).float(), _bfloat16(teacher).float(), batch)
    assert halved.dtype == torch.float32, "losses are computed in float32"
    assert torch.isfinite(halved), "the loss of bfloat16 outputs is not finite"


def gradient_reaches_the_student(build: ObjectiveFactory, pair: Pair) -> None:
    """Some tensor of the student has a gradient that is finite and not zero."""
    objective = _build(build, pair)
    batch = toy_batch()
    student, teacher = _outputs(objective, pair, batch)
    objective(student, teacher, batch).backward()
    gradients = [x.grad for x in (student.logits, *student.features.values()) if x.grad is not None]
    assert gradients, "the loss does not depend on the student"
    assert all(torch.isfinite(g).all() for g in gradients), "a gradient is not finite"
    assert any(g.abs().sum() > 0 for g in gradients), "every gradient is zero: the student is not taught"


def gradient_never_reaches_the_teacher(build: ObjectiveFactory, pair: Pair) -> None:
    """The teacher's tensors are a target, not something to adapt."""
    objective = _build(build, pair)
    batch = toy_batch()
    student, teacher = _outputs(objective, pair, batch)
    teacher = _leaves(teacher)
    before = {key: value.clone() for key, value in _state_of(pair).items()}
    objective(student, teacher, batch).backward()
    for name, value in (("logits", teacher.logits), *teacher.features.items()):
        assert value.grad is None, f"a gradient flows into the teacher's {name}"
    after = _state_of(pair)
    assert all(torch.equal(before[key], after[key]) for key in before), "the teacher's state changed"


def every_parameter_is_trained(build: ObjectiveFactory, pair: Pair) -> None:
    """No trainable parameter is left without gradient; unused ones stop distributed training."""
    objective = _build(build, pair)
    _loss(objective, pair).backward()
    idle = [
        name
        for name, parameter in objective.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not idle, f"trainable parameters get no gradient: {', '.join(idle)}"


def networks_are_not_stored(build: ObjectiveFactory, pair: Pair) -> None:
    """An objective that keeps a network would train, move and save it."""
    objective = _build(build, pair)
    networks = {id(p) for p in (*pair.student.parameters(), *_teacher(pair).parameters())}
    shared = [name for name, p in objective.named_parameters() if id(p) in networks]
    assert not shared, f"the objective holds parameters of a network: {', '.join(shared[:3])}"


def state_survives_a_round_trip(build: ObjectiveFactory, pair: Pair) -> None:
    """Saving after two steps and loading into a fresh objective continues with the same losses."""
    first = _build(build, pair)
    for seed in (1, 2):
        _loss(first, pair, seed=seed)
    torch.manual_seed(99)
    second = build(pair)
    second.load_state_dict(deepcopy(first.state_dict()))
    for seed in (3, 4):
        torch.manual_seed(seed)
        expected = _loss(first, pair, seed=seed)
        torch.manual_seed(seed)
        found = _loss(second, pair, seed=seed)
        assert torch.equal(expected, found), (
            "an objective restored from its state dictionary gives another loss; some state is not registered"
        )


def only_declared_features_are_read(build: ObjectiveFactory, pair: Pair) -> None:
    """Names are declared truthfully: all that are declared exist, and a missing one is reported by name."""
    objective = _build(build, pair)
    _loss(objective, pair)
    batch = toy_batch()
    student, teacher = _outputs(objective, pair, batch)
    for output, names in ((student, objective.student_features), (teacher, objective.teacher_features)):
        for name in names:
            kept = output.features.pop(name)
            try:
                objective(student, teacher, batch)
            except FeatureNotFound as error:
                assert name in str(error), f"the error does not name {name!r}: {error}"
            else:
                raise AssertionError(f"feature {name!r} is declared and never read")
            output.features[name] = kept


def same_seed_same_loss(build: ObjectiveFactory, pair: Pair) -> None:
    """Construction and loss are functions of the seed and the batch."""
    losses = []
    for _ in range(2):
        objective = _build(build, pair)
        torch.manual_seed(5)
        losses.append(_loss(objective, pair))
    assert torch.equal(losses[0], losses[1]), "two constructions under one seed give two losses"


def order_of_images_is_irrelevant(build: ObjectiveFactory, pair: Pair) -> None:
    """Shuffling a batch changes nothing beyond rounding, unless the method says that it does."""
    objective = _build(build, pair)
    if type(objective).__name__ in ORDER_MATTERS:
        return
    batch = toy_batch()
    student, teacher = _outputs(objective, pair, batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    shuffled = Batch(batch.images[order], batch.labels[order], batch.indices[order])
    torch.manual_seed(5)
    expected = objective(student, teacher, batch)
    torch.manual_seed(5)
    found = objective(_reorder(student, order), _reorder(teacher, order), shuffled)
    assert torch.allclose(expected, found, rtol=1e-4, atol=1e-7), (
        f"the loss depends on the order of the images: {expected.item()} and {found.item()}"
    )


def a_batch_of_one_is_defined(build: ObjectiveFactory, pair: Pair) -> None:
    """One image gives a finite loss, or a ValueError that says how many are needed."""
    objective = _build(build, pair)
    batch = toy_batch(size=1)
    student, teacher = toy_outputs(
        pair,
        toy_batch(size=2),
        student_features=objective.student_features,
        teacher_features=objective.teacher_features,
    )
    student, teacher = _reorder(student, torch.tensor([0])), _reorder(teacher, torch.tensor([0]))
    try:
        loss = objective(student, teacher, batch)
    except ValueError as error:
        assert any(character.isdigit() for character in str(error)), f"the message names no number: {error}"
    else:
        assert torch.isfinite(loss), f"the loss of a single image is {loss.item()}"


OBJECTIVE_CHECKS: dict[str, Callable[[ObjectiveFactory, Pair], None]] = {
    check.__name__: check
    for check in (
        loss_is_a_finite_float32,
        gradient_reaches_the_student,
        gradient_never_reaches_the_teacher,
        every_parameter_is_trained,
        networks_are_not_stored,
        state_survives_a_round_trip,
        only_declared_features_are_read,
        same_seed_same_loss,
        order_of_images_is_irrelevant,
        a_batch_of_one_is_defined,
    )
}
"""Every check of the objective contract by name; each takes a factory and a pair."""


# ----------------------------------------------------------------------------------------- contract of models


def forward_returns_the_logits(model: FeatureModel) -> None:
    """``model(images)`` and ``model.extract(images).logits`` are the same, one row per image."""
    images = toy_batch(4).images
    model.eval()
    logits = model(images)
    assert logits.shape == (4, model.num_classes), f"logits have shape {tuple(logits.shape)}"
    assert torch.equal(logits, model.extract(images).logits), "forward and extract disagree"
    assert torch.equal(logits, model.extract(images, model.feature_names).logits), (
        "asking for features changes the logits"
    )


def declared_features_exist(model: FeatureModel) -> None:
    """Each declared name can be extracted alone, nothing else is kept, and maps never grow with depth."""
    images = toy_batch(2).images
    model.eval()
    sizes = []
    for name in model.feature_names:
        features = model.extract(images, [name]).features
        assert set(features) == {name}, f"asked for {name!r}, kept {sorted(features)}"
        if features[name].ndim == 4:
            sizes.append(features[name].shape[-1])
    assert sizes == sorted(sizes, reverse=True), f"feature maps grow with depth: {sizes}"


def unknown_features_are_refused(model: FeatureModel) -> None:
    """A wrong name is answered with the nearest right one."""
    try:
        model.extract(toy_batch(1).images, [f"{model.feature_names[-1]}x"])
    except FeatureNotFound as error:
        assert "Did you mean" in str(error), f"no suggestion: {error}"
    else:
        raise AssertionError("an unknown feature was accepted")


def stages_end_as_declared(model: FeatureModel) -> None:
    """``stageK`` and ``stageK.preact`` are related as ``stage_ending`` says, to the last bit.

    All but rectified stages have negative values: a ReLU that works in place would have removed them.
    """
    output = model.eval().extract(toy_batch(4).images, model.feature_names)
    for name in (n for n in model.feature_names if n.endswith(".preact")):
        preact, stage = output[name], output[name.removesuffix(".preact")]
        assert preact.min() < 0, f"{name} has no negative value; was it overwritten in place?"
        match model.stage_ending:
            case "relu":
                assert torch.equal(F.relu(preact), stage), f"{name} is not its stage before the ReLU"
            case "sum":
                assert stage.min() < 0, f"{name}: the sum has no negative value"
                found = model.norm_before(name)(stage)
                assert torch.equal(found, preact), f"{name} is not its stage, normalised"
            case "linear":
                assert torch.equal(preact, stage), f"{name} is not its stage, although no ReLU follows"


def pooled_and_cam_explain_the_logits(model: FeatureModel) -> None:
    """The last layer maps ``pooled`` to the logits, and the mean of ``cam`` is the logits."""
    output = model.eval().extract(toy_batch(4).images, ["pooled", "cam"])
    assert torch.allclose(model.last_layer(output["pooled"]), output.logits, atol=1e-5), "pooled"
    assert torch.allclose(output["cam"].mean(dim=(2, 3)), output.logits, atol=1e-4), "cam"


def modules_up_to_a_feature_are_what_it_depends_on(model: FeatureModel) -> None:
    """A gradient from the feature reaches exactly the parameters of ``modules_up_to(name)``."""
    for name in model.feature_names:
        model.zero_grad(set_to_none=True)
        model.eval().extract(toy_batch(2).images, [name])[name].square().sum().backward()
        reached = {id(p) for p in model.parameters() if p.grad is not None}
        declared = {id(p) for module in model.modules_up_to(name) for p in module.parameters()}
        assert reached == declared, f"{name}: {len(reached)} parameters reached, {len(declared)} declared"


def norm_before_a_preactivation_is_its_last_step(model: FeatureModel) -> None:
    """Shifting that normalisation's bias shifts the pre-activation by as much, or the model refuses."""
    images = toy_batch(2).images.double()
    double = deepcopy(model).double().eval()  # untrained activations are large: leave no room for rounding
    for name in (n for n in model.feature_names if n.endswith(".preact")):
        try:
            bias = double.norm_before(name).bias
        except ValueError as error:
            assert name in str(error), f"the error does not name {name!r}: {error}"
            continue
        with torch.no_grad():
            before = double.extract(images, [name])[name]
            bias.add_(0.5)
            shift = double.extract(images, [name])[name] - before
            bias.sub_(0.5)
        assert torch.allclose(shift, torch.tensor(0.5).double(), atol=1e-6), name


def features_leave_training_alone(model: FeatureModel) -> None:
    """A training pass with all features gives the same logits and running statistics as one without."""
    images = toy_batch(4).images
    plain, tapped = deepcopy(model).train(), deepcopy(model).train()
    torch.manual_seed(3)
    logits = plain(images)
    torch.manual_seed(3)
    output = tapped.extract(images, model.feature_names)
    assert torch.equal(logits, output.logits), "asking for features changes the logits in training"
    for key, value in plain.state_dict().items():
        assert torch.equal(value, tapped.state_dict()[key]), f"asking for features changes {key}"


def training_reaches_every_parameter(model: FeatureModel) -> None:
    """One step of cross-entropy gives every parameter a finite gradient."""
    batch = toy_batch(4)
    model.train().zero_grad(set_to_none=True)
    F.cross_entropy(model(batch.images), batch.labels % model.num_classes).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"


def weights_survive_a_round_trip(model: FeatureModel) -> None:
    """A fresh copy with other weights gives the same logits once the state is loaded."""
    images = toy_batch(2).images
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), model.eval()(images)), "weights are not all in the state"


MODEL_CHECKS: dict[str, Callable[[FeatureModel], None]] = {
    check.__name__: check
    for check in (
        forward_returns_the_logits,
        declared_features_exist,
        unknown_features_are_refused,
        stages_end_as_declared,
        pooled_and_cam_explain_the_logits,
        modules_up_to_a_feature_are_what_it_depends_on,
        norm_before_a_preactivation_is_its_last_step,
        features_leave_training_alone,
        training_reaches_every_parameter,
        weights_survive_a_round_trip,
    )
}
"""Every check of the model contract by name; each takes a model for images of three channels."""


# ---------------------------------------------------------------------------------------------------- helpers


def _build(build: ObjectiveFactory, pair: Pair) -> Objective:
    torch.manual_seed(0)
    objective = build(pair)
    objective.begin_epoch(0, 1)
    return objective.train()


def _outputs(objective: Objective, pair: Pair, batch: Batch) -> tuple[ModelOutput, ModelOutput]:
    return toy_outputs(
        pair,
        batch,
        student_features=objective.student_features,
        teacher_features=objective.teacher_features,
    )


def _loss(objective: Objective, pair: Pair, seed: int = 1) -> Tensor:
    batch = toy_batch(seed=seed)
    student, teacher = _outputs(objective, pair, batch)
    return torch.as_tensor(objective(student, teacher, batch))


def _leaves(output: ModelOutput) -> ModelOutput:
    return ModelOutput(
        output.logits.detach().clone().requires_grad_(),
        {name: value.detach().clone().requires_grad_() for name, value in output.features.items()},
    )


def _bfloat16(output: ModelOutput) -> ModelOutput:
    return ModelOutput(
        output.logits.bfloat16(), {name: value.bfloat16() for name, value in output.features.items()}
    )


def _reorder(output: ModelOutput, order: Tensor) -> ModelOutput:
    return ModelOutput(output.logits[order], {name: v[order] for name, v in output.features.items()})


def _teacher(pair: Pair) -> nn.Module:
    return pair.require_teacher("a contract check")


def _state_of(pair: Pair) -> dict[str, Tensor]:
    return dict(_teacher(pair).state_dict())
