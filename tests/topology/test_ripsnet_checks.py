"""RipsNet beside exact persistence on changed clouds, and a training that is interrupted."""

import pytest
import torch

from topokd_lib.errors import CheckpointError
from topokd_lib.topology import (
    CHANGES,
    PersistenceImage,
    RipsNet,
    examine_ripsnet,
    fit_ripsnet,
    rips_diagrams,
    robustness,
)


def blobs(count=40, points=24, seed=0):
    """Two groups of points, near or far from each other."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(count, points, 4, generator=generator) * 0.3
    cloud[:, ::2, 0] += 1 + 3 * torch.rand(count, 1, generator=generator)
    return cloud


@pytest.fixture(scope="module")
def clouds():
    return blobs()


@pytest.fixture(scope="module")
def image(clouds):
    return PersistenceImage.fit(rips_diagrams(clouds)[0], resolution=(8, 2))


@pytest.fixture(scope="module")
def network(clouds, image):
    torch.manual_seed(0)
    network = RipsNet(4, image.pixels, pooling="mean")
    targets = image(rips_diagrams(clouds)[0])
    fit_ripsnet(network, clouds, targets, epochs=60, learning_rate=5e-3, batch_size=8)
    return network.eval()


def test_isometries_do_not_move_the_exact_image_and_do_move_ripsnet(network, image, clouds):
    found = {change.name: change for change in examine_ripsnet(network, image, clouds)}
    assert tuple(found) == CHANGES
    for name in CHANGES[:3]:
        assert found[name].exact < 1e-6
        assert found[name].estimated > 1e4 * found[name].exact + 1e-9
    for name in CHANGES[3:]:
        assert found[name].exact > 1e-5
    assert examine_ripsnet(network, image, clouds) == list(found.values())  # a function of the seed


def test_ripsnet_is_disturbed_less_by_outliers(network, image, clouds):
    rows = robustness(network, image, clouds, shares=(0.0, 0.1, 0.33))
    assert [row.share for row in rows] == [0.0, 0.1, 0.33]
    assert (rows[0].exact, rows[0].estimated_change) == (0, 0)
    assert rows[0].estimated > 0  # its error on clean clouds
    assert rows[0].exact < rows[1].exact < rows[2].exact
    assert rows[2].estimated_change < rows[2].exact


def test_noise(network, image, clouds):
    rows = robustness(network, image, clouds, shares=(0.0, 0.5), kind="noise")
    assert rows[1].exact > 0 == rows[0].exact


def test_what_is_refused(network, image, clouds, unchecked):
    with pytest.raises(ValueError, match="disturbed by 'outliers' or 'noise', got 'salt'"):
        robustness(network, image, clouds, kind="salt")
    with pytest.raises(ValueError, match=r"from 0 to 1, and noise is at least 0, got \(2\.0,\)"):
        robustness(network, image, clouds, shares=(2.0,))
    with pytest.raises(ValueError, match="draws 16 pixels, but the image has 2 × 2 = 4"):
        examine_ripsnet(network, PersistenceImage((0, 1), (0, 1), 0.1, (2, 2)), clouds)


class Killed(Exception):
    pass


def train(clouds, image, **more):
    torch.manual_seed(0)
    network = RipsNet(4, image.pixels)
    report = fit_ripsnet(
        network, clouds, image(rips_diagrams(clouds)[0]), epochs=12, patience=50, batch_size=8, **more
    )
    return report, network


def test_an_interrupted_training_ends_as_if_nothing_had_happened(clouds, image, tmp_path):
    state = tmp_path / "work" / "training.pt"
    expected, whole = train(clouds, image)
    for last in (3, 7):  # twice

        def kill(epoch, *_, last=last):
            if epoch == last:
                raise Killed

        with pytest.raises(Killed):
            train(clouds, image, state=state, save_every=0.0, progress=kill)
    told = []
    report, network = train(clouds, image, state=state, save_every=0.0, progress=lambda *t: told.append(t[0]))
    assert told == list(range(7, 12))
    assert report == expected
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))
    again, _ = train(clouds, image, state=state, save_every=0.0)  # it had finished
    assert again == expected


def test_the_state_of_another_training_is_refused(clouds, image, tmp_path):
    state = tmp_path / "training.pt"
    train(clouds, image, state=state, save_every=0.0)
    with pytest.raises(CheckpointError, match="training of another RipsNet stood, with other clouds"):
        train(clouds, image, state=state, learning_rate=1e-3)
    state.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"cannot read .*training\.pt.*delete it"):
        train(clouds, image, state=state)
