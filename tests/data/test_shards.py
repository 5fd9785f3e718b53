"""Shards give what the folder gives, to other programs too, and say what is wrong with them."""

import re
import sys

import pytest

from tests.data.test_imagenet import cache, damage, imagenet, loader, same, small  # noqa: F401 (fixtures)
from topokd_lib.cli import main
from topokd_lib.data import load_data, load_shards, write_shards
from topokd_lib.errors import DataError

webdataset = pytest.importorskip("webdataset", reason="the extra 'shards' is not installed")


@pytest.fixture
def shards(imagenet, tmp_path):  # noqa: F811
    root = tmp_path / "shards"
    told = []
    files = write_shards(small(imagenet), root, images_per_shard=4, progress=lambda *args: told.append(args))
    assert told[-1] == ("images packed", 24, 24)
    assert [file.name for file in files] == [
        *(f"train-{number:06d}.tar" for number in range(4)),
        *(f"test-{number:06d}.tar" for number in range(3)),
    ]
    return root


def packed(root, **options):
    return load_shards(root, image_size=32, resize=40, **options)


def test_batches_are_those_of_the_folder(imagenet, shards):  # noqa: F811
    folder, data = small(imagenet), packed(shards)
    assert (data.name, data.classes, data.normalisation) == (
        folder.name,
        folder.classes,
        folder.normalisation,
    )
    assert data.fingerprint() == folder.fingerprint()
    assert same(loader(folder).train_batches(1), loader(data, workers=2).train_batches(1))
    assert same(loader(folder).test_batches(), loader(data).test_batches())


def test_ranks_and_workers_share_the_shards_and_nothing_comes_twice(shards):
    data = packed(shards)
    ranks = [loader(data, batch_size=2, workers=2, rank=rank, world_size=2) for rank in range(2)]
    seen = [i for rank in ranks for batch in rank.train_batches(0) for i in batch.indices.tolist()]
    assert len(seen) == len(set(seen)) == 12
    tested = [i for rank in ranks for batch in rank.test_batches() for i in batch.indices.tolist()]
    assert sorted(tested) == list(range(9))


def test_webdataset_reads_them(imagenet, shards):  # noqa: F811
    folder = small(imagenet)
    found = {}
    urls = [str(file) for file in sorted(shards.glob("train-*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        position = int(sample["__key__"])
        assert position not in found
        found[position] = int(sample["cls"])
        assert sample["jpg"] == folder.train.read(position)
    assert [found[i] for i in range(15)] == folder.train_labels.tolist()
    assert list(found) != sorted(found)  # others read them in a random order


def test_an_interrupted_call_goes_on(imagenet, tmp_path, monkeypatch):  # noqa: F811
    root, data = tmp_path / "shards", small(imagenet)

    def interrupt(name, done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(data, root, images_per_shard=4, progress=interrupt)
    with pytest.raises(
        DataError, match=r"holds no complete shards \(.*about\.json.*\); write them with `topokd data"
    ):
        packed(root)
    before = {file.name: file.stat().st_mtime_ns for file in root.glob("*.tar")}
    assert len(before) == 2
    write_shards(data, root, images_per_shard=4)
    assert {name: (root / name).stat().st_mtime_ns for name in before} == before
    assert packed(root).fingerprint() == data.fingerprint()


def test_a_shard_that_is_not_whole_is_named(imagenet, shards):  # noqa: F811
    file = shards / "train-000001.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(
        DataError, match=rf"{file} has [\d,]+ bytes and should have {len(whole):,}; copy it again, or"
    ):
        packed(shards)
    file.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=rf"{file} (is damaged|holds other images)"):
        write_shards(small(imagenet), shards, images_per_shard=4)
    file.unlink()
    with pytest.raises(DataError, match=rf"{file} has 0 bytes"):
        packed(shards)
    with pytest.raises(DataError, match=r"train-000000\.tar holds other images than these"):
        write_shards(small(imagenet), shards, images_per_shard=3)


def test_an_image_that_is_damaged_in_a_shard_is_named(imagenet, tmp_path):  # noqa: F811
    damage(imagenet, "truncated")
    root = tmp_path / "shards"
    write_shards(small(imagenet), root)
    with pytest.raises(
        DataError, match=r"n01443537_2\.JPEG in .*train-000000\.tar cannot be read as an image \("
    ):
        list(loader(packed(root), batch_size=15).train_batches(0))
    data = packed(root, damaged="skip", workers=0)
    assert len(data.train) == 14
    assert sum(len(batch) for batch in loader(data, batch_size=14).train_batches(0)) == 14


def test_arguments_and_room(imagenet, tmp_path, monkeypatch):  # noqa: F811
    data = small(imagenet)
    with pytest.raises(ValueError, match="at least one image, got images_per_shard=0"):
        write_shards(data, tmp_path / "shards", images_per_shard=0)
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        DataError, match=r"the shards of imagenet take 0\.0 GB, and .* has 0\.0 GB free; make room"
    ):
        write_shards(data, tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(
        ImportError, match=r"needs the package webdataset; install the extra: pip install 'topokd-lib"
    ):
        write_shards(data, tmp_path / "shards")


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_packs_checks_and_lists(imagenet, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "packed"
    assert main(["data", "shard", "imagenet", "--root", str(imagenet), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        said == f"{out}: 2 shards of imagenet; use them with --data.name shards --data.options.root {out}\n"
    )
    fingerprint = load_data("imagenet", root=str(imagenet)).fingerprint()
    assert main(["data", "check", "shards", "--root", str(out), "--workers", "0"]) == 0
    assert capsys.readouterr().out == (
        f"imagenet is whole: 15 training and 9 test images, 3 classes, 3×224×224, fingerprint {fingerprint}\n"
    )
    file = damage(imagenet, "text")
    assert main(["data", "check", "imagenet", "--root", str(imagenet), "--workers", "0"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"{file} cannot be read as an image (")
    assert re.match(r"topokd: 1 of \d+ images of imagenet cannot be read; copy them again, or ", said.err)


def test_the_command_says_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TOPOKD_DATA", str(tmp_path))
    (tmp_path / "imagenet").mkdir()
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data sets, in {tmp_path} unless a recipe says otherwise:"
    assert any(line.startswith("  imagenet") and line.endswith("[here]") for line in lines)
    assert any(line.startswith("  cifar100") and line.endswith("[not here]") for line in lines)
    assert "``" not in "".join(lines)
    assert any(line.startswith("  digits") and not line.endswith("]") for line in lines)


def test_the_command_refuses_what_makes_no_sense(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_DATA", str(tmp_path))
    assert main(["data", "check", "digits"]) == 0
    assert capsys.readouterr().out.startswith(
        "digits is whole: 1,437 training and 360 test images, 10 classes"
    )
    for words, message in (
        (["shard", "digits", "--out", str(tmp_path)], "digits lies in memory; shards are for data sets that"),
        (["check", "digit"], "there is no data set 'digit'. Did you mean 'digits'?"),
        (["check", "digits", "--root", "x"], "data set 'digits' has no option 'root'"),
        (["download", "digits"], "there is no data set to download 'digits'"),
        (["download", "cinic10"], "there is no CINIC-10 in"),
        (["download", "imagenet"], f"{tmp_path / 'imagenet'} has no folder 'train'"),
        (["sharp"], "there is no command 'data sharp'. Did you mean 'data shard'?"),
    ):
        assert main(["data", *words]) == 2
        assert capsys.readouterr().err.startswith(f"topokd: {message}"), words
