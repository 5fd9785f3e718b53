"""DistPro: which stage of the teacher teaches which stage of the student, and when, is learned beforehand.

Every stage of the teacher is joined to the same stage of the student and to all deeper ones. A search
(``topokd prepare dist-pro``) trains a student and, with the labels of images held out, the weights of these
pathways at once. What it keeps are the weights as a function of time, which the objective replays.

Reference:
    X. Deng, D. Sun, S. Newsam, P. Wang. DistPro: Searching a Fast Knowledge Distillation Process via Meta
    Optimization. ECCV 2022. [deng2022distpro]
Explained in:
    book/reference/objectives.md
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch, CheckpointError
from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps
from topokd_lib.objectives.review_kd import hierarchical_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["DistPro", "PathwayConnector", "PathwayProcess", "pathway_weights", "pathways"]

FORMAT = "topokd-pathways"
WIDEST = 512


def pathways(stages: int) -> list[tuple[int, int]]:
    """Pairs of a teacher's stage and a student's, which is the same or deeper.

    Example:
        >>> pathways(3)
        [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    """
    return [(taught, learning) for taught in range(stages) for learning in range(taught, stages)]


def pathway_weights(scores: Float[Tensor, " pathways"]) -> Float[Tensor, " pathways"]:
    r"""Positive weights from scores, with a sum between 0 and the number of pathways.

    .. math:: w_k = n \, \frac{e^{\alpha_k}}{e + \sum_{l=1}^{n} e^{\alpha_l}}

    The constant score 1 in the denominator is a pathway that teaches nothing: by it the total may vary.

    Example:
        >>> pathway_weights(torch.ones(3))
        tensor([0.7500, 0.7500, 0.7500])
    """
    return len(scores) * torch.cat([scores, scores.new_ones(1)]).softmax(dim=0)[:-1]


class PathwayConnector(nn.Module):
    """Turns a stage of the student into one of the teacher: 3×3, attention, 3×3, resize, 3×3.

    The attention multiplies every pixel by one number, a linear function of its channels, without a sigmoid.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        middle = min(WIDEST, teacher_channels, student_channels)
        self.enter = _normalised_convolution(student_channels, middle)
        self.attention = nn.Conv2d(middle, 1, 1, bias=False)
        self.mix = _normalised_convolution(middle, middle)
        self.leave = _normalised_convolution(middle, teacher_channels)

    def forward(
        self, student: Float[Tensor, "batch student_channels height width"], size: tuple[int, int]
    ) -> Float[Tensor, "batch teacher_channels teacher_height teacher_width"]:
        """The student's map with the teacher's channels, height and width."""
        x = F.relu(self.enter(student))
        x = F.relu(self.mix(x * self.attention(x)))
        return torch.as_tensor(self.leave(F.interpolate(x, size, mode="nearest")))


@dataclass
class PathwayProcess:
    """Scores of all pathways over the time of a search, from its first step to its last.

    Args:
        scores: One row per record, equally spaced in time; one column per pathway.
        student: Name of the network that was trained in the search.
        teacher: Name of the network that taught it.
        student_features: The student's stages.
        teacher_features: The teacher's stages.
        report: Numbers of the search.

    Raises:
        ValueError: If there is no record, a score is not finite, or there is not one column per pathway.
    """

    scores: Float[Tensor, "records pathways"]
    student: str
    teacher: str
    student_features: tuple[str, ...]
    teacher_features: tuple[str, ...]
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = len(pathways(len(self.student_features)))
        if self.scores.ndim != 2 or not len(self.scores) or self.scores.shape[1] != expected:
            raise ValueError(
                f"a process over {len(self.student_features)} stages has records of {expected} scores, got "
                f"shape {tuple(self.scores.shape)}"
            )
        if not self.scores.isfinite().all():
            raise ValueError("scores of pathways must be finite, found values that are infinite or no number")

    def save(self, path: Path | str) -> None:
        """Write one safetensors file: the path holds the old file or the new one, never half.

        Raises:
            OSError: If the directory cannot be written to.
        """
        path = Path(path)
        about = {name: value for name, value in vars(self).items() if name != "scores"}
        content = save(
            {"scores": self.scores.float().cpu().contiguous()},
            metadata={"format": FORMAT, "process": json.dumps(about)},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> "PathwayProcess":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If there is no such file, it is damaged, or it is something else.
        """
        advice = "make one with `topokd prepare dist-pro`"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise CheckpointError(
                        f"{path} is a safetensors file but holds no pathway weights; {advice}"
                    )
                about = json.loads(metadata["process"])
                for key in ("student_features", "teacher_features"):
                    about[key] = tuple(about[key])
                return cls(scores=file.get_tensor("scores"), **about)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read pathway weights from {path}: {error}; {advice}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the pathway weights in {path} are incomplete: {error}; {advice}"
            ) from error


class DistPro(Objective):
    r""":func:`hierarchical_loss` along all pathways, with weights that change as training goes on.

    .. math:: L = \sum_{k = (i, j)} w_k(t) \, L_\mathrm{HCL}(C_k(f^S_j), f^T_i), \qquad j \geq i

    with a :class:`PathwayConnector` :math:`C_k` for every pathway and the weights of a search at the same
    fraction :math:`t` of the training, interpolated linearly between records of their scores. Weights are
    constant within an epoch, in whose middle they are read.

    Args:
        pair: The two networks.
        process: What a search found, or its path. ``None`` gives all pathways the score 1, as at the
            beginning of a search: the control.
        student_features: The student's stages, from shallow to deep; by default the pre-activations that both
            networks have.
        teacher_features: The teacher's, in the same order.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        CheckpointError: If the process cannot be read.
        ArtefactMismatch: If the search was made for other networks or other stages.
        ValueError: If there is no teacher, or the features do not pair up or are not maps.

    Differs from:
        The official code (bytedance/DistPro, distiller.py) also joins the stem on CIFAR, and never reads the
        weights back that it has searched: the replay here is what the paper describes. It multiplies by
        ``kd_weight``, which is the weight in a recipe here. It has the teacher in training mode.
    """

    scores: Tensor
    current_scores: Tensor

    def __init__(
        self,
        pair: Pair,
        *,
        process: Path | PathwayProcess | None = None,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        default = common_stages(pair, ".preact")
        maps = pair_maps(pair, "DistPro", student_features, teacher_features, default=default)
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)
        self.pathways = pathways(len(maps))
        self.connectors = nn.ModuleList(
            PathwayConnector(maps[learning].student_shape[0], maps[taught].teacher_shape[0])
            for taught, learning in self.pathways
        )
        if process is not None and not isinstance(process, PathwayProcess):
            process = PathwayProcess.load(process)
        if process is not None:
            _require_same_search(process, pair, self)
        scores = torch.ones(1, len(self.pathways)) if process is None else process.scores.float()
        self.register_buffer("scores", scores)
        self.register_buffer("current_scores", scores[0].clone())

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        place = (epoch + 0.5) / epochs * (len(self.scores) - 1)
        before = int(place)
        after = min(before + 1, len(self.scores) - 1)
        self.current_scores.copy_(torch.lerp(self.scores[before], self.scores[after], place - before))

    def pathway_losses(self, student: ModelOutput, teacher: ModelOutput) -> Float[Tensor, " pathways"]:
        """The loss of every pathway, without weights."""
        losses = []
        for connect, (taught, learning) in zip(self.connectors, self.pathways, strict=True):
            target = teacher[self.teacher_features[taught]]
            seen = connect(student[self.student_features[learning]], tuple(target.shape[2:]))
            losses.append(hierarchical_loss(seen, target))
        return torch.stack(losses)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return pathway_weights(self.current_scores) @ self.pathway_losses(student, teacher)


def _require_same_search(process: PathwayProcess, pair: Pair, objective: DistPro) -> None:
    sides: dict[str, tuple[str | Sequence[str], str | Sequence[str]]] = {
        "student": (process.student, pair.student.name),
        "teacher": (process.teacher, pair.require_teacher("DistPro").name),
        "stages of the student": (process.student_features, objective.student_features),
        "stages of the teacher": (process.teacher_features, objective.teacher_features),
    }
    wrong = [
        f"{what}: made for {made}, used with {used}" for what, (made, used) in sides.items() if made != used
    ]
    if wrong:
        raise ArtefactMismatch(
            f"these pathway weights belong to something else ({'; '.join(wrong)}); make new ones with "
            f"`topokd prepare dist-pro`"
        )


def _normalised_convolution(channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
