"""One step of an objective, next to the formula of the benchmark or the authors that its numbers come from.

The formulas are written here from a description of RepDistiller's code (OFD and the modern ones: of their
authors', CRCD: of the only public one), with the same order of operations and the same tensors in memory.
They use the parameters and the memories of our objective, so that losses and gradients can be compared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import GATE, Case, Contender
from topokd_lib import objectives
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import Objective
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.recipes import NeckSpec

TITLE = "Forward and backward of an objective, resnet32x4 to resnet8x4, per image"

CLASSES, SAMPLES, IMAGES = 100, 50000, 64  # CIFAR-100 and its usual batch
STAGES = ("stage1", "stage2", "stage3")
NOT_INSTALLED = "not installed (pip install torchdistill)"

Step = Callable[[ModelOutput, ModelOutput, Batch], Tensor]


# ----------------------------------------------------------------------------------- the benchmark's formulas


def benchmark_form_kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    found = F.log_softmax(student / temperature, dim=1)
    target = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(found, target, reduction="sum") * temperature**2 / len(student)


def benchmark_form_fitnet(regressed: Tensor, hint: Tensor) -> Tensor:
    return (regressed - hint).pow(2).mean()


def benchmark_form_at(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    losses = []
    for maps in zip(student, teacher, strict=True):
        size = min(feature.shape[2] for feature in maps)
        s, t = (F.adaptive_avg_pool2d(f, (size, size)) if f.shape[2] > size else f for f in maps)
        q_s, q_t = (F.normalize(f.pow(2).mean(1).view(len(f), -1)) for f in (s, t))
        losses.append((q_s - q_t).pow(2).mean())
    return sum(losses[1:], losses[0])


def benchmark_form_fsp(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    def flow(bottom: Tensor, top: Tensor) -> Tensor:
        size = min(bottom.shape[2], top.shape[2])
        bottom, top = (F.adaptive_avg_pool2d(f, size) if f.shape[2] > size else f for f in (bottom, top))
        products = bottom.flatten(2).unsqueeze(1) * top.flatten(2).unsqueeze(
            2
        )  # batch, top, bottom, positions
        return products.mean(-1)

    pairs = zip(pairwise(student), pairwise(teacher), strict=True)
    losses = [(flow(*s) - flow(*t)).pow(2).mean() for s, t in pairs]
    return sum(losses[1:], losses[0])


def benchmark_form_nst(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2).mean()

    losses = []
    for maps in zip(student, teacher, strict=True):
        s, t = (F.normalize(feature.flatten(2), dim=2) for feature in maps)
        losses.append(mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t))
    return sum(losses[1:], losses[0])


def benchmark_form_pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    def probabilities(points: Tensor) -> Tensor:
        points = points / (points.pow(2).sum(dim=1, keepdim=True).sqrt() + eps)
        similarity = (points @ points.T + 1) / 2
        return similarity / similarity.sum(dim=1, keepdim=True)

    found, target = probabilities(student), probabilities(teacher)
    return (target * ((target + eps) / (found + eps)).log()).mean()


def benchmark_form_vid(mean: Tensor, log_scale: Tensor, teacher: Tensor, eps: float = 1e-5) -> Tensor:
    variance = ((1 + log_scale.exp()).log() + eps).view(1, -1, 1, 1)
    return (0.5 * ((mean - teacher).pow(2) / variance + variance.log())).mean()


def benchmark_form_rkd(student: Tensor, teacher: Tensor) -> Tensor:
    def distances(points: Tensor) -> Tensor:
        squares = points.pow(2).sum(dim=1)
        squared = squares[:, None] + squares[None] - 2 * points @ points.T
        found = squared.clamp(min=1e-12).sqrt().clone()
        diagonal = torch.arange(len(points))
        found[diagonal, diagonal] = 0
        return found / found[found > 0].mean()

    def angles(points: Tensor) -> Tensor:
        directions = F.normalize(points[None] - points[:, None], dim=2)
        return torch.bmm(directions, directions.transpose(1, 2)).view(-1)

    with torch.no_grad():
        target = distances(teacher), angles(teacher)
    loss = 25 * F.smooth_l1_loss(distances(student), target[0])
    return loss + 50 * F.smooth_l1_loss(angles(student), target[1])


def benchmark_form_ofd(
    regressed: Sequence[Tensor], margins: Sequence[Tensor], teacher: Sequence[Tensor]
) -> Tensor:
    loss = regressed[0].new_zeros(())
    for depth, (seen, margin, feature) in enumerate(zip(regressed, margins, teacher, strict=True)):
        target = torch.max(feature, margin.view(1, -1, 1, 1))
        counts = ((seen > target) | (target > 0)).float()
        squares = F.mse_loss(seen, target, reduction="none") * counts
        loss = loss + squares.sum() / 2 ** (len(regressed) - 1 - depth)
    return loss / len(regressed[0]) / 1000


def benchmark_form_cc(student: Tensor, teacher: Tensor) -> Tensor:
    errors = torch.abs(student - teacher)
    return (errors[:-1] * errors[1:]).sum(1).mean()


def benchmark_form_sp(student: Tensor, teacher: Tensor) -> Tensor:
    def similarity(feature: Tensor) -> Tensor:
        rows = feature.view(len(feature), -1)
        return F.normalize(torch.mm(rows, torch.t(rows)))

    difference = similarity(teacher) - similarity(student)
    return (difference * difference).view(-1, 1).sum(0).squeeze() / len(student) ** 2


def benchmark_form_crd(
    objective: objectives.CRD | objectives.CRCD,
    student: Tensor,
    teacher: Tensor,
    indices: Tensor,
    contrast: Tensor,
    scores: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The contrast is rows of the memory, gathered; `scores` is what CRCD does otherwise."""
    embedded, target = objective.student_embedding(student), objective.teacher_embedding(teacher)
    embedded, target = (v / v.pow(2).sum(1, keepdim=True).pow(0.5) for v in (embedded, target))
    banks = objective.student_bank, objective.teacher_bank
    loss = embedded.new_zeros(())
    for vectors, bank in ((embedded, banks[1]), (target, banks[0])):
        gathered = bank.rows.index_select(0, contrast.view(-1)).view(*contrast.shape, -1)
        products = (
            scores(vectors, bank.rows[indices], gathered)
            if scores
            else torch.bmm(gathered, vectors.unsqueeze(2)).squeeze(2)
        )
        exponentials = torch.exp(products / objective.temperature)
        found = exponentials / (exponentials.mean().detach() * len(bank.rows))
        noise = (found.shape[1] - 1) / len(bank.rows)
        positive = (found[:, 0] / (found[:, 0] + noise + 1e-7)).log()
        negative = (torch.full_like(found[:, 1:], noise) / (found[:, 1:] + noise + 1e-7)).log()
        loss = loss - (positive.sum() + negative.sum()) / len(found)
    with torch.no_grad():
        for vectors, bank in zip((embedded, target), banks, strict=True):
            rows = bank.rows.index_select(0, indices) * bank.momentum + vectors * (1 - bank.momentum)
            bank.rows.index_copy_(0, indices, rows / rows.pow(2).sum(1, keepdim=True).pow(0.5))
    return loss


def benchmark_form_crcd_scores(vectors: Tensor, anchors: Tensor, gathered: Tensor) -> Tensor:
    """Cosines of the directions from every anchor to every image and to all of its candidates."""

    def unit(differences: Tensor) -> Tensor:
        differences = differences + 1e-6
        return differences / differences.pow(2).sum(-1, keepdim=True).pow(0.5)

    relations = unit(vectors[:, None] - anchors[None])  # image, anchor, dimension
    candidates = unit(gathered[:, None] - anchors[None, :, None])  # image, anchor, candidate, dimension
    return torch.matmul(candidates, relations.unsqueeze(3)).squeeze(3).flatten(0, 1)


def official_form_norm(expanded: Tensor, teacher: Tensor, parts: int) -> Tensor:
    return F.mse_loss(expanded, teacher.repeat(1, parts, 1, 1)) * parts


def official_form_simkd(projected: Tensor, teacher: Tensor) -> Tensor:
    return (projected - teacher).pow(2).mean()


def official_form_wkd_l(
    student: Tensor, teacher: Tensor, labels: Tensor, prototypes: Tensor, temperature: float, gamma: float
) -> Tensor:
    """A matrix of costs for every image, from which its label's row and column are cut."""
    count, classes = student.shape
    columns = labels.view(-1, 1)
    target = -(
        F.softmax(teacher, dim=1).gather(1, columns) * F.log_softmax(student, dim=1).gather(1, columns)
    )
    directions = F.normalize(prototypes, dim=1)
    costs = 1 - torch.exp(-(1 - directions @ directions.T))
    mask = torch.ones_like(student).scatter_(1, columns, 0).bool()
    pairs = mask.unsqueeze(1) & mask.unsqueeze(2)
    costs = F.relu(costs.repeat(count, 1, 1)[pairs].view(count, classes - 1, classes - 1)) + 1e-8
    seen, wanted = (
        F.softmax(logits[mask].view(count, -1) / temperature, dim=1).unsqueeze(2)
        for logits in (student, teacher)
    )
    kernel = torch.exp(-costs / 0.05)
    u = torch.ones_like(seen) / seen.shape[1]
    for _ in range(10):
        v = wanted / (torch.bmm(kernel.transpose(1, 2), u) + 1e-8)
        u = seen / (torch.bmm(kernel, v) + 1e-8)
    plan = u * kernel * v.transpose(1, 2)
    return target.mean() + gamma * (plan * costs).sum((1, 2)).mean()


def official_form_wkd_f(projected: Tensor, teacher: Tensor, ratio: float) -> Tensor:
    means = (projected.mean((2, 3)) - teacher.mean((2, 3))).pow(2).sum()
    deviations = [torch.sqrt(maps.var(dim=(2, 3)) + 1e-5) for maps in (projected, teacher)]
    return (ratio * means + (deviations[0] - deviations[1]).pow(2).sum()) / len(projected)


def official_form_dist_pro(connected: Sequence[Tensor], teacher: Sequence[Tensor], scores: Tensor) -> Tensor:
    weights = F.softmax(torch.cat([scores, torch.ones(1).to(scores)]), dim=0) * len(scores)
    losses = []
    for weight, seen, target in zip(weights[:-1], connected, teacher, strict=True):
        loss, share, total = F.mse_loss(seen, target), 1.0, 1.0
        for side in (4, 2, 1):
            if side < seen.shape[2]:
                share /= 2
                total += share
                loss = loss + share * F.mse_loss(
                    F.adaptive_avg_pool2d(seen, side), F.adaptive_avg_pool2d(target, side)
                )
        losses.append(weight * loss / total)
    return torch.stack(losses).sum()


# ----------------------------------------------------------------------------------------------- the problems


@dataclass(frozen=True)
class Problem:
    """An objective and other ways to compute it.

    Args:
        name: For the table.
        objective: Ours; its parameters and its memory are used by the others, too.
        benchmark: The benchmark's formula, if it computes the same.
        torchdistill: Makes torchdistill's class, if it computes the same.
        repeats: Steps in a sample.
        images: Images in a step of a quick run, and of a full one.
        restart: Undoes what a step has remembered.
    """

    name: str
    objective: Objective
    benchmark: Step | None = None
    torchdistill: Callable[[], Step] | None = None
    repeats: int = 1
    images: tuple[int, int] = (IMAGES, IMAGES)
    restart: Callable[[], None] = lambda: None


def cases(quick: bool) -> Iterator[Case]:
    """The features of 64 images; where the benchmark's formula takes seconds, a quick run has 16."""
    pair, student, teacher, batch = _material()
    for problem in chain(_one_to_one(pair), _modern(pair), _relations(pair), _contrasts(pair, batch)):
        yield _case(problem, problem.images[0 if quick else 1], student, teacher, batch)
    for kind in ("n-to-one", "teacher-classifier"):
        necked, seen = _with_neck(kind)
        yield _case(_needs_neck(necked), IMAGES, seen, teacher, batch)


@cache
def _material() -> tuple[Pair, ModelOutput, ModelOutput, Batch]:
    """The networks, and random outputs of theirs for one batch."""
    torch.manual_seed(0)
    pair = Pair.measure(
        create_model("resnet8x4", num_classes=CLASSES),
        Teacher(create_model("resnet32x4", num_classes=CLASSES)),
        image_shape=(3, 32, 32),
        train_labels=torch.arange(SAMPLES) % CLASSES,
        batch_size=IMAGES,
    )
    indices = torch.randperm(SAMPLES)[:IMAGES]
    batch = Batch(torch.zeros(IMAGES, 3, 32, 32), pair.train_labels[indices], indices)
    return pair, _features(pair.student_shapes), _features(pair.teacher_shapes), batch


def _one_to_one(pair: Pair) -> Iterator[Problem]:
    """Objectives that compare an image with the same image."""
    yield Problem(
        "KD",
        objectives.KD(pair),
        lambda s, t, _: benchmark_form_kd(s.logits, t.logits),
        lambda: _times(16, _torchdistill("KDLoss", _ends("logits", "module"), temperature=4.0, alpha=0)),
        repeats=64,
    )
    fitnet = objectives.FitNet(pair)
    yield Problem(
        "FitNet",
        fitnet,
        lambda s, t, _: benchmark_form_fitnet(fitnet.regressor(s["stage2"]), t["stage2"]),
    )
    yield Problem(
        "AT",
        objectives.AT(pair),
        lambda s, t, _: benchmark_form_at([s[name] for name in STAGES], [t[name] for name in STAGES]),
        lambda: _torchdistill("ATLoss", at_pairs=_both(STAGES), mode="code"),
    )
    maps = ("stem", *STAGES)
    yield Problem(
        "FSP",
        objectives.FSP(pair, init_epochs=0),
        lambda s, t, _: benchmark_form_fsp([s[name] for name in maps], [t[name] for name in maps]),
        images=(16, IMAGES),
    )
    yield Problem(
        "FSP as in torchdistill",
        objectives.FSP(pair, init_epochs=0, variant="torchdistill"),
        torchdistill=lambda: _torchdistill("FSPLoss", fsp_pairs=_flows(maps)),
        images=(16, IMAGES),
    )
    yield Problem(
        "NST",
        objectives.NST(pair),
        lambda s, t, _: benchmark_form_nst([s[name] for name in STAGES], [t[name] for name in STAGES]),
        images=(8, IMAGES),
    )
    vid = objectives.VID(pair)

    def means(student: ModelOutput) -> list[Tensor]:
        return [vid.regressors[i].regressor(student[name]) for i, name in enumerate(STAGES)]

    def benchmark_vid(student: ModelOutput, teacher: ModelOutput, _: Batch) -> Tensor:
        stages = zip(means(student), vid.regressors, STAGES, strict=True)
        losses = [benchmark_form_vid(mean, part.log_scale, teacher[name]) for mean, part, name in stages]
        return torch.stack(losses).sum()

    def torchdistill_vid() -> Step:
        loss = _torchdistill("VIDLoss", feature_pairs=_both(STAGES))

        def step(student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
            variances = [part.variance.view(1, -1, 1, 1) for part in vid.regressors]
            pairs = dict(zip(STAGES, zip(means(student), variances, strict=True), strict=True))
            return loss(ModelOutput(student.logits, pairs), teacher, batch)

        return step

    yield Problem("VID", vid, benchmark_vid, torchdistill_vid, images=(16, IMAGES))
    ofd = objectives.OFD(pair)
    yield Problem(
        "OFD",
        ofd,
        lambda s, t, _: benchmark_form_ofd(
            [part.connector(s[f"{name}.preact"]) for part, name in zip(ofd.connectors, STAGES, strict=True)],
            [part.margin for part in ofd.connectors],
            [t[f"{name}.preact"] for name in STAGES],
        ),
        images=(16, IMAGES),
    )


def _with_neck(kind: Literal["n-to-one", "teacher-classifier"]) -> tuple[Pair, ModelOutput]:
    """The same networks, but the student has a neck; and what it says."""
    pair, *_ = _material()
    student = create_model("resnet8x4", num_classes=CLASSES)
    teacher = pair.require_teacher("a neck")
    NeckSpec(kind).insert(student, teacher)
    shapes = {"image_shape": (3, 32, 32), "train_labels": pair.train_labels, "batch_size": IMAGES}
    necked = Pair.measure(student, teacher, **shapes)
    return necked, _features(necked.student_shapes)


def _needs_neck(pair: Pair) -> Problem:
    """Objectives whose student has a neck, which is the network's and is not timed."""
    if "expanded" in pair.student_shapes:
        return Problem(
            "NORM",
            objectives.NORM(pair),
            lambda s, t, _: official_form_norm(s["expanded"], t["last_map"], 8),
        )
    return Problem(
        "SimKD", objectives.SimKD(pair), lambda s, t, _: official_form_simkd(s["last_map"], t["last_map"])
    )


def _modern(pair: Pair) -> Iterator[Problem]:
    """Objectives without a place in RepDistiller, next to the formulas of their authors."""
    wkd_l = objectives.WKDL(pair)
    prototypes = pair.require_teacher("WKD-L").model.last_layer.weight.detach()
    yield Problem(
        "WKD-L",
        wkd_l,
        lambda s, t, b: official_form_wkd_l(
            s.logits, t.logits, b.labels, prototypes.to(s.logits), wkd_l.temperature, wkd_l.transport_weight
        ),
    )
    wkd_f = objectives.WKDF(pair)
    yield Problem(
        "WKD-F",
        wkd_f,
        lambda s, t, _: official_form_wkd_f(wkd_f.projector(s["last_map"]), t["last_map"], 2.0),
        repeats=4,
    )
    dist_pro = objectives.DistPro(pair)

    def official_dist_pro(student: ModelOutput, teacher: ModelOutput, _: Batch) -> Tensor:
        targets = [teacher[dist_pro.teacher_features[i]] for i, _ in dist_pro.pathways]
        seen = [student[dist_pro.student_features[j]] for _, j in dist_pro.pathways]
        parts = zip(dist_pro.connectors, seen, targets, strict=True)
        connected = [connect(x, tuple(target.shape[2:])) for connect, x, target in parts]
        return official_form_dist_pro(connected, targets, dist_pro.current_scores)

    yield Problem("DistPro", dist_pro, official_dist_pro, images=(8, IMAGES))


def _relations(pair: Pair) -> Iterator[Problem]:
    """Objectives that compare the images of a batch with each other."""
    yield Problem(
        "PKT",
        objectives.PKT(pair),
        lambda s, t, _: benchmark_form_pkt(s["pooled"], t["pooled"]),
        lambda: _torchdistill("PKTLoss", _ends("pooled", "module")),
        repeats=32,
    )
    yield Problem(
        "RKD",
        objectives.RKD(pair),
        lambda s, t, _: benchmark_form_rkd(s["pooled"], t["pooled"]),
        lambda: _torchdistill(
            "RKDLoss", _ends("pooled", "output"), dist_factor=25.0, angle_factor=50.0, reduction="mean"
        ),
    )
    cc = objectives.CC(pair)
    yield Problem(
        "CC",
        cc,
        lambda s, t, _: benchmark_form_cc(
            cc.student_embedding(s["pooled"]), cc.teacher_embedding(t["pooled"])
        ),
        repeats=32,
    )
    yield Problem(
        "SP", objectives.SP(pair), lambda s, t, _: benchmark_form_sp(s["stage3"], t["stage3"]), repeats=2
    )
    yield Problem(
        "SP as in torchdistill",
        objectives.SP(pair, variant="torchdistill"),
        torchdistill=lambda: _torchdistill("SPKDLoss", _ends("stage3", "output"), reduction="batchmean"),
        repeats=2,
    )


def _contrasts(pair: Pair, batch: Batch) -> Iterator[Problem]:
    """Objectives with a memory. Ours draws its negatives in the step; the others are given the same ones."""
    crd, crcd = objectives.CRD(pair), objectives.CRCD(pair)
    contrast = {objective: _contrast(objective, batch) for objective in (crd, crcd)}
    yield Problem(
        "CRD",
        crd,
        lambda s, t, b: benchmark_form_crd(crd, s["pooled"], t["pooled"], b.indices, contrast[crd][: len(b)]),
        lambda: _torchdistill_crd(crd, contrast[crd]),
        images=(16, IMAGES),
        restart=_memory_as_now(crd, batch.indices),
    )
    yield Problem(
        "CRCD",
        crcd,
        lambda s, t, b: benchmark_form_crd(
            crcd, s["pooled"], t["pooled"], b.indices, contrast[crcd][: len(b)], benchmark_form_crcd_scores
        ),
        images=(8, 32),
        restart=_memory_as_now(crcd, batch.indices),
    )


def _contrast(objective: objectives.CRD | objectives.CRCD, batch: Batch) -> Tensor:
    """The images that the objective's first step contrasts a batch with, its own first."""
    start = objective.sampler.state.clone()
    pool, places = objective.sampler(batch)
    objective.sampler.state.copy_(start)
    return pool[places]


def _memory_as_now(objective: objectives.CRD | objectives.CRCD, indices: Tensor) -> Callable[[], None]:
    """What puts the memory of these images, and all else that a step changes, back to what it is now."""
    banks = objective.student_bank, objective.teacher_bank
    rows = [bank.rows[indices] for bank in banks]
    state = objective.sampler.state.clone()

    def restart() -> None:
        for bank, before in zip(banks, rows, strict=True):
            bank.rows[indices] = before.to(bank.rows)
        objective.sampler.state.copy_(state)
        objective.student_normaliser.value.zero_()
        objective.teacher_normaliser.value.zero_()

    return restart


# ----------------------------------------------------------------------------------------------- torchdistill


def _torchdistill(name: str, ends: dict[str, str] | None = None, **options: Any) -> Step:
    """One of torchdistill's classes, which read tensors from a dictionary of modules' inputs and outputs."""
    loss = getattr(import_module("torchdistill.losses.mid_level"), name)(**(ends or {}), **options)

    def step(student: ModelOutput, teacher: ModelOutput, _: Batch) -> Tensor:
        return loss(
            *({k: {"output": v} for k, v in _tensors(output).items()} for output in (student, teacher))
        )

    return step


def _torchdistill_crd(crd: objectives.CRD, contrast: Tensor) -> Step:
    dim, negatives = crd.student_bank.rows.shape[1], contrast.shape[1] - 1
    loss = import_module("torchdistill.losses.mid_level").CRDLoss(
        "embedded", "places", "embedded", dim, SAMPLES, negatives, SAMPLES, crd.temperature
    )

    def step(student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        loss.memory_v1, loss.memory_v2 = crd.student_bank.rows, crd.teacher_bank.rows
        loss.params[2:4] = -1  # the normalisers, to be fixed anew
        embedded = F.normalize(crd.student_embedding(student["pooled"]))
        target = F.normalize(crd.teacher_embedding(teacher["pooled"]))
        places = {"pos_idx": batch.indices, "contrast_idx": contrast[: len(batch)]}
        return loss(
            {"embedded": {"output": embedded}, "places": {"input": places}}, {"embedded": {"output": target}}
        )

    return step


def _times(factor: float, step: Step) -> Step:
    """torchdistill's KD without its cross-entropy also leaves out the square of the temperature."""
    return lambda student, teacher, batch: factor * step(student, teacher, batch)


def _ends(name: str, kind: str) -> dict[str, str]:
    """The same tensor of both networks: the options are called differently in each class."""
    ends = {f"{network}_{kind}_path": name for network in ("student", "teacher")}
    if kind == "module":
        ends |= {f"{network}_module_io": "output" for network in ("student", "teacher")}
    return ends


def _both(names: Sequence[str]) -> dict[str, Any]:
    place = {name: {"path": name, "io": "output"} for name in names}
    return {name: {"student": place[name], "teacher": place[name]} for name in names}


def _flows(names: Sequence[str]) -> dict[str, Any]:
    place = {name: {"path": name, "io": "output"} for name in names}
    return {
        second: {
            f"{network}_{position}": place[name]
            for network in ("student", "teacher")
            for position, name in (("first", first), ("second", second))
        }
        for first, second in pairwise(names)
    }


# -------------------------------------------------------------------------------------------- the measurement


def _features(shapes: Mapping[str, torch.Size]) -> ModelOutput:
    """Random features, zero or positive where a network's are."""
    features = {name: torch.randn(IMAGES, *shape) for name, shape in shapes.items()}
    positive = {name: value.relu() for name, value in features.items() if not name.endswith(".preact")}
    return ModelOutput(3 * torch.randn(IMAGES, CLASSES), features | positive)


def _tensors(output: ModelOutput) -> dict[str, Tensor]:
    return {"logits": output.logits, **output.features}


def _case(problem: Problem, images: int, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Case:
    objective = problem.objective
    steps: dict[str, Step | None] = {}
    if problem.benchmark:
        steps["benchmark's formula"] = problem.benchmark
    if problem.torchdistill:
        steps["torchdistill"] = problem.torchdistill() if find_spec("torchdistill") else None
    steps["ours"] = objective

    def measure(step: Step, count: int) -> npt.NDArray[np.floating]:
        """The loss, and the norms of the gradients of all features (of a few images) and parameters."""
        dtype = torch.float64 if count == GATE else torch.float32  # agreement of formulas, not of roundings
        size = min(count, images)
        objective.to(dtype)
        part = Batch(batch.images[:size], batch.labels[:size], batch.indices[:size])
        taught = _first(size, teacher, objective.teacher_features, dtype)
        given = _first(size, student, objective.student_features, dtype)
        for _ in range(count // size):
            problem.restart()
            objective.zero_grad()
            leaves = {name: value.detach().requires_grad_() for name, value in _tensors(given).items()}
            loss = step(ModelOutput(leaves["logits"], leaves), taught, part)
            loss.backward()
        gradients = [leaf.grad[:GATE] for leaf in leaves.values() if leaf.grad is not None]
        gradients += [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
        return np.array([[loss.item(), *(gradient.norm().item() for gradient in gradients)]])

    first = next(step for step in steps.values() if step)
    units = np.abs(measure(first, GATE))

    def relative(step: Step, count: int) -> npt.NDArray[np.floating]:
        """Every number relative to its own size in the reference."""
        found = measure(step, count)
        return found / units if found.shape == units.shape else found

    contenders = [
        Contender(name, partial(relative, step), items=images * problem.repeats)
        if step
        else Contender(name, missing=NOT_INSTALLED)
        for name, step in steps.items()
    ]
    return Case(f"{problem.name}, batch of {images}", tuple(contenders), tolerance=1e-6)


def _first(size: int, output: ModelOutput, features: Sequence[str], dtype: torch.dtype) -> ModelOutput:
    """What is known of the first images, as far as an objective reads it."""
    return ModelOutput(
        output.logits[:size].to(dtype), {name: output[name][:size].to(dtype) for name in features}
    )
