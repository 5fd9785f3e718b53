import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import topokd_lib
from tests.training.toy import TinyNet
from topokd_lib.errors import CheckpointError
from topokd_lib.models import create_model
from topokd_lib.outputs import Normalisation
from topokd_lib.training import (
    StudentInfo,
    load_checkpoint,
    load_student,
    load_weights,
    save_checkpoint,
    save_student,
)
from topokd_lib.training.checkpoint import write_atomically

STATE = {"weights": torch.arange(1000.0), "history": [{"loss": 0.1, "test": None}], "name": "a"}


def fails(*args) -> None:
    raise OSError(28, "No space left on device")


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {key: value for key, value in STATE.items() if key != "weights"}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_checkpoint_before_is_kept(tmp_path):
    path = tmp_path / "last.ckpt"
    for number in range(3):
        save_checkpoint(path, {"number": number})
    assert load_checkpoint(path) == {"number": 2}
    assert load_checkpoint(tmp_path / "previous.ckpt") == {"number": 1}


@pytest.mark.parametrize("broken", ["os.fsync", "torch.save"])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch, broken):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"number": 0})
    save_checkpoint(path, {"number": 1})
    monkeypatch.setattr(broken, fails)
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.ckpt .*No space left.*untouched"):
        save_checkpoint(path, {"number": 2})
    assert load_checkpoint(path) == {"number": 1}
    assert load_checkpoint(tmp_path / "previous.ckpt") == {"number": 0}
    assert len(list(tmp_path.iterdir())) == 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damage_goes_unnoticed(tmp_path_factory, data):
    """Cut off anywhere, or one bit flipped anywhere: an error of ours, or the very same content."""
    path = tmp_path_factory.mktemp("damage") / "last.ckpt"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="truncate"):
        content = content[:position]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = load_checkpoint(path)
    except CheckpointError:
        return
    assert torch.equal(found["weights"], STATE["weights"])
    assert found["history"] == STATE["history"]


@pytest.mark.parametrize("content", [b"", b"half a file", pickle.dumps({"a": 1})])
def test_a_damaged_checkpoint_says_how_to_go_on(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    assert "There is no earlier one: delete it to start again" in str(raised.value)
    assert raised.value.__suppress_context__, "torch's stack trace would be shown"
    (tmp_path / "previous.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"Delete it to continue from .*previous\.ckpt"):
        load_checkpoint(path)


def test_a_damaged_previous_checkpoint_does_not_recommend_itself(tmp_path):
    path = tmp_path / "previous.ckpt"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no earlier one"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, victim = tmp_path / "last.ckpt", tmp_path / "victim"

    class Evil:
        def __reduce__(self):
            return Path.touch, (victim,)

    torch.save({"state": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not victim.exists()


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with write_atomically(path) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------- weights


def test_a_student_is_just_a_path(tmp_path):
    student = create_model("resnet8", num_classes=7, in_channels=1).to(memory_format=torch.channels_last)
    normalisation = Normalisation((0.1307,), (0.3081,))
    path = tmp_path / "student.safetensors"
    save_student(
        path,
        student,
        in_channels=1,
        normalisation=normalisation,
        data="digits",
        data_fingerprint="00ff",
        epoch=3,
        top1=0.1 + 0.2,
    )
    model, info = load_student(path)
    assert info == StudentInfo("resnet8", 7, 1, normalisation, "digits", "00ff", 3, 0.1 + 0.2)
    assert info.version == topokd_lib.__version__
    assert not model.training
    expected = student.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in model.state_dict().items())
    images = torch.randn(2, 1, 8, 8)
    assert torch.allclose(model(images), student.eval()(images), atol=1e-5)  # kernels differ with the layout


def test_weights_of_any_network_can_be_loaded_back_into_it(tmp_path):
    first, second = TinyNet(), TinyNet()
    save_student(tmp_path / "w.safetensors", first)
    assert load_weights(tmp_path / "w.safetensors", second).model == "tiny"
    assert torch.equal(first.conv1.weight, second.conv1.weight)


def test_a_missing_weight_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weight file .*teacher\.safetensors; train one"):
        load_student(tmp_path / "teacher.safetensors")


def test_a_truncated_weight_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_student(path, TinyNet())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"w\.safetensors is not a complete safetensors file"):
        load_student(path)


def test_a_file_of_another_format(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(TinyNet().state_dict(), path)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_student(path)


def test_weights_that_do_not_say_what_they_are(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="does not say which model its weights belong to"):
        load_student(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"topokd": json.dumps({"normalisation": None, "x": 1})})
    with pytest.raises(CheckpointError, match="does not say which model"):
        load_student(path)


def test_a_model_that_this_version_lacks(tmp_path):
    save_student(tmp_path / "w.safetensors", TinyNet())
    with pytest.raises(CheckpointError, match=r"w\.safetensors holds .* lacks .*there is no model 'tiny'"):
        load_student(tmp_path / "w.safetensors")


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "w.safetensors"
    save_student(path, create_model("resnet8", num_classes=5))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    tensors["extra"] = tensors.pop("bn1.weight")
    tensors["fc.bias"] = torch.zeros(4)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError) as raised:
        load_student(path)
    message = str(raised.value)
    for part in (
        "do not fit resnet8 with 5 classes",
        "bn1.weight is missing",
        "extra is not expected",
        "fc.bias has shape (4,) instead of (5,)",
    ):
        assert part in message
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        load_weights(path, TinyNet())


def test_weights_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write the weights of tiny to .*choose a directory"):
        save_student(tmp_path / "file" / "w.safetensors", TinyNet())
