import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from topokd_lib.data import BETTI, load_shapes, sample_cloud
from topokd_lib.data.shapes import IMAGE_BETTI
from topokd_lib.errors import UnknownName


def betti(bright: np.ndarray) -> tuple[int, int]:
    """Components of the bright region, and of the dark one but the outside, with dual connectivities."""
    components = ndimage.label(bright, structure=np.ones((3, 3)))[1]
    holes = ndimage.label(np.pad(~bright, 1, constant_values=True))[1] - 1
    return components, holes


@pytest.mark.parametrize(("size", "seed"), [(32, 0), (32, 1), (45, 0)])
def test_every_image_has_the_betti_numbers_of_its_class(size, seed):
    data = load_shapes(size=size, train=240, test=120, seed=seed)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        for image, label in zip(images, labels, strict=True):
            assert betti(image[0].numpy() > 128) == IMAGE_BETTI[data.classes[label]]


def test_the_oracle_counts():
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert betti(ring) == (1, 1)
    assert betti(np.eye(3, dtype=bool)) == (1, 0)


def test_betti_numbers_agree_with_cubical_persistence():
    gudhi = pytest.importorskip("gudhi")
    data = load_shapes(train=24, test=6, seed=3)
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        darkness = (image[0].numpy() <= 128).astype(float)
        cubes = gudhi.CubicalComplex(top_dimensional_cells=darkness)
        cubes.persistence()
        bars = [cubes.persistence_intervals_in_dimension(k) for k in (0, 1)]
        alive = tuple(int(((b[:, 0] <= 0) & (b[:, 1] > 0)).sum()) if len(b) else 0 for b in bars)
        assert alive == IMAGE_BETTI[data.classes[label]]


def test_an_image_depends_on_seed_split_and_position_alone():
    data = load_shapes(train=30, test=30, seed=5)
    longer = load_shapes(train=60, test=30, seed=5)
    assert data.fingerprint() == load_shapes(train=30, test=30, seed=5).fingerprint()
    assert torch.equal(longer.train_images[:30], data.train_images)
    assert not torch.equal(data.train_images, data.test_images)
    assert not torch.equal(data.train_images, load_shapes(train=30, test=30, seed=6).train_images)


def test_images_of_a_class_differ_and_classes_are_balanced():
    data = load_shapes(train=60, test=12)
    assert data.train_labels.bincount().tolist() == [10] * 6
    assert data.image_shape == (3, 32, 32)
    assert len({bytes(image.flatten().tolist()) for image in data.train_images}) == 60
    bright = data.train_images[:, 0] > 128
    assert not bright[:, [0, -1]].any()
    assert not bright[:, :, [0, -1]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 28}, r"at least 32 pixels, .* got size=28"),
        ({"train": 0}, r"train=0, test=600, seed=0"),
        ({"test": 0}, r"train=1200, test=0, seed=0"),
        ({"seed": -1}, r"seed=-1"),
    ],
)
def test_impossible_images_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_shapes(**options)


@pytest.mark.parametrize("kind", BETTI)
def test_clouds_have_the_shape_their_betti_numbers_say(kind):
    """Grow squares around the points on a fine grid until gaps close, and count as in an image."""
    cloud = sample_cloud(kind, 600, seed=1).numpy()
    assert cloud.shape == (600, 2)
    axis = np.linspace(-3, 3, 241)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    near = cdist(grid, cloud).min(axis=1).reshape(241, 241) < 0.2
    assert betti(near) == BETTI[kind]


def test_clouds_are_as_documented():
    two = sample_cloud("two circles", 101, seed=2)
    left = two[two[:, 0] < 0]
    assert len(left) in (50, 51)
    torch.testing.assert_close((left - torch.tensor([-1.5, 0.0])).norm(dim=1), torch.ones(len(left)))
    eight = sample_cloud("figure eight", 100, seed=2)
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert (torch.cdist(eight, centres) - 1).abs().min(dim=1).values.max() < 1e-5
    assert sample_cloud("disc", 4000, seed=2).norm(dim=1).max() <= 1
    # A quarter of a disc's area lies within half its radius.
    assert (sample_cloud("disc", 4000, seed=2).norm(dim=1) < 0.5).float().mean() == pytest.approx(
        0.25, abs=0.03
    )
    line = sample_cloud("line", 50, seed=2)
    assert (line[:, 1] == 0).all()
    assert (line[:, 0].abs() <= 1).all()
    corners = sample_cloud("clusters", 90, seed=2)
    assert corners.norm(dim=1).min() >= 0.75
    assert corners.norm(dim=1).max() <= 1.25


def test_noise_is_added_to_the_same_sample():
    exact = sample_cloud("circle", 5000, seed=4)
    noisy = sample_cloud("circle", 5000, noise=0.1, seed=4)
    assert torch.equal(exact, sample_cloud("circle", 5000, seed=4))
    assert (noisy - exact).std().item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(exact, sample_cloud("circle", 5000, seed=5))


@pytest.mark.parametrize("wrong", [{"points": 0}, {"noise": -0.1}, {"noise": float("nan")}, {"seed": -1}])
def test_impossible_clouds_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"at least one point, .*{name}={value}"):
        sample_cloud("circle", **({"points": 5, "seed": 0} | wrong))


def test_unknown_clouds_are_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"no point cloud 'circel'\. Did you mean 'circle'\?"):
        sample_cloud("circel", 5, seed=0)
