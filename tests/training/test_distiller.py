import pytest
import torch

from tests.training.toy import Labels, Remember, TinyNet, ToyLoader, tiny_teacher
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.outputs import ModelOutput
from topokd_lib.training import Distiller, EngineSpec, make_fabric


class Dtypes(Objective):
    """Writes down what it is given."""

    student_features = ("stage1", "pooled")
    teacher_features = ("stage2",)

    def forward(self, student, teacher, batch):
        self.student, self.teacher = student, teacher
        self.inside = (student["pooled"] @ student["pooled"].T).dtype
        return student.logits.square().mean()


def first_batch():
    return next(ToyLoader().train_batches(0))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_objective_always_sees_float32(precision):
    fabric = make_fabric(EngineSpec(accelerator="cpu", precision=precision))
    objective, batch, teacher = Dtypes(), first_batch(), tiny_teacher()
    distiller = fabric.setup(Distiller(TinyNet(), objective))
    taught = teacher(batch, objective.teacher_features)
    loss, logits = distiller(batch, taught)
    outputs = (objective.student, objective.teacher)
    found = {value.dtype for out in outputs for value in (out.logits, *out.features.values())}
    assert found | {objective.inside, loss.dtype, logits.dtype} == {torch.float32}
    assert torch.equal(objective.teacher.logits, taught.logits), "the teacher's logits were rounded"


def test_only_the_declared_features_are_kept():
    objective, batch = Dtypes(), first_batch()
    Distiller(TinyNet(), objective)(batch, ModelOutput.untaught(batch, 3))
    assert set(objective.student.features) == {"stage1", "pooled"}


def test_a_batch_is_moved_wholly_and_not_copied_where_it_is():
    batch = first_batch()
    batch.extras["map"] = torch.zeros(8, 2)
    moved = batch.to(torch.device("meta"))
    tensors = (moved.images, moved.labels, moved.indices, moved.extras["map"])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    stayed = make_fabric(EngineSpec(accelerator="cpu")).to_device(batch)
    assert stayed.images is batch.images
    assert stayed.extras["map"] is batch.extras["map"]


def test_logits_for_the_log_keep_no_graph():
    loss, logits = Distiller(TinyNet(), Labels())(first_batch(), ModelOutput.untaught(first_batch(), 3))
    assert loss.requires_grad
    assert not logits.requires_grad


def test_everything_trainable_is_one_modules_parameters():
    student, objective = TinyNet(), WeightedSum({"memory": Remember()}, {"memory": 1.0})
    distiller = Distiller(student, objective)
    assert set(distiller.parameters()) == {*student.parameters(), *objective.parameters()}
    assert "objective.terms.memory.bank" in distiller.state_dict()


def test_a_stage_replaces_the_loss_and_nothing_else():
    batch = first_batch()
    distiller = Distiller(TinyNet(), Labels(), loss=lambda student, teacher, batch: torch.tensor(7.0))
    loss, logits = distiller(batch, ModelOutput.untaught(batch, 3))
    assert loss.item() == 7
    assert logits.shape == (8, 3)
