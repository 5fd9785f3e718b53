import inspect
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.toy import (
    CLASSES,
    Hint,
    Labels,
    Soft,
    TinyNet,
    ToyData,
    ToyLoader,
    memory_objective,
    tiny_teacher,
)
from topokd_lib.errors import CheckpointError, TrainingDiverged
from topokd_lib.models import Teacher
from topokd_lib.objectives.base import InitStage, Objective, WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.training import (
    EngineSpec,
    History,
    RunDirectory,
    Schedule,
    evaluate,
    fit,
    load_checkpoint,
    load_weights,
    make_fabric,
)

SCHEDULE = Schedule(epochs=3, lr=0.05, milestones=(2,))
RECIPE = "student: tiny\n"


@pytest.fixture
def fabric():
    return make_fabric(EngineSpec(accelerator="cpu"))


def weigh(**terms: Objective) -> WeightedSum:
    return WeightedSum(terms, dict.fromkeys(terms, 1.0))


def train(fabric, *, student=None, teacher=None, objective=None, loader=None, schedule=SCHEDULE, **settings):
    torch.manual_seed(5)
    student = student or TinyNet()
    objective = objective or weigh(labels=Labels())
    history = fit(fabric, student, teacher, objective, loader or ToyLoader(), schedule, **settings)
    return history, student


def opened(path, seed: int = 0) -> RunDirectory:
    return RunDirectory.open(path, recipe=RECIPE, seed=seed, data=ToyData())


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


# ------------------------------------------------------------------------------------------- ordinary runs


def test_an_easy_problem_is_learned(fabric):
    history, student = train(
        fabric, loader=ToyLoader(train=96, test=30), schedule=Schedule(epochs=12, lr=0.1, milestones=(10,))
    )
    assert history.last.loss < 0.6 * history.epochs[0].loss
    assert history.last.test_top1 > 0.8
    assert history.last.train_top1 > 0.8
    assert not student.training
    assert evaluate(fabric, student, ToyLoader(train=96, test=30).test_batches()) == history.last.test


def test_the_history_has_a_record_per_epoch(fabric):
    history, _ = train(fabric, objective=memory_objective(), teacher=tiny_teacher())
    assert [r.epoch for r in history.records] == [1, 2, 3]
    assert [r.learning_rate for r in history.records] == pytest.approx([0.05, 0.05, 0.005])
    for record in history.records:
        assert set(record.terms) == {"labels", "memory", "soft"}
        assert record.seconds > 0
        assert record.images_per_second > 0
        assert record.test is not None
        assert record.test.count == 15


def test_logged_terms_are_means_over_the_epoch_and_add_up_with_their_present_weights(fabric):
    objective = memory_objective()
    history, _ = train(fabric, objective=objective, teacher=tiny_teacher())
    for epoch, record in enumerate(history.epochs):
        objective.begin_epoch(epoch, SCHEDULE.epochs)
        total = sum(objective.weight(name) * value for name, value in record.terms.items())
        assert record.loss == pytest.approx(total, rel=1e-5)
    assert objective.weight("soft") == pytest.approx(0.1)
    objective.begin_epoch(0, SCHEDULE.epochs)
    assert objective.weight("soft") == pytest.approx(0.1 / 3)


def test_a_mean_is_over_all_steps_of_the_epoch(fabric):
    class Count(Objective):
        steps = 0.0

        def forward(self, student, teacher, batch):
            Count.steps += 1
            return student.logits.sum() * 0 + Count.steps

    history, _ = train(fabric, objective=weigh(count=Count()))
    assert [r.terms["count"] for r in history.epochs] == [2.5, 6.5, 10.5]  # steps 1…4, 5…8, 9…12


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_is_a_function_of_its_seed(fabric, seed):
    first, student = train(fabric, seed=0)
    torch.rand(17)  # the state of the generator before must not matter
    second, other = train(fabric, seed=seed)
    assert same_weights(student, other) is (seed == 0)
    assert ([r.loss for r in first.records] == [r.loss for r in second.records]) is (seed == 0)


def test_epochs_of_a_run_differ_in_their_randomness(fabric):
    class Draw(Objective):
        drawn: list[float] = []  # noqa: RUF012 (shared on purpose)

        def begin_epoch(self, epoch, epochs):
            Draw.drawn.append(torch.rand(1).item())

        def forward(self, student, teacher, batch):
            return student.logits.square().mean()

    train(fabric, objective=weigh(draw=Draw()))
    train(fabric, objective=weigh(draw=Draw()))
    assert Draw.drawn[:3] == Draw.drawn[3:]
    assert len(set(Draw.drawn)) == 3


def test_every_epoch_is_announced_to_the_objective(fabric):
    class Listen(Objective):
        heard: list[tuple[int, int]] = []  # noqa: RUF012 (shared on purpose)

        def begin_epoch(self, epoch, epochs):
            Listen.heard.append((epoch, epochs))

        def forward(self, student, teacher, batch):
            assert self.training
            assert student.logits.requires_grad
            return student.logits.square().mean()

    train(fabric, objective=weigh(listen=Listen()))
    assert Listen.heard == [(0, 3), (1, 3), (2, 3)]


def test_the_teacher_stays_as_it_is(fabric):
    teacher, untouched = tiny_teacher(), tiny_teacher()
    train(fabric, teacher=teacher, objective=weigh(soft=Soft()))
    assert same_weights(teacher, untouched)
    assert not any(module.training for module in teacher.modules())


def test_connectors_and_memories_are_trained_with_the_student(fabric):
    torch.manual_seed(0)
    objective = memory_objective()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    train(fabric, teacher=tiny_teacher(), objective=objective)
    changed = {key for key, value in objective.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == set(before)


def test_bfloat16_trains_and_losses_stay_exact(fabric):
    mixed = make_fabric(EngineSpec(accelerator="cpu", precision="bf16-mixed"))
    exact, _ = train(fabric, teacher=tiny_teacher(), objective=memory_objective())
    rounded, student = train(mixed, teacher=tiny_teacher(), objective=memory_objective())
    assert all(p.dtype == torch.float32 for p in student.parameters())
    assert rounded.last.loss != exact.last.loss
    assert rounded.last.loss == pytest.approx(exact.last.loss, rel=0.1)


def test_the_loop_fits_on_two_screens():
    assert len(inspect.getsource(fit).splitlines()) <= 120


# ------------------------------------------------------------------------------------------ initial stages


def test_a_stage_trains_its_modules_and_leaves_everything_else_alone(fabric):
    """Also the running statistics of layers behind the hint, and the memory of other terms."""

    class Stop(Hint):
        def begin_epoch(self, epoch, epochs):
            raise KeyboardInterrupt  # the main stage begins

    torch.manual_seed(5)
    student = TinyNet()
    objective = weigh(labels=Labels(), hint=Stop())
    before = {key: value.clone() for key, value in student.state_dict().items()}
    regressor = {key: value.clone() for key, value in objective.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fit(fabric, student, tiny_teacher(), objective, ToyLoader(), SCHEDULE)
    changed = {key for key, value in student.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {key for key in before if key.startswith(("conv1", "bn1"))}
    assert all(not torch.equal(regressor[key], value) for key, value in objective.state_dict().items())
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in student.named_parameters()}


def test_stages_are_logged_before_the_training_and_lower_their_loss(fabric, tmp_path):
    objective = weigh(labels=Labels(), hint=Hint(epochs=4))
    run = opened(tmp_path)
    history, _ = train(fabric, teacher=tiny_teacher(), objective=objective, run=run)
    assert [(r.stage, r.epoch) for r in history.records] == [
        *(("hint", epoch) for epoch in (1, 2, 3, 4)),
        *(("main", epoch) for epoch in (1, 2, 3)),
    ]
    hints = history.records[:4]
    assert hints[-1].loss < 0.7 * hints[0].loss
    assert all(r.test is None and r.terms == {} and r.learning_rate == SCHEDULE.lr for r in hints)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.to_list()


def test_what_is_frozen_after_a_stage_is_not_trained_and_its_statistics_rest(fabric):
    class Watch(Hint):
        def begin_epoch(self, epoch, epochs):
            if epoch == 0:
                self.after_stage = {key: value.clone() for key, value in self.regressor.state_dict().items()}

        def forward(self, student, teacher, batch):
            return self.hint_loss(student, teacher, batch)  # used, and still not trained

    objective = weigh(labels=Labels(), hint=Watch())
    train(fabric, teacher=tiny_teacher(), objective=objective)
    hint = objective.terms["hint"]
    assert isinstance(hint, Watch)
    assert not any(p.requires_grad for p in hint.regressor.parameters())
    assert all(
        torch.equal(hint.after_stage[key], value) for key, value in hint.regressor.state_dict().items()
    )


def test_a_stage_that_trains_something_foreign_is_refused(fabric):
    class Foreign(Hint):
        def init_stages(self, student):
            return (InitStage("hint", self.hint_loss, (nn.Linear(2, 2),), 1),)

    with pytest.raises(
        ValueError, match=r"initial stage 'hint' must train .* 2 trainable ones 2 belong to neither"
    ):
        train(fabric, teacher=tiny_teacher(), objective=weigh(hint=Foreign()))


# -------------------------------------------------------------------------------------- runs on disk, resume


def interrupted(path, fabric, *, after: int, objective, **settings) -> None:
    """Train until the loader is asked for epoch ``after``."""

    class Interrupt(ToyLoader):
        def train_batches(self, epoch):
            for step, batch in enumerate(super().train_batches(epoch)):
                if (epoch, step) == (after, 2):
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        train(fabric, run=opened(path), loader=Interrupt(), objective=objective, **settings)


def test_a_run_leaves_its_record_and_its_weights(fabric, tmp_path):
    run = opened(tmp_path)
    history, student = train(fabric, run=run)
    assert run.record is not None
    assert History.from_list(run.record["curve"]) == history
    assert run.record["best"]["top1"] == history.best.test_top1
    other = TinyNet()
    info = load_weights(run.student_path, other)
    assert same_weights(student, other)
    assert (info.model, info.in_channels, info.epoch, info.top1) == ("tiny", 3, 3, history.last.test_top1)
    assert (info.data, info.data_fingerprint) == ("toy", "0123456789abcdef")
    assert info.normalisation == ToyData.normalisation
    assert load_weights(run.best_path, other).epoch == history.best.epoch
    assert evaluate(fabric, other, ToyLoader().test_batches()) == history.best.test


def test_a_finished_run_is_not_trained_again(fabric, tmp_path):
    history, student = train(fabric, run=opened(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Broken(ToyLoader):
        def train_batches(self, epoch):
            raise AssertionError("trained again")

    other = TinyNet()
    assert fit(fabric, other, None, weigh(labels=Labels()), Broken(), SCHEDULE, opened(tmp_path)) == history
    assert same_weights(student, other)
    assert not other.training
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("steps", [2, 6])  # in the first epoch only the state after the stages was stored
def test_stages_are_not_repeated_on_resume_but_freezing_is(fabric, tmp_path, steps):
    class Interrupt(Labels):
        left = steps

        def forward(self, student, teacher, batch):
            Interrupt.left -= 1
            if Interrupt.left < 0:
                raise KeyboardInterrupt
            return super().forward(student, teacher, batch)

    class Unrepeatable(Hint):
        def hint_loss(self, student, teacher, batch):
            raise AssertionError("the stage was repeated")

    def run(name: str, hint: type[Hint], labels: type[Labels]):
        torch.manual_seed(1)
        objective = weigh(labels=labels(), hint=hint())
        return objective, train(
            fabric, run=opened(tmp_path / name), teacher=tiny_teacher(), objective=objective
        )

    _, (straight, student) = run("a", Hint, Labels)
    with pytest.raises(KeyboardInterrupt):
        run("b", Hint, Interrupt)
    objective, (resumed, other) = run("b", Unrepeatable, Labels)
    assert same_weights(student, other)
    hint = objective.terms["hint"]
    assert isinstance(hint, Hint)
    assert not any(p.requires_grad for p in hint.regressor.parameters())
    expected = [(r.stage, r.epoch, r.loss) for r in straight.records]
    assert [(r.stage, r.epoch, r.loss) for r in resumed.records] == expected


def test_a_run_that_was_killed_before_its_record_is_finished_without_training(fabric, tmp_path):
    history, _ = train(fabric, run=opened(tmp_path))
    (tmp_path / "record.json").unlink()
    (tmp_path / "student.safetensors").unlink()

    class Finished(ToyLoader):
        def train_batches(self, epoch):
            assert epoch == 0, "only the first batch is looked at"
            yield next(super().train_batches(epoch))

    again, _ = train(fabric, run=opened(tmp_path), loader=Finished())
    assert again == history
    assert opened(tmp_path).record is not None


@pytest.mark.parametrize("damage", ["truncated", "bit flip"])
def test_the_advice_after_damage_works_and_nothing_is_lost(fabric, tmp_path, damage):
    straight, student = train(
        fabric, run=opened(tmp_path / "a"), teacher=tiny_teacher(), objective=memory_objective()
    )
    path = tmp_path / "b"
    interrupted(path, fabric, after=2, teacher=tiny_teacher(), objective=memory_objective())
    last = path / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        weights = load_checkpoint(last)["distiller"]["student.fc.weight"].numpy().tobytes()
        content[content.index(weights) + 5] ^= 1
    last.write_bytes(content)
    files = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(CheckpointError, match=r"last\.ckpt .* Delete it to continue from .*previous\.ckpt"):
        train(fabric, run=opened(path), teacher=tiny_teacher(), objective=memory_objective())
    assert {p.name: p.read_bytes() for p in path.iterdir()} == files
    last.unlink()
    resumed, other = train(fabric, run=opened(path), teacher=tiny_teacher(), objective=memory_objective())
    assert same_weights(student, other)
    assert [r.loss for r in resumed.records] == [r.loss for r in straight.records]
    assert len((path / "log.jsonl").read_text().splitlines()) == 3


def test_a_checkpoint_of_other_code_is_refused(fabric, tmp_path):
    interrupted(tmp_path, fabric, after=1, teacher=tiny_teacher(), objective=memory_objective())
    with pytest.raises(CheckpointError, match=r"does not fit student tiny and this objective"):
        train(fabric, run=opened(tmp_path), teacher=tiny_teacher(), objective=weigh(labels=Labels()))


def test_a_checkpoint_of_another_number_of_processes_is_refused(fabric, tmp_path):
    objective = weigh(labels=Labels())
    interrupted(tmp_path, fabric, after=1, objective=objective)
    state = load_checkpoint(tmp_path / "last.ckpt")
    torch.save({**state, "processes": 2}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"written by 2 process\(es\), now there are 1; batches"):
        train(fabric, run=opened(tmp_path), objective=objective)


def test_a_checkpoint_that_lacks_something_is_refused(fabric, tmp_path):
    objective = weigh(labels=Labels())
    interrupted(tmp_path, fabric, after=1, objective=objective)
    torch.save({"distiller": {}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="lacks history, optimizer, processes"):
        train(fabric, run=opened(tmp_path), objective=objective)


def test_the_seed_of_a_run_is_the_seed_of_the_training(fabric, tmp_path):
    with pytest.raises(ValueError, match="holds a run with seed 0, fit was called with seed 1"):
        train(fabric, run=opened(tmp_path), seed=1)


# ----------------------------------------------------------------------------------------------- divergence


class Explode(Objective):
    """Becomes infinite or NaN in step ``step`` of epoch ``epoch``."""

    def __init__(self, epoch: int, step: int = 0, value: float = math.nan) -> None:
        super().__init__()
        self.at, self.value, self.now = (epoch, step), value, (0, 0)

    def begin_epoch(self, epoch, epochs):
        self.now = (epoch, 0)

    def forward(self, student, teacher, batch):
        factor = self.value if self.now == self.at else 1.0
        self.now = (self.now[0], self.now[1] + 1)
        return student.logits.square().mean() * factor


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_no_number_stops_the_run_and_names_everything(fabric, tmp_path, value, step):
    objective = weigh(labels=Labels(), boom=Explode(2, step, value))
    with pytest.raises(TrainingDiverged) as raised:
        train(fabric, objective=objective, run=opened(tmp_path))
    message = str(raised.value)
    for part in (
        "(boom",
        f"in epoch 3 of stage 'main', step {step + 1};",
        f"state is in {tmp_path / 'last.ckpt'}",
        "Lower the",
    ):
        assert part in message
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert len(state["history"]) == len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert all(value.isfinite().all() for value in state["distiller"].values())


def test_without_a_run_nothing_was_stored(fabric):
    with pytest.raises(TrainingDiverged, match="in epoch 1 of stage 'main', step 1; nothing was stored"):
        train(fabric, objective=weigh(boom=Explode(0)))


def test_a_long_epoch_is_not_trained_to_its_end(fabric, monkeypatch):
    monkeypatch.setattr("topokd_lib.training.epoch.CHECK_EVERY", 5)
    boom = Explode(0, 7)
    with pytest.raises(TrainingDiverged, match="stage 'main', step 8;"):
        train(fabric, objective=weigh(boom=boom), loader=ToyLoader(train=8 * 40))
    assert boom.now == (0, 11)  # seen at the next look


def test_the_step_that_broke_is_named_when_a_step_has_several_batches(fabric, monkeypatch):
    monkeypatch.setattr("topokd_lib.training.epoch.CHECK_EVERY", 5)
    boom = Explode(0, 2 * 7 + 1)  # counted in batches from 0: the second one of step 8
    with pytest.raises(TrainingDiverged, match="stage 'main', step 8;"):
        train(fabric, objective=weigh(boom=boom), loader=ToyLoader(train=8 * 80), accumulate=2)


def test_reading_a_teacher_that_is_not_there_stops_at_the_first_step(fabric):
    objective = weigh(labels=Labels(), soft=Soft())
    with pytest.raises(TrainingDiverged, match=r"the loss is nan \(soft\) in epoch 1"):
        train(fabric, objective=objective, loader=ToyLoader(train=8 * 40))


def test_weights_that_the_last_step_broke_are_not_stored(fabric, tmp_path):
    """The loss of the last step is finite, its gradient is not."""

    class Root(Explode):
        def forward(self, student, teacher, batch):
            factor = super().forward(student, teacher, batch).detach()
            broken = factor.isnan()
            return (student.logits.sum() * 0).abs().sqrt() if broken else student.logits.square().mean()

    with pytest.raises(TrainingDiverged, match=r"weights are no longer usable .* in epoch 2"):
        train(fabric, objective=weigh(labels=Labels(), root=Root(1, 3)), run=opened(tmp_path))
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert len(state["history"]) == 1
    assert all(value.isfinite().all() for value in state["distiller"].values())


def test_a_stage_can_diverge_too(fabric):
    class Wild(Hint):
        def hint_loss(self, student, teacher, batch):
            return super().hint_loss(student, teacher, batch) * math.inf

    with pytest.raises(TrainingDiverged, match=r"the loss is inf \(the total\) in epoch 1 of stage 'hint'"):
        train(fabric, teacher=tiny_teacher(), objective=weigh(labels=Labels(), hint=Wild()))


# ----------------------------------------------------------------------------------- checks before training


def test_missing_extras_are_reported_before_the_first_epoch(fabric, tmp_path):
    class NeedsImages(Labels):
        extras = ("persistence_image",)

    with pytest.raises(ValueError, match=r"reads persistence_image .* batches carry none; prepare them"):
        train(fabric, objective=weigh(top=NeedsImages()), run=opened(tmp_path))
    assert not (tmp_path / "log.jsonl").exists()


def test_present_extras_are_accepted_and_arrive(fabric):
    class Reads(Labels):
        extras = ("weight",)

        def forward(self, student, teacher, batch):
            return super().forward(student, teacher, batch) * batch.extras["weight"].mean()

    class WithExtras(ToyLoader):
        def train_batches(self, epoch):
            for batch in super().train_batches(epoch):
                batch.extras["weight"] = torch.zeros(len(batch))
                yield batch

    history, _ = train(fabric, objective=weigh(labels=Reads()), loader=WithExtras())
    assert history.last.loss == 0.0


def test_labels_without_a_class_are_reported(fabric):
    class TooMany(ToyLoader):
        def train_batches(self, epoch):
            for batch in super().train_batches(epoch):
                yield Batch(batch.images, batch.labels + CLASSES, batch.indices)

    with pytest.raises(
        ValueError, match=r"must lie in 0 … 2 because student tiny has 3 classes, found 3 … 5"
    ):
        train(fabric, loader=TooMany())


def test_a_student_that_is_the_teacher_is_reported(fabric):
    student = TinyNet()
    with pytest.raises(ValueError, match="no parameter of student tiny is trainable; is it the teacher"):
        train(fabric, student=student, teacher=Teacher(student))


def test_a_loader_without_batches_is_reported(fabric):
    with pytest.raises(ValueError, match="the loader gives no training batch"):
        train(fabric, loader=ToyLoader(batch_size=64))


def test_a_schedule_can_be_replaced(fabric):
    history, _ = train(fabric, schedule=replace(SCHEDULE, epochs=1, milestones=()))
    assert len(history.epochs) == 1
