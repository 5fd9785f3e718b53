import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from tests.training.toy import TinyNet, ToyLoader
from topokd_lib.models import create_model
from topokd_lib.outputs import Batch
from topokd_lib.training import EngineSpec, Evaluation, evaluate, make_fabric


@pytest.fixture
def fabric() -> Fabric:
    return make_fabric(EngineSpec(accelerator="cpu"))


def as_batch(images, labels) -> Batch:
    return Batch(images, labels, torch.arange(len(labels)))


def test_accuracies_and_loss_by_hand(fabric):
    """A network that returns its input: six classes, ranks of the true class 1, 2, 5 and 6."""

    class Same(TinyNet):
        num_classes = 6

        def compute(self, images, taps):
            return images[:, :, 0, 0]

    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0]] * 4)
    labels = torch.tensor([0, 1, 4, 5])
    found = evaluate(fabric, Same(), [as_batch(logits[:, :, None, None], labels)])
    assert found == Evaluation(top1=0.25, top5=0.75, loss=found.loss, count=4)
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_the_size_of_batches_does_not_matter(fabric):
    torch.manual_seed(0)
    model = create_model("resnet8", num_classes=7).train()
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10) % 7
    whole = evaluate(fabric, model, [as_batch(images, labels)])
    parts = [as_batch(*pair) for pair in zip(images.split(3), labels.split(3), strict=True)]
    split = evaluate(fabric, model, parts)
    assert (split.top1, split.top5, split.count) == (whole.top1, whole.top5, 10)
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(fabric, training):
    model = TinyNet().train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(fabric, model, ToyLoader().test_batches())
    assert model.training is training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_fewer_than_five_classes(fabric):
    assert evaluate(fabric, TinyNet(), ToyLoader().test_batches()).top5 == 1.0


def test_no_image_is_an_error(fabric):
    with pytest.raises(ValueError, match="no image to evaluate on"):
        evaluate(fabric, TinyNet(), [])
