"""Banks, normalisers and negatives: by hand, over an interruption, and over two processes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.memory_worker import train, write_and_read
from tests.training.test_resume import log, require_equal
from tests.training.toy import ToyLoader
from topokd_lib.objectives import CRCD, CRD
from topokd_lib.objectives.memory import MemoryBank, NegativeSampler, Normaliser
from topokd_lib.outputs import Batch
from topokd_lib.testing import toy_batch, toy_pair
from topokd_lib.training import EngineSpec, load_checkpoint, make_fabric

ROOT = Path(__file__).resolve().parents[2]


class TestMemoryBank:
    def test_a_row_moves_half_way_and_is_normalised(self):
        """(1, 0) and (0, 1) meet at 45°; the other row stays."""
        bank = MemoryBank(2, 2)
        bank.rows.copy_(torch.eye(2))
        bank.update(torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
        torch.testing.assert_close(bank.rows, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))

    def test_momentum_is_the_part_that_is_kept(self):
        bank = MemoryBank(1, 2, momentum=0.75)
        bank.rows.copy_(torch.tensor([[1.0, 0.0]]))
        bank.update(torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
        torch.testing.assert_close(bank.rows[0] / bank.rows[0, 1], torch.tensor([3.0, 1.0]))

    def test_lengths_are_one_on_average_or_exactly(self):
        lengths = MemoryBank(5000, 128).rows.norm(dim=1)
        assert lengths.square().mean().item() == pytest.approx(1, abs=0.01)
        assert lengths.std() > 0.01
        torch.testing.assert_close(MemoryBank(50, 8, unit=True).rows.norm(dim=1), torch.ones(50))

    def test_opposite_vectors_cancel_without_nan(self):
        bank = MemoryBank(1, 2)
        bank.rows.copy_(torch.tensor([[1.0, 0.0]]))
        bank.update(torch.tensor([0]), torch.tensor([[-1.0, 0.0]]))
        assert bank.rows.tolist() == [[0.0, 0.0]]

    def test_what_it_keeps_needs_no_gradient(self):
        bank = MemoryBank(3, 2)
        bank.update(torch.tensor([1]), torch.ones(1, 2, requires_grad=True))
        assert not bank.rows.requires_grad
        assert list(bank.state_dict()) == ["rows"]

    def test_numbers_out_of_range(self):
        with pytest.raises(ValueError, match="at least one row and one column, got samples=3 and dim=0"):
            MemoryBank(3, 0)
        with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1\.0"):
            MemoryBank(3, 2, momentum=1.0)


def test_the_first_scores_fix_the_normaliser():
    normaliser = Normaliser(samples=10)
    first = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(normaliser(first), first / 20)
    torch.testing.assert_close(normaliser(5 * first), 5 * first / 20)
    restored = Normaliser(samples=10)
    restored.load_state_dict(normaliser.state_dict())
    torch.testing.assert_close(restored(7 * first), 7 * first / 20)


class TestNegatives:
    def sampler(self, labels: list[int] | None = None, negatives: int = 12, seed: int = 0) -> NegativeSampler:
        pair = toy_pair()
        torch.manual_seed(seed)
        if labels is not None:
            pair = replace(pair, train_labels=torch.tensor(labels))
        return NegativeSampler(pair, negatives, objective="CRD")

    @given(negatives=st.integers(1, 50), seed=st.integers(0, 100))
    def test_they_are_distinct_and_of_other_classes_and_the_image_comes_first(self, negatives, seed):
        sampler, batch = self.sampler(negatives=negatives, seed=seed), toy_batch(seed=seed)
        pool, contrast = sampler(batch)
        chosen = pool[contrast]
        assert chosen.shape == (8, 1 + min(negatives, 32))  # 40 images, 8 of each class
        assert torch.equal(chosen[:, 0], batch.indices)
        for row, label in zip(chosen[:, 1:], batch.labels, strict=True):
            assert len(set(row.tolist())) == len(row)
            assert (row % 5 != label).all()

    def test_every_image_of_another_class_is_drawn_equally_often(self):
        """3000 draws of 8 of 32; a binomial with mean 750 and standard deviation 24."""
        sampler, counts = self.sampler(negatives=8), torch.zeros(40)
        batch = Batch(torch.zeros(1, 3, 2, 2), torch.tensor([2]), torch.tensor([7]))
        for _ in range(3000):
            pool, contrast = sampler(batch)
            counts[pool[contrast[0, 1:]]] += 1
        others = torch.arange(40) % 5 != 2
        assert counts[~others].sum() == 0
        assert (counts[others] - 750).abs().max() < 120

    def test_classes_of_unequal_size_get_equally_many(self):
        """Of 6 images, 4 are of one class, which has 2 others; so everybody gets 2."""
        sampler = self.sampler([0, 0, 0, 0, 1, 2], negatives=100)
        assert sampler.negatives == 2
        batch = Batch(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]), torch.tensor([3, 4]))
        pool, contrast = sampler(batch)
        assert set(pool[contrast[0, 1:]].tolist()) == {4, 5}
        assert 4 not in pool[contrast[1, 1:]].tolist()

    def test_draws_differ_and_repeat_from_the_state(self):
        sampler, batch = self.sampler(), toy_batch()
        other = self.sampler(seed=1)
        first = sampler(batch)
        saved = {key: value.clone() for key, value in sampler.state_dict().items()}
        second = sampler(batch)
        assert not torch.equal(first[0], second[0])
        assert not torch.equal(other(batch)[0], first[0])
        other.load_state_dict(saved)
        for found, expected in zip(other(batch), second, strict=True):
            assert torch.equal(found, expected)

    def test_half_a_batch_gets_the_negatives_it_would_get_in_the_whole(self):
        whole, batch = self.sampler(), toy_batch()
        part = self.sampler()
        part.load_state_dict(whole.state_dict())
        half = Batch(batch.images[4:], batch.labels[4:], batch.indices[4:])
        (pool, contrast), (half_pool, half_contrast) = whole(batch), part(half)
        assert torch.equal(pool[contrast[4:]], half_pool[half_contrast])

    @pytest.mark.parametrize(
        ("index", "label", "reason"),
        [
            (40, 0, "image 1 of the batch has index 40 and label 0, but there are 40 training images"),
            (-1, 0, "image 1 of the batch has index -1 and label 0, but there are 40 training images"),
            (7, 3, "image 1 of the batch has index 7 and label 3, but there its label is 2"),
            (7, 9, "image 1 of the batch has index 7 and label 9, but there its label is 2"),
        ],
    )
    def test_indices_and_labels_must_be_those_of_the_training_set(self, index, label, reason):
        batch = Batch(torch.zeros(2, 3, 2, 2), torch.tensor([0, label]), torch.tensor([5, index]))
        with pytest.raises(ValueError, match=f"CRD remembers every training image by its index: {reason}"):
            self.sampler()(batch)

    def test_a_loader_that_knows_no_indices(self):
        """The usual stand-in, zeros, is noticed as soon as an image has another label."""
        batch = toy_batch()
        batch.indices = torch.zeros_like(batch.indices)
        with pytest.raises(ValueError, match=r"must set Batch\.indices to positions in Pair\.train_labels"):
            self.sampler()(batch)

    def test_no_negatives(self):
        with pytest.raises(ValueError, match="CRD needs at least one negative per image, got negatives=0"):
            self.sampler(negatives=0)
        with pytest.raises(ValueError, match="all 3 training images are of one class; use data with at leas"):
            self.sampler([1, 1, 1])


class Interrupted(Exception):
    """What ends the first attempt."""


class StopInEpoch(ToyLoader):
    """Gives up in the middle of an epoch."""

    def train_batches(self, epoch):
        for step, batch in enumerate(super().train_batches(epoch)):
            if (epoch, step) == (1, 2):
                raise Interrupted
            yield batch


@pytest.mark.parametrize("method", [CRD, CRCD])
def test_an_interrupted_run_continues_bit_for_bit(method, tmp_path):
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    train(fabric, ToyLoader(), method=method, path=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(fabric, StopInEpoch(), method=method, path=tmp_path / "interrupted")
    assert len(log(tmp_path / "interrupted")) == 1
    train(fabric, ToyLoader(), method=method, path=tmp_path / "interrupted")
    found, expected = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("interrupted", "straight"))
    assert sum("bank" in key or "normaliser" in key for key in expected["distiller"]) == 4
    for part in ("distiller", "optimizer"):
        require_equal(found[part], expected[part], part)
    assert log(tmp_path / "interrupted") == log(tmp_path / "straight")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("memory")
    command = [sys.executable, "-m", "tests.objectives.memory_worker", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.ddp
class TestTwoProcesses:
    def test_a_bank_holds_what_both_have_seen_to_the_last_bit(self, ranks):
        alone = write_and_read(torch.arange(8))
        assert torch.equal(ranks[0]["rows"], alone)
        assert torch.equal(ranks[1]["rows"], alone)

    def test_halves_of_a_batch_train_like_the_whole(self, ranks):
        """The same banks, normalisers, negatives and weights as of one process with whole batches."""
        fabric = make_fabric(EngineSpec(accelerator="cpu"))
        student, objective = train(fabric, ToyLoader(batch_size=8))
        for part, module in (("student", student), ("objective", objective)):
            for key, value in module.state_dict().items():
                assert torch.equal(ranks[0][part][key], ranks[1][part][key]), key
                torch.testing.assert_close(ranks[0][part][key], value, rtol=1e-4, atol=1e-5, msg=key)
