"""A teacher whose outputs are kept says what it would say, on every view, also after a kill."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recipes.made import make_teacher
from tests.training.toy import Labels
from topokd_lib.cli import main
from topokd_lib.data import EpochLoader, ImageData
from topokd_lib.errors import CheckpointError, RecipeError
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import WeightedSum
from topokd_lib.outputs import Batch, Normalisation
from topokd_lib.prepare import CachedTeacher, Outputs, OutputsSpec, plan_outputs
from topokd_lib.recipes import load_recipe, run_teacher_cache
from topokd_lib.recipes.recipe import Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data():
    """Twelve photographs of noise in 32 × 32 pixels: 162 views each."""
    pixels = torch.randint(0, 256, (15, 3, 32, 32), dtype=torch.uint8)
    scale = Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    labels = torch.arange(15) % 3
    return ImageData("few", pixels[:12], labels[:12], pixels[12:], labels[12:], ("a", "b", "c"), scale)


@pytest.fixture
def teacher(data):
    """With a normalisation of its own, and running statistics that are not the initial ones."""
    model = create_model("resnet8", num_classes=3)
    model.train()(torch.randn(8, 3, 32, 32))
    own = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return Teacher(model, normalisation=own, data_normalisation=data.normalisation)


def cached(teacher, data, *, names=("logits", "pooled"), augment="crop-flip", precision="float32"):
    spec = OutputsSpec.of(teacher, data, augment=augment, precision=precision)
    return CachedTeacher(teacher, Outputs(spec, names))


def batches(data, epochs=range(3), augment="crop-flip"):
    loader = EpochLoader(data, batch_size=4, augment=augment, seed=5)
    return [batch for epoch in epochs for batch in loader.train_batches(epoch)]


def difference(one, other):
    return max(
        (one.logits - other.logits).abs().max().item(),
        (one["pooled"] - other["pooled"]).abs().max().item(),
    )


@pytest.mark.parametrize("augment", ["crop-flip", "crop", "none"])
def test_all_views_are_looked_up_as_the_teacher_sees_them(augment, data, teacher):
    """162 × 12 outputs made in advance, against the live teacher on the loader's own images."""
    keeper = cached(teacher, data, augment=augment)
    told = []
    keeper.fill(data, progress=lambda *args: told.append(args))
    views = {"crop-flip": 162, "crop": 81, "none": 1}[augment]
    assert told[-1] == ("teacher outputs", 12 * views, 12 * views)
    keeper.model.requires_grad_(requires_grad=False).apply(lambda module: setattr(module, "forward", None))
    live = teacher_like(teacher)
    for batch in batches(data, augment=augment):
        assert difference(keeper(batch, ["pooled"]), live(batch, ["pooled"])) < 1e-5


def teacher_like(teacher):
    """The same numbers in a network of its own."""
    model = create_model("resnet8", num_classes=3)
    model.load_state_dict(teacher.model.state_dict())
    other = Teacher(model)
    other.scale, other.shift = teacher.scale, teacher.shift
    return other


def test_what_is_served_is_what_was_computed_to_the_last_bit(data, teacher):
    keeper, live = cached(teacher, data), teacher_like(teacher)
    for batch in batches(data, range(1)):
        expected = live(batch, ["pooled"])
        for _ in range(2):  # computed, then looked up
            assert difference(keeper(batch, ["pooled"]), expected) == 0


def test_only_what_is_missing_is_computed(data, teacher):
    keeper = cached(teacher, data, names=("logits",))
    seen = []
    compute = keeper.model.compute
    keeper.model.compute = lambda images, taps: seen.append(len(images)) or compute(images, taps)
    batch = batches(data)[0]
    keeper(batch)
    pair = batches(data)[:2]
    parts = [torch.cat([getattr(b, part) for b in pair]) for part in ("images", "labels", "indices")]
    both = Batch(*parts, {"view": torch.cat([b.extras["view"] for b in pair])})
    keeper(both)
    keeper(both)
    assert seen == [4, 4]


def test_a_second_name_is_added_and_the_first_stays(data, teacher):
    batch = batches(data)[0]
    first = cached(teacher, data, names=("logits",))
    expected = first(batch).logits
    first.outputs.flush()
    with torch.no_grad():
        teacher.model.last_layer.bias.add_(1)  # what is computed from now on would be seen
    both = CachedTeacher(teacher, Outputs(first.outputs.spec, ("logits", "pooled")))
    assert torch.equal(both(batch, ["pooled"]).logits, expected)
    assert both(batch, ["pooled"])["pooled"].shape == (4, 64)


def test_outputs_that_lie_on_the_gpu_are_the_same(data, teacher, monkeypatch):
    """The path that a GPU takes once all outputs are known, with their tensors on the CPU."""
    keeper = cached(teacher, data)
    assert keeper.outputs.on(torch.device("cuda")) is None  # not complete
    keeper.fill(data)
    looked_up = [keeper(batch, ["pooled"]) for batch in batches(data)]
    resident = {
        name: torch.from_numpy(np.array(keeper.outputs._values[name])) for name in ("logits", "pooled")
    }
    monkeypatch.setattr(Outputs, "on", lambda self, device: resident)
    monkeypatch.setattr(Outputs, "read", None)
    keeper._asked_for = torch.device("meta")
    for batch, expected in zip(batches(data), looked_up, strict=True):
        assert difference(keeper(batch, ["pooled"]), expected) == 0


def test_half_precision_keeps_eleven_bits(data, teacher):
    keeper, live = cached(teacher, data, precision="float16"), teacher_like(teacher)
    for batch in batches(data):
        first, expected = keeper(batch, ["pooled"]), live(batch, ["pooled"])
        for found, value in ((first.logits, expected.logits), (first["pooled"], expected["pooled"])):
            assert found.dtype == torch.float32
            assert ((found - value).abs() <= value.abs() * 2**-11 + 2**-24).all()
        assert difference(keeper(batch, ["pooled"]), first) == 0


def test_numbers_that_half_precision_does_not_have_are_refused(data, teacher):
    with torch.no_grad():
        teacher.model.last_layer.bias.fill_(1e6)
    keeper = cached(teacher, data, precision="float16")
    with pytest.raises(RecipeError, match=r"logits are not finite in float16; use teacher\.cache=float32"):
        keeper(batches(data)[0])


def test_a_second_process_finds_what_the_first_declared(data, teacher):
    keeper = cached(teacher, data)
    keeper(batches(data)[0])
    assert len(cached(teacher, data).outputs.missing()) == 12 * 162  # not declared yet
    keeper.outputs.flush()
    assert len(cached(teacher, data).outputs.missing()) == 12 * 162 - 4
    keeper(batches(data)[1])
    del keeper  # declares what it has
    assert len(cached(teacher, data).outputs.missing()) == 12 * 162 - 8


def fill_and_die(teacher, data):
    """In a process of its own: killed in the middle, without a chance to tidy up."""
    import topokd_lib.prepare.teacher_cache as module

    module.BATCH, module.FLUSH_EVERY = 100, 300
    keeper = cached(teacher, data)

    def die(name, done, total):
        if done >= 1000:
            os.kill(os.getpid(), signal.SIGKILL)

    keeper.fill(data, progress=die)


def test_a_kill_loses_little_and_leaves_nothing_false(data, teacher):
    process = multiprocessing.get_context("fork").Process(target=fill_and_die, args=(teacher, data))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    keeper, live = cached(teacher, data), teacher_like(teacher)
    assert len(keeper.outputs.missing()) == 12 * 162 - 900
    told = []
    keeper.fill(data, progress=lambda *args: told.append(args))
    assert told[0][1] == 900 + 256
    assert not len(keeper.outputs.missing())
    for batch in batches(data):
        assert difference(keeper(batch, ["pooled"]), live(batch, ["pooled"])) < 1e-5


def test_another_teacher_other_data_or_views_have_another_cache(data, teacher):
    places = {OutputsSpec.of(teacher, data, augment="crop", precision="float32").directory}
    places.add(OutputsSpec.of(teacher, data, augment="crop-flip", precision="float32").directory)
    places.add(OutputsSpec.of(teacher, data, augment="crop", precision="float16").directory)
    places.add(OutputsSpec.of(Teacher(teacher.model), data, augment="crop", precision="float32").directory)
    other = replace(data, normalisation=Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.31)))
    places.add(OutputsSpec.of(teacher, other, augment="crop", precision="float32").directory)
    with torch.no_grad():
        teacher.model.last_layer.bias.add_(1)
    places.add(OutputsSpec.of(teacher, data, augment="crop", precision="float32").directory)
    assert len(places) == 6


def test_a_file_of_the_wrong_size_is_refused(data, teacher):
    keeper = cached(teacher, data)
    keeper.outputs.flush()
    place = keeper.outputs.directory
    (place / "pooled.values").write_bytes(b"short")
    with pytest.raises(CheckpointError) as caught:
        cached(teacher, data)
    assert str(caught.value) == (
        f"{place / 'pooled.values'} has 5 bytes and should have {12 * 162 * 64 * 4}: it is damaged. Delete "
        f"the folder {place}; it will be filled again"
    )


def test_room_is_asked_for_before_work_starts(data, teacher, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(RecipeError) as caught:
        cached(teacher, data)
    assert re.match(
        r"the outputs of resnet8 on few take up to 0\.0 GB as float32 \(12 images × 162 views × 67 "
        r"numbers\), and /.* has 0\.0 GB free; make room, name another place in TOPOKD_CACHE, or use "
        r"teacher\.cache=float16$",
        str(caught.value),
    )
    assert not cache.exists()


def test_a_sparse_file_takes_no_room_until_it_is_written(data, teacher):
    outputs = cached(teacher, data).outputs
    values = outputs.directory / "logits.values"
    assert values.stat().st_size == 12 * 162 * 3 * 4
    assert values.stat().st_blocks == 0
    assert outputs.spec.size(["logits"]) == 12 * 162 * (3 * 4 + 1)
    assert "1,944 outputs of resnet8 (12 images of few × 162 views), 3 logits each" in outputs.spec.describe(
        ["logits"]
    )


def test_a_place_that_cannot_be_used(data, teacher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        RecipeError, match=r"cannot use .*; name another place in the environment variable TOPOKD"
    ):
        cached(teacher, data)


def test_batches_have_to_say_their_views(data, teacher):
    batch = batches(data)[0]
    with pytest.raises(RecipeError, match="batches that say which views they show"):
        cached(teacher, data)(Batch(batch.images, batch.labels, batch.indices))
    with pytest.raises(RecipeError, match="the cache of resnet8 has no stage1"):
        cached(teacher, data)(batch, ["stage1"])


def test_statistics_of_the_batch_cannot_be_kept(data, teacher):
    with pytest.raises(
        RecipeError, match=r"with batch_statistics that depends on the other images of the batch"
    ):
        cached(teacher.with_batch_statistics(), data)


# ------------------------------------------------------------------------------------------------ in a recipe


@pytest.fixture
def words(tmp_path):
    weights = make_teacher(tmp_path / "teacher.safetensors")
    return ["--config", "digits/kd", "--teacher.weights", str(weights), "--schedule.epochs", "1"]


def trained(words, out):
    assert main(["train", *words, "--out", str(out)]) == 0
    record = json.loads((out / "record.json").read_text())
    return [epoch["loss"] for epoch in record["curve"]]


def test_training_is_the_same_with_and_without(words, tmp_path, capsys):
    plain = trained(words, tmp_path / "plain")
    first = trained([*words, "--teacher.cache", "float32"], tmp_path / "first")
    assert first == plain  # to the last bit: the same batches, computed once
    again = trained([*words, "--teacher.cache", "float32"], tmp_path / "again")
    assert again == plain  # all from the cache
    half = trained([*words, "--teacher.cache", "float16"], tmp_path / "half")
    np.testing.assert_allclose(half, plain, rtol=2e-3)
    assert half != plain


def test_the_command_fills_the_cache_and_training_computes_nothing(words, tmp_path, capsys, monkeypatch):
    plain = trained(words, tmp_path / "plain")
    capsys.readouterr()
    assert main(["prepare", "teacher-cache", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "12,933 outputs of resnet8 (1,437 images of digits × 9 views), 10 logits each, 0.00 GB"
    )
    assert said[0].endswith("; 12,933 are missing")
    assert said[1] == "complete; train with --teacher.cache float32 --data.augment crop"
    assert main(["prepare", "teacher-cache", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("; 0 are missing")
    monkeypatch.setattr(Teacher, "forward", measured_only(Teacher.forward))
    np.testing.assert_allclose(
        trained([*words, "--teacher.cache", "float32"], tmp_path / "cached"), plain, rtol=1e-4
    )


def measured_only(forward):
    def guarded(self, batch, names=()):
        assert len(batch) == 1, "the teacher computes although all is known"
        return forward(self, batch, names)

    return guarded


def test_a_term_that_reads_more_is_named(words, tmp_path, capsys):
    more = ["--terms.at.objective", "AT", "--teacher.cache", "float32", "--out", str(tmp_path / "run")]
    assert main(["train", *words, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "topokd: teacher.cache keeps the teacher's logits and 'pooled', and term 'at' reads 'stage1', "
    )
    assert said.endswith("; drop teacher.cache for this objective\n")


def test_a_rehearsal_writes_nothing_and_checks_all_the_same(words, cache, capsys):
    assert main(["train", *words, "--teacher.cache", "float32", "--dry-run"]) == 0
    assert not cache.exists()
    wrong = ["--terms.at.objective", "AT", "--teacher.cache", "float32", "--dry-run"]
    assert main(["train", *words, *wrong]) == 2
    assert "term 'at' reads 'stage1'" in capsys.readouterr().err


def test_images_with_endless_views_cannot_be_kept(teacher):
    streamed = type("Streamed", (), {"name": "imagenet"})()
    objective = WeightedSum({"labels": Labels()}, {"labels": 1.0})
    with pytest.raises(
        RecipeError, match="those of imagenet are cropped and scaled in ever new ways; drop teacher"
    ):
        plan_outputs(teacher, streamed, augment="none", precision="float32", objective=objective)


def test_a_teacher_of_another_kind_cannot_be_kept(teacher, data):
    class Other(Teacher):
        """Perhaps several, or one that sees something else."""

    objective = WeightedSum({"labels": Labels()}, {"labels": 1.0})
    with pytest.raises(
        RecipeError, match="is for one teacher that sees the images themselves, and resnet8 is a"
    ):
        plan_outputs(Other(teacher.model), data, augment="none", precision="float32", objective=objective)


def test_a_recipe_without_a_teacher_has_nothing_to_keep(capsys):
    recipe, _ = load_recipe("digits/none", kind=Recipe)
    with pytest.raises(RecipeError, match="this recipe has no teacher whose outputs could be kept"):
        run_teacher_cache(recipe, tell=print)
