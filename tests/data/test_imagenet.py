"""ImageNet's layout in small JPEG files, and the loader of data sets that do not fit in memory."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from topokd_lib.cli import main
from topokd_lib.data import StreamLoader, load_data, load_imagenet, normalise
from topokd_lib.data.encoded import decode, find_damaged
from topokd_lib.data.imagenet import NORMALISATION
from topokd_lib.data.streaming import centre_view, random_view
from topokd_lib.errors import DataError, UnknownName
from topokd_lib.recipes import DataSpec, Recipe, assemble

WNIDS = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TOPOKD_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def imagenet(tmp_path):
    """Five training and three test photographs of different sizes in each of three classes."""
    root = tmp_path / "imagenet"
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for wnid in WNIDS:
            (root / part / wnid).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                size = (int(rng.integers(60, 120)), int(rng.integers(50, 100)))
                coarse.resize(size).save(root / part / wnid / f"{wnid}_{number}.JPEG", quality=90)
    return root


def small(root, **options):
    return load_imagenet(root, image_size=32, resize=40, **options)


def loader(data, **options):
    return StreamLoader(data, **{"batch_size": 4, "augment": "resized-crop-flip", "workers": 0, **options})


def same(one, other):
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(one, other, strict=True)
    )


def test_order_and_labels_are_those_of_torchvision(imagenet):
    data = small(imagenet)
    theirs = ImageFolder(imagenet / "train")
    assert [data.train.where(index) for index in range(15)] == [path for path, _ in theirs.imgs]
    assert data.train_labels.tolist() == theirs.targets
    assert data.classes == tuple(theirs.classes)
    assert (data.image_shape, data.num_classes, len(data.test_labels)) == ((3, 32, 32), 3, 9)
    assert load_data("imagenet", root=str(imagenet)).image_shape == (3, 224, 224)


def test_test_images_are_what_torchvision_makes_of_them(imagenet):
    data = small(imagenet)
    theirs = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(32)])
    seen = torch.cat([batch.images for batch in loader(data).test_batches()])
    for index, image in enumerate(seen):
        expected = theirs(decode(data.test.read(index)))
        assert torch.equal(image, normalise(expected[None], NORMALISATION)[0])


def test_pixels_are_those_of_pillow(imagenet):
    file = imagenet / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    for mode, format_ in (("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")):
        with Image.open(file) as image:
            image.convert(mode).save(file.with_suffix(".copy"), format_)
        with Image.open(file.with_suffix(".copy")) as copy:
            expected = torch.from_numpy(np.array(copy.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(decode(file.with_suffix(".copy").read_bytes()), expected)


def test_a_random_view_is_torchvisions_crop_scaled(imagenet):
    """With the same numbers from the generator, torchvision's transform gives the same pixels."""
    image = decode((imagenet / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").read_bytes())
    mirrored = 0
    for index in range(20):
        seen = random_view(image, 32, flip=True, seed=(0, 1, index))
        torch.manual_seed(int(np.random.SeedSequence((0, 1, index)).generate_state(1, np.uint64)[0]) >> 1)
        expected = v2.RandomResizedCrop(32, antialias=True)(image)
        flipped = bool(torch.rand(()) < 0.5)
        mirrored += flipped
        assert torch.equal(seen, expected.flip(2) if flipped else expected)
    assert 3 < mirrored < 17


def test_views_follow_from_seed_epoch_and_image_whatever_the_workers(imagenet):
    data = small(imagenet)
    here = list(loader(data).train_batches(2))
    assert len(here) == loader(data).steps_per_epoch == 3
    in_workers = loader(data, workers=2)
    assert same(here, in_workers.train_batches(2))
    assert not same(here, in_workers.train_batches(3))
    assert same(here, in_workers.train_batches(2))  # the same workers, another epoch in between
    assert not same(here, loader(data, seed=1).train_batches(2))


def test_an_epoch_that_is_left_early_does_not_leak_into_the_next(imagenet):
    served = loader(small(imagenet), workers=1)
    next(iter(served.train_batches(0)))
    assert same(served.train_batches(1), loader(small(imagenet)).train_batches(1))


def test_the_global_generators_are_neither_read_nor_moved(imagenet):
    state = torch.get_rng_state()
    list(loader(small(imagenet)).train_batches(0))
    list(loader(small(imagenet), workers=1).train_batches(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch_exactly(world_size, imagenet):
    data = small(imagenet)
    ranks = [loader(data, batch_size=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(rank.train_batches(1)) for rank in ranks]
    seen = [i for share in shares for batch in share for i in batch.indices.tolist()]
    assert len(seen) == len(set(seen)) == 15 // (2 * world_size) * 2 * world_size
    whole = list(loader(data, batch_size=2 * world_size).train_batches(1))
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([share[step].images for share in shares]))
    tested = [i for rank in ranks for batch in rank.test_batches() for i in batch.indices.tolist()]
    assert sorted(tested) == list(range(9))


def test_the_fingerprint_sees_names_sizes_and_settings(imagenet):
    before = small(imagenet).fingerprint()
    assert small(imagenet).fingerprint() == before
    assert load_imagenet(imagenet, image_size=32, resize=41).fingerprint() != before
    file = imagenet / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    file.rename(file.with_name("other.JPEG"))
    assert small(imagenet).fingerprint() != before


def test_the_list_of_files_is_kept_and_renewed(imagenet, cache):
    before = small(imagenet)
    assert len(list((cache / "files").iterdir())) == 2
    extra = imagenet / "train" / WNIDS[1] / "extra.JPEG"
    extra.write_bytes((imagenet / "train" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG").read_bytes())
    assert len(small(imagenet).train) == len(before.train) + 1
    for kept in (cache / "files").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])  # damaged: it is made again
    assert len(small(imagenet).train) == len(before.train) + 1


def damage(root, how):
    file = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    whole = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[how])
    return file


def test_the_decoder_that_stands_in_gives_the_same_pixels(imagenet, monkeypatch):
    data = small(imagenet)
    whole = data.train.read(3)
    expected = decode(whole)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    assert torch.equal(decode(whole), expected)
    with pytest.raises(ValueError, match=r"(?i)truncated"):
        decode(whole[:200])
    with pytest.raises(ValueError, match="cannot identify"):
        decode(b"hello")


@pytest.mark.parametrize(
    ("how", "workers"), [("truncated", 0), ("truncated", 1), ("text", 0), ("empty", 0), ("missing", 0)]
)
def test_a_damaged_image_stops_training_and_is_named(how, workers, imagenet):
    data = small(imagenet)
    file = damage(imagenet, how)
    with pytest.raises(DataError) as caught:
        list(loader(data, batch_size=15, workers=workers).train_batches(0))
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be read as an image (")
    assert message.endswith("or leave such images out, listed in the run's record: data.options.damaged=skip")
    assert "\n" not in message
    assert "Traceback" not in message


def test_damaged_images_are_left_out_by_choice_and_listed(imagenet, cache):
    file = damage(imagenet, "truncated")
    data = small(imagenet, damaged="skip", workers=0)
    assert len(data.train) == 14
    assert len(data.skipped) == 1
    assert data.skipped[0].startswith(f"{file} cannot be read as an image (")
    assert data.fingerprint() != small(imagenet).fingerprint()
    assert sum(len(batch) for batch in loader(data, batch_size=14).train_batches(0)) == 14
    (kept,) = (cache / "damaged").iterdir()
    assert json.loads(kept.read_text())["test"] == []
    kept.write_text('{"train": [[0, "as kept"]], "test": []}')  # the second time nothing is decoded
    assert small(imagenet, damaged="skip").skipped == ("as kept",)


def test_looking_for_damage_tells_how_far_it_is(imagenet):
    damage(imagenet, "text")
    told = []
    found = dict(find_damaged(small(imagenet).train, workers=1, progress=lambda *args: told.append(args)))
    assert list(found) == [7]
    assert told[-1] == ("reading images", 15, 15)


def test_a_subset_has_every_class(imagenet):
    data = small(imagenet, train_per_class=2)
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.where(2).endswith(f"{WNIDS[1]}_0.JPEG")
    with pytest.raises(
        ValueError, match=r"must lie in 1 … 5, the number of images of the smallest class, got 6"
    ):
        small(imagenet, train_per_class=6)


def test_what_is_missing_is_named(imagenet, tmp_path):
    with pytest.raises(DataError) as caught:
        load_imagenet(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path / 'nowhere'} has no folder 'train'; images are expected as "
        f"{tmp_path / 'nowhere' / 'train' / '<class>' / '<image>.jpg'}"
    )
    flat = tmp_path / "flat" / "train"
    flat.mkdir(parents=True)
    (flat / "a.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="holds no folders; sort its images into one per class: "):
        load_imagenet(flat.parent)
    (imagenet / "val" / "n9").mkdir()
    with pytest.raises(DataError, match=r"n9 holds no images; \.jpg, \.jpeg and \.png files are expected"):
        small(imagenet)
    (imagenet / "val" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").rename(imagenet / "val" / "n9" / "0.JPEG")
    with pytest.raises(DataError, match="must have the same classes; only one has n9"):
        small(imagenet)


def test_options_are_checked(imagenet, unchecked):
    with pytest.raises(ValueError, match="an 'error' or one can 'skip' them, got damaged='drop'"):
        small(imagenet, damaged="drop")
    data = small(imagenet)
    with pytest.raises(ValueError, match=r"got image_size=32 and resize=31"):
        load_imagenet(imagenet, image_size=32, resize=31)
    with pytest.raises(
        UnknownName, match=r"'crop-flip' pads and shifts small images that lie in memory; imagenet"
    ):
        loader(data, augment="crop-flip")
    with pytest.raises(UnknownName, match=r"no augmentation 'resized'\. Did you mean 'resized-crop'"):
        loader(data, augment="resized")
    with pytest.raises(ValueError, match="must not be negative, got workers=-1"):
        loader(data, workers=-1)
    with pytest.raises(ValueError, match=r"one step needs 16 training images .* imagenet has 15"):
        loader(data, batch_size=16)


def test_a_recipe_trains_on_it(imagenet, tmp_path, capsys):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"data:\n  name: imagenet\n  options: {{root: {imagenet}, image_size: 32, resize: 40}}\n"
        "  batch_size: 5\n  augment: resized-crop-flip\n  workers: 1\n"
        "student: resnet8\nterms: {ce: {objective: CrossEntropy}}\n"
        "schedule: {epochs: 1, lr: 0.01, milestones: []}\n"
    )
    damage(imagenet, "truncated")
    words = ["train", "--config", str(recipe), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "cannot be read as an image" in capsys.readouterr().err
    words[-1] = str(tmp_path / "other")
    assert main([*words, "--data.options.damaged", "skip"]) == 0
    record = json.loads((tmp_path / "other" / "record.json").read_text())
    assert record["data"]["name"] == "imagenet"
    assert len(record["data"]["skipped"]) == 1
    spec = DataSpec("imagenet", {"root": imagenet}, batch_size=4, augment="crop")
    with pytest.raises(UnknownName, match="takes none, resized-crop, resized-crop-flip"):
        assemble(Recipe(spec, "resnet8", {}))


def test_centre_view_of_an_image_of_any_shape():
    wide = torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8)
    assert centre_view(wide, 32, resize=40).shape == (3, 32, 32)
