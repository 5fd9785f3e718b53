"""What TensorBoard shows, read back from its files, and checkpoints that are kept for good."""

import builtins

import pytest

from tests.training.toy import Labels, TinyNet, ToyData, ToyLoader
from topokd_lib.errors import RecipeError
from topokd_lib.objectives.base import WeightedSum
from topokd_lib.training import EngineSpec, RunDirectory, Schedule, fit, load_checkpoint, make_fabric
from topokd_lib.training.board import open_board
from topokd_lib.training.log import History

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")


class Interrupt(ToyLoader):
    """Stops in the middle of epoch 2."""

    def train_batches(self, epoch):
        for step, batch in enumerate(super().train_batches(epoch)):
            if (epoch, step) == (2, 1):
                raise KeyboardInterrupt
            yield batch


def train(path, loader, **options):
    run = RunDirectory.open(path, recipe="student: tiny\n", data=ToyData(), **options)
    objective = WeightedSum({"labels": Labels()}, {"labels": 1.0})
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    return fit(fabric, TinyNet(), None, objective, loader, Schedule(epochs=4, milestones=()), run)


def shown(path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_board_shows_the_log_once_even_after_an_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Interrupt(), tensorboard=True)
    history = train(tmp_path, ToyLoader(), tensorboard=True)
    found = shown(tmp_path)
    assert [step for step, _ in found["main/loss"]] == [1, 2, 3, 4]
    assert [value for _, value in found["main/loss"]] == pytest.approx([r.loss for r in history.records])
    assert found["main/terms/labels"] == found["main/loss"]
    assert [value for _, value in found["main/test/top1"]] == pytest.approx(
        [record.test_top1 for record in history.records]
    )


def test_board_that_is_not_installed_is_told_with_its_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match=r'pip install "topokd-lib\[tensorboard\]"'):
        open_board(tmp_path, History()).__enter__()


def test_every_second_checkpoint_is_kept(tmp_path):
    train(tmp_path, ToyLoader(), keep_every=2)
    kept = sorted(path.name for path in tmp_path.glob("epoch*.ckpt"))
    assert kept == ["epoch0002.ckpt", "epoch0004.ckpt"]
    assert len(load_checkpoint(tmp_path / "epoch0002.ckpt")["history"]) == 2
    with pytest.raises(ValueError, match=r"got minutes=0\.0 and keep_every=-1"):
        train(tmp_path, ToyLoader(), keep_every=-1)
