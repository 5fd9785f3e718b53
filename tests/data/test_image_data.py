import dataclasses

import jaxtyping
import pytest
import torch
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from topokd_lib.data import DATA, ImageData, load_data, normalise
from topokd_lib.data.image_data import measure_normalisation
from topokd_lib.errors import UnknownName
from topokd_lib.outputs import Normalisation

GREY = Normalisation((0.5,), (0.25,))


def make(**changes) -> ImageData:
    arguments = {
        "name": "tiny",
        "train_images": torch.arange(2 * 4 * 4, dtype=torch.uint8).view(2, 1, 4, 4),
        "train_labels": torch.tensor([0, 1]),
        "test_images": torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
        "test_labels": torch.tensor([1]),
        "classes": ("a", "b"),
        "normalisation": GREY,
    }
    return ImageData(**(arguments | changes))


@pytest.fixture
def without_type_checks():
    """As users run it: the checks of shapes and types that tests add would answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    yield
    jaxtyping.config.update("jaxtyping_disable", False)  # noqa: FBT003


def test_it_knows_its_classes_and_shape():
    data = make(
        train_images=torch.zeros(2, 1, 3, 5, dtype=torch.uint8), test_images=torch.zeros(1, 1, 3, 5).byte()
    )
    assert data.num_classes == 2
    assert data.image_shape == (1, 3, 5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_images": torch.zeros(2, 1, 4, 4)}, TypeError, r"training images of tiny must be uint8"),
        (
            {"test_labels": torch.tensor([1], dtype=torch.int32)},
            TypeError,
            r"test images .* found .* torch.int32",
        ),
        ({"train_labels": torch.tensor([0, 1, 1])}, ValueError, r"found \(2, 1, 4, 4\) and labels \(3,\)"),
        ({"test_images": torch.zeros(1, 4, 4, dtype=torch.uint8)}, ValueError, r"found \(1, 4, 4\)"),
        (
            {
                "train_images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8),
                "train_labels": torch.zeros(0, dtype=torch.int64),
            },
            ValueError,
            r"found \(0, 1, 4, 4\)",
        ),
        ({"train_labels": torch.tensor([0, 2])}, ValueError, r"must lie in 0 … 1 .* found 0 … 2"),
        ({"test_labels": torch.tensor([-1])}, ValueError, r"test labels .* found -1 … -1"),
        (
            {"test_images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)},
            ValueError,
            r"found \(1, 4, 4\) and \(1, 8, 8\)",
        ),
        ({"normalisation": Normalisation((0.5,) * 3, (1.0,) * 3)}, ValueError, r"1 channels, .* has 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message, without_type_checks):
    with pytest.raises(error, match=message):
        make(**changes)


def test_the_fingerprint_follows_the_content_and_not_the_name():
    data = make()
    assert len(data.fingerprint()) == 16
    assert int(data.fingerprint(), 16) >= 0
    assert dataclasses.replace(data, name="other").fingerprint() == data.fingerprint()
    pixel = data.test_images.clone()
    pixel[0, 0, 3, 3] = 1
    changed = [
        make(test_images=pixel),
        make(train_labels=torch.tensor([1, 1])),
        make(classes=("a", "c")),
        make(normalisation=Normalisation((0.5,), (0.3,))),
        make(
            train_images=data.train_images.view(2, 1, 2, 8),
            test_images=data.test_images.view(1, 1, 2, 8),
        ),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in changed)}) == 6


def test_normalise_equals_torchvision_to_the_last_bit():
    images = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8)
    normalisation = Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    theirs = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(normalisation.mean, normalisation.std)]
    )
    expected = torch.stack([theirs(to_pil_image(image)) for image in images])
    before = images.clone()
    assert torch.equal(normalise(images, normalisation), expected)
    assert torch.equal(images, before)


def test_measured_normalisation_makes_mean_zero_and_deviation_one():
    images = torch.randint(0, 200, (50, 3, 8, 8), dtype=torch.uint8)
    normal = normalise(images, measure_normalisation(images)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(3), atol=5e-4, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(3), atol=5e-4, rtol=0)


def test_load_data_by_name_passes_options_on():
    assert set(DATA) >= {"digits", "shapes"}
    assert load_data("digits", size=8).image_shape == (3, 8, 8)
    assert len(load_data("shapes", train=7, test=6).train_labels) == 7


def test_load_data_suggests_names():
    with pytest.raises(UnknownName, match=r"no data set 'digit'\. Did you mean 'digits'\?"):
        load_data("digit")
    with pytest.raises(
        TypeError, match=r"'digits' has no option 'sise'\. Did you mean 'size'\? It takes: size\."
    ):
        load_data("digits", sise=8)
