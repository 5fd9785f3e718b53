import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as transform

from topokd_lib.data import EpochLoader, ImageData, load_digits, normalise
from topokd_lib.data.augment import AUGMENTATIONS, Views, count_views, crop_padding
from topokd_lib.errors import UnknownName
from topokd_lib.outputs import Normalisation


def numbered(train: int, test: int = 5) -> ImageData:
    """Images whose pixels are all their own position."""
    return ImageData(
        name="numbered",
        train_images=torch.arange(train).byte()[:, None, None, None].repeat(1, 1, 8, 8),
        train_labels=torch.arange(train) % 3,
        test_images=torch.arange(test).byte()[:, None, None, None].repeat(1, 1, 8, 8),
        test_labels=torch.arange(test) % 3,
        classes=("a", "b", "c"),
        normalisation=Normalisation((0.0,), (1.0,)),
    )


def indices(batches) -> list[int]:
    return [i for batch in batches for i in batch.indices.tolist()]


def same(one, other) -> bool:
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(one, other, strict=True)
    )


def test_images_and_labels_stay_with_their_indices():
    data = numbered(100)
    for batch in EpochLoader(data, batch_size=7).train_batches(0):
        assert len(batch) == 7
        assert torch.equal((batch.images[:, 0, 3, 3] * 255).round().long(), batch.indices)
        assert torch.equal(batch.labels, data.train_labels[batch.indices])


def test_order_and_views_follow_from_seed_and_epoch():
    data = load_digits()
    loader = EpochLoader(data, batch_size=50, augment="crop-flip", seed=3)
    later = list(loader.train_batches(2))
    assert same(later, EpochLoader(data, batch_size=50, augment="crop-flip", seed=3).train_batches(2))
    assert not same(later, loader.train_batches(3))
    assert not same(later, EpochLoader(data, batch_size=50, augment="crop-flip", seed=4).train_batches(2))


def test_no_two_seeds_share_a_shifted_sequence_of_epochs():
    data = numbered(50)
    orders = {
        tuple(indices(EpochLoader(data, batch_size=50, seed=seed).train_batches(epoch)))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_global_generators_are_neither_read_nor_moved():
    loader = EpochLoader(numbered(40), batch_size=8, augment="crop")
    first = list(loader.train_batches(1))
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(loader.train_batches(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    torch.manual_seed(99)
    assert same(first, loader.train_batches(1))


def test_augmentation_does_not_change_the_order():
    data = numbered(60)
    orders = [
        indices(EpochLoader(data, batch_size=6, augment=augment).train_batches(4))
        for augment in AUGMENTATIONS
    ]
    assert orders[0] == orders[1] == orders[2]


@settings(max_examples=40, deadline=None)
@given(
    train=st.integers(1, 90),
    test=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_ranks_share_an_epoch(train, test, batch_size, world_size, epoch):
    data = numbered(train, test)
    if batch_size * world_size > train:
        with pytest.raises(ValueError, match=rf"has {train}; choose a smaller batch_size"):
            EpochLoader(data, batch_size=batch_size, world_size=world_size)
        return
    ranks = [
        EpochLoader(data, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    shares = [list(rank.train_batches(epoch)) for rank in ranks]
    assert {len(share) for share in shares} == {ranks[0].steps_per_epoch}
    seen = [i for share in shares for i in indices(share)]
    assert len(seen) == len(set(seen)) == train // (batch_size * world_size) * batch_size * world_size
    assert sorted(i for rank in ranks for i in indices(rank.test_batches())) == list(range(test))


def test_two_devices_see_step_by_step_what_one_sees():
    data = load_digits()
    one = EpochLoader(data, batch_size=64, augment="crop-flip")
    two = [EpochLoader(data, batch_size=32, augment="crop-flip", rank=rank, world_size=2) for rank in (0, 1)]
    pairs = zip(*(loader.train_batches(1) for loader in two), strict=True)
    for whole, (left, right) in zip(one.train_batches(1), pairs, strict=True):
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))
        assert torch.equal(whole.indices, torch.cat([left.indices, right.indices]))


def test_every_image_is_seen_once_when_batches_divide_the_set():
    loader = EpochLoader(numbered(60), batch_size=12)
    assert loader.steps_per_epoch == 5
    assert sorted(indices(loader.train_batches(0))) == list(range(60))


def test_what_is_left_over_changes_with_the_epoch():
    loader = EpochLoader(numbered(64), batch_size=60)
    left_out = [set(range(64)) - set(indices(loader.train_batches(epoch))) for epoch in range(3)]
    assert [len(left) for left in left_out] == [4, 4, 4]
    assert len({frozenset(left) for left in left_out}) == 3


def test_test_batches_are_exact_and_in_order():
    data = load_digits(size=8)
    loader = EpochLoader(data, batch_size=10, augment="crop-flip")
    batches = list(loader.test_batches())
    assert [len(batch) for batch in batches] == [40] * 9
    assert torch.equal(
        torch.cat([batch.images for batch in batches]), normalise(data.test_images, data.normalisation)
    )
    assert torch.equal(torch.cat([batch.labels for batch in batches]), data.test_labels)


def test_a_share_of_the_test_images_may_be_empty():
    assert list(EpochLoader(numbered(40, test=2), batch_size=1, rank=3, world_size=4).test_batches()) == []


@pytest.mark.parametrize("augment", ["crop", "crop-flip"])
def test_views_equal_torchvision_crop_and_flip(augment):
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    views = Views.draw(24, augment=augment, padding=4, rng=np.random.default_rng(0))
    for image, seen, row, column, mirrored in zip(
        images,
        views.apply(images, 4),
        views.rows.tolist(),
        views.columns.tolist(),
        views.mirrored,
        strict=True,
    ):
        expected = transform.crop(transform.pad(image, 4), row, column, 32, 32)
        assert torch.equal(seen, transform.hflip(expected) if mirrored else expected)
    assert bool(views.mirrored.any()) == (augment == "crop-flip")


def test_images_that_are_not_square_are_cropped_too():
    images = torch.randint(0, 256, (6, 1, 16, 24), dtype=torch.uint8)
    padding = crop_padding(16, 24)
    views = Views.draw(6, augment="crop", padding=padding, rng=np.random.default_rng(1))
    for image, seen, row, column in zip(
        images, views.apply(images, padding), views.rows.tolist(), views.columns.tolist(), strict=True
    ):
        assert torch.equal(seen, transform.crop(transform.pad(image, padding), row, column, 16, 24))


def test_all_162_views_are_equally_likely():
    views = Views.draw(162_000, augment="crop-flip", padding=4, rng=np.random.default_rng(0))
    number = (views.rows * 9 + views.columns) * 2 + views.mirrored
    counts = number.bincount(minlength=162)
    assert len(counts) == 162
    chi_square = ((counts - 1000.0) ** 2 / 1000).sum().item()
    assert chi_square < 230  # 161 degrees of freedom: exceeded with probability 0.0003


def test_the_loader_applies_to_each_image_its_own_view():
    data = load_digits()
    batch = next(EpochLoader(data, batch_size=64, augment="crop").train_batches(0))
    padded = torch.nn.functional.pad(data.train_images[batch.indices], (4,) * 4)
    offsets = []
    for image, source in zip(batch.images, padded, strict=True):
        matches = [
            (row, column)
            for row in range(9)
            for column in range(9)
            if torch.equal(
                normalise(source[None, :, row : row + 32, column : column + 32], data.normalisation)[0], image
            )
        ]
        assert matches
        offsets.append(matches[0])
    assert len(set(offsets)) > 30


def test_padding_is_black_before_normalisation():
    white = ImageData(
        name="white",
        train_images=torch.full((40, 1, 32, 32), 255, dtype=torch.uint8),
        train_labels=torch.zeros(40, dtype=torch.int64),
        test_images=torch.full((1, 1, 32, 32), 255, dtype=torch.uint8),
        test_labels=torch.zeros(1, dtype=torch.int64),
        classes=("white",),
        normalisation=Normalisation((0.4,), (0.2,)),
    )
    batch = next(EpochLoader(white, batch_size=40, augment="crop").train_batches(0))
    values = batch.images.unique()
    torch.testing.assert_close(values, torch.tensor([(0 - 0.4) / 0.2, (1 - 0.4) / 0.2]))


def test_padding_is_an_eighth_of_the_image():
    assert [crop_padding(size, size) for size in (8, 32, 64)] == [1, 4, 8]
    assert crop_padding(64, 32) == 4


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(
        ValueError,
        match=r"one step needs 128 training images \(64 on each of 2 device\(s\)\), numbered has 100",
    ):
        EpochLoader(numbered(100), batch_size=64, world_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"at least one image, got batch_size=0"),
        ({"batch_size": 4, "seed": -1}, r"not be negative, got seed=-1"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, r"rank=2 of world_size=2"),
        ({"batch_size": 4, "rank": -1}, r"rank=-1 of world_size=1"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EpochLoader(numbered(20), **options)


def test_an_unknown_augmentation_is_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"no augmentation 'crop_flip'\. Did you mean 'crop-flip'\?"):
        EpochLoader(numbered(20), batch_size=4, augment="crop_flip")


def test_epochs_are_counted_from_zero():
    with pytest.raises(ValueError, match=r"counted from 0, got epoch=-1"):
        next(EpochLoader(numbered(20), batch_size=4).train_batches(-1))


def test_every_batch_says_which_views_it_shows():
    data = load_digits()
    for augment in AUGMENTATIONS:
        batch = next(EpochLoader(data, batch_size=50, augment=augment).train_batches(3))
        number = batch.extras["view"]
        assert 0 <= number.min() <= number.max() < count_views(augment, 4)
        seen = Views.numbered(number, augment=augment, padding=4).apply(data.train_images[batch.indices], 4)
        assert torch.equal(normalise(seen, data.normalisation), batch.images)


def test_views_of_all_numbers_differ():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(162, -1, -1, -1)
    views = Views.numbered(torch.arange(162), augment="crop-flip", padding=4)
    assert len(views.apply(image, 4).flatten(1).unique(dim=0)) == 162


def test_data_move_to_a_device_as_a_whole(monkeypatch):
    data = numbered(20)
    assert data.to("cpu") is data
    monkeypatch.setattr(ImageData, "_check", lambda *args: None)  # "meta" stands for a GPU and has no values
    there = data.to("meta")
    parts = (there.train_images, there.train_labels, there.test_images, there.test_labels)
    assert {part.device.type for part in parts} == {"meta"}
    assert (there.name, there.classes) == (data.name, data.classes)
