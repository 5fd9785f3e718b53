"""The teacher: a frozen network that sees the batch and is never trained; or several of them."""

import hashlib
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from topokd_lib.errors import require_feature
from topokd_lib.models.base import FeatureModel
from topokd_lib.outputs import Batch, ModelOutput, Normalisation

__all__ = ["Teacher", "TeacherGroup"]


class Teacher(nn.Module):
    """A network that is frozen, in evaluation mode, and normalises images as it was trained to.

    Calling ``train()`` on it, or on a module that contains it, changes nothing: a teacher that silently
    normalises by batch statistics is the commonest slip in published distillation code.

    Args:
        model: The network. Its parameters stop requiring gradients.
        normalisation: What the network was trained with; ``None`` means the same as the data.
        data_normalisation: What the batches are normalised with.
        reads: Name of an extra of the batch that the network sees in place of the images, with values
            0 … 255; ``normalisation`` is that of the extra, and ``data_normalisation`` has no meaning.
        batch_statistics: Normalise by the statistics of the batch instead of the running ones (the official
            code of OFD does so, and TopKD's when it makes point clouds). Running statistics stay untouched.

    Raises:
        ValueError: If only one of the two normalisations is given, or one that has no meaning.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: FeatureModel,
        *,
        normalisation: Normalisation | None = None,
        data_normalisation: Normalisation | None = None,
        reads: str | None = None,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if reads is not None:
            if normalisation is None or data_normalisation is not None:
                raise ValueError(
                    f"a teacher that reads {reads!r} needs the normalisation that it was trained with (got "
                    f"{normalisation}), and none of the images, which it does not see (got "
                    f"{data_normalisation})"
                )
            levels = len(normalisation.mean)
            data_normalisation = Normalisation((0.0,) * levels, (1 / 255,) * levels)
        if (normalisation is None) != (data_normalisation is None):
            raise ValueError(
                "to translate images into the teacher's normalisation both are needed: the teacher's "
                f"(got {normalisation}) and the data's (got {data_normalisation})"
            )
        self.model = model.requires_grad_(requires_grad=False)
        self.reads = reads
        self.batch_statistics = False
        scale, shift = _translation(normalisation, data_normalisation)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.train()
        if batch_statistics:
            self._use_batch_statistics()

    @property
    def name(self) -> str:
        """The network's name."""
        return self.model.name

    @property
    def networks(self) -> tuple[FeatureModel, ...]:
        """The network, or those of a group."""
        return (self.model,)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.model.num_classes

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features that can be asked for."""
        return self.model.feature_names

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any weight; artefacts carry those of their teacher."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def with_batch_statistics(self) -> "Teacher":
        """A copy that normalises by the statistics of each batch; this one stays as it is."""
        other = deepcopy(self)
        other._use_batch_statistics()
        return other

    def _use_batch_statistics(self) -> None:
        self.batch_statistics = True
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0  # running statistics are not what changes here
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever ``mode`` says."""
        super().train(mode=False)
        if self.batch_statistics:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
        return self

    @torch.no_grad()
    def forward(self, batch: Batch, names: Collection[str] = ()) -> ModelOutput:
        """Logits and named features of the batch, without gradient.

        Raises:
            FeatureNotFound: If the network offers no such feature.
            ValueError: If the batch lacks the extra that the network reads.
        """
        images = batch.images if self.reads is None else self._extra(batch, self.reads)
        if self.scale.numel():
            images = images * self.scale + self.shift
        return self.model.extract(images, names)

    def _extra(self, batch: Batch, name: str) -> Tensor:
        if name not in batch.extras:
            raise ValueError(
                f"teacher {self.name} reads {name!r} from the extras of a batch, and this one carries "
                f"{', '.join(sorted(batch.extras)) or 'none'}; prepare it and name it in the recipe "
                f"(data.extras.{name})"
            )
        return batch.extras[name]


class TeacherGroup(Teacher):
    """Several teachers by name, which see the same batch.

    Features are called after who offers them: ``image/stage1`` is ``stage1`` of the member ``image``, and
    ``image/logits`` its logits. The logits of the group are those of its first member, so that an objective
    for one teacher learns from that one. An objective that needs the network itself cannot use a group.

    Args:
        teachers: The members, in order.

    Raises:
        ValueError: If there is none, or they know different classes.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        nn.Module.__init__(self)  # there is no single network to freeze
        classes = {name: teacher.num_classes for name, teacher in teachers.items()}
        if len(set(classes.values())) != 1:
            raise ValueError(
                f"the teachers of a group know the same classes, and there is at least one; got "
                f"{', '.join(f'{name} with {count}' for name, count in classes.items()) or 'none'}"
            )
        self.teachers = nn.ModuleDict(teachers)

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise ValueError(
                f"an objective that looks into the teacher's network needs one teacher, and this run has "
                f"{len(self.members)} ({self.name}); name one (recipe field 'teacher'), or drop the term"
            )
        return super().__getattr__(name)

    @property
    def members(self) -> dict[str, Teacher]:
        """The teachers by name."""
        return {name: cast("Teacher", teacher) for name, teacher in self.teachers.items()}

    @property
    def networks(self) -> tuple[FeatureModel, ...]:
        return tuple(teacher.model for teacher in self.members.values())

    @property
    def name(self) -> str:
        return ", ".join(f"{name}: {teacher.name}" for name, teacher in self.members.items())

    @property
    def num_classes(self) -> int:
        return next(iter(self.members.values())).num_classes

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(
            f"{name}/{feature}"
            for name, teacher in self.members.items()
            for feature in ("logits", *teacher.feature_names)
        )

    def fingerprint(self) -> str:
        parts = "".join(f"{name}={teacher.fingerprint()};" for name, teacher in self.members.items())
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def _use_batch_statistics(self) -> None:
        for teacher in self.members.values():
            teacher._use_batch_statistics()

    def train(self, mode: bool = True) -> "TeacherGroup":
        """Stay in evaluation mode, whatever ``mode`` says."""
        for teacher in self.members.values():
            teacher.train(mode)
        return self

    @torch.no_grad()
    def forward(self, batch: Batch, names: Collection[str] = ()) -> ModelOutput:
        """The first member's logits, and named features of all of them.

        Raises:
            FeatureNotFound: If there is no such feature of such a member.
            ValueError: If the batch lacks an extra that a member reads.
        """
        for name in names:
            require_feature("the group", f"({self.name})", name, self.feature_names)
        features: dict[str, Tensor] = {}
        logits: Tensor | None = None
        for name, teacher in self.members.items():
            wanted = {n.removeprefix(f"{name}/") for n in names if n.startswith(f"{name}/")}
            if logits is not None and not wanted:
                continue  # nobody listens
            output = teacher(batch, wanted - {"logits"})
            logits = output.logits if logits is None else logits
            offered = {"logits": output.logits, **output.features}
            features |= {f"{name}/{feature}": offered[feature] for feature in wanted}
        assert logits is not None  # a group has a member
        return ModelOutput(logits, features)


def _translation(own: Normalisation | None, data: Normalisation | None) -> tuple[Tensor, Tensor]:
    """Factor and offset that turn the data's normalised pixels into the teacher's."""
    if own is None or data is None or own == data:
        return torch.empty(0), torch.empty(0)
    own_mean, own_std = torch.tensor(own.mean), torch.tensor(own.std)
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return (std / own_std)[:, None, None], ((mean - own_mean) / own_std)[:, None, None]
