"""Agreement of attribution maps against scipy, by hand, and on networks that must agree."""

import pytest
import torch
from scipy.stats import spearmanr

from topokd_lib.analysis import attribution_agreement, compare_attributions
from topokd_lib.models import Teacher
from topokd_lib.outputs import Normalisation
from topokd_lib.testing import toy_batch, toy_pair


def maps(seed=0, count=5):
    return torch.rand(count, 6, 7, generator=torch.Generator().manual_seed(seed))


def test_scipy_agrees_on_the_correlation():
    first, second = maps(0), maps(1) + maps(0)
    second[0, :2] = 0.5  # ties
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    others = [spearmanr(first[i].flatten(), second[i - 1].flatten()).statistic for i in range(5)]
    found = attribution_agreement(first, second)
    assert found.rank_correlation == pytest.approx(sum(expected) / 5)
    assert found.other_rank_correlation == pytest.approx(sum(others) / 5)
    assert found.images == 5


def test_overlap_by_hand():
    """The two most important of four pixels: one in common, of three; none in common with the other image."""
    first = torch.tensor([[[4.0, 3.0], [2.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
    second = torch.tensor([[[4.0, 1.0], [3.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    found = attribution_agreement(first, second, share=0.5)
    assert found.overlap == pytest.approx((1 / 3 + 1) / 2)
    assert found.other_overlap == pytest.approx((0 + 1 / 3) / 2)


def test_the_size_of_the_maps_is_ignored_and_order_is_not():
    first = maps()
    assert attribution_agreement(first, 5 * first**3).rank_correlation == pytest.approx(1)
    assert attribution_agreement(first, -first).rank_correlation == pytest.approx(-1)
    assert attribution_agreement(first, -first).overlap == 0


def test_what_all_images_share_is_no_agreement():
    """Maps that are the same centre for every image agree perfectly, and no better than with other images."""
    centre = torch.hann_window(8, periodic=False)
    one = (centre[:, None] * centre + 1e-3 * torch.arange(64).reshape(8, 8)).repeat(4, 1, 1)
    found = attribution_agreement(one, one)
    assert found.rank_correlation == pytest.approx(found.other_rank_correlation) == pytest.approx(1)


def test_each_network_sees_its_own_normalisation():
    pair, batch = toy_pair(), toy_batch(3)
    data, own = Normalisation((0.5,) * 3, (0.25,) * 3), Normalisation((0.4,) * 3, (0.5,) * 3)
    teacher = Teacher(pair.teacher.model, normalisation=own, data_normalisation=data)
    same = compare_attributions(pair.teacher.model, pair.teacher, batch, steps=4)
    other = compare_attributions(pair.teacher.model, teacher, batch, steps=4)
    assert same.rank_correlation == pytest.approx(1)
    assert other.rank_correlation < 0.999


class TestErrors:
    def test_shapes(self, unchecked):
        with pytest.raises(ValueError, match=r"got shapes \(5, 6, 7\) and \(4, 6, 7\)"):
            attribution_agreement(maps(), maps(count=4))
        with pytest.raises(ValueError, match=r"at least two of them; got shapes \(1, 6, 7\)"):
            attribution_agreement(maps(count=1), maps(count=1))

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_share(self, share):
        with pytest.raises(ValueError, match=f"lies between 0 and 1, got share={share}"):
            attribution_agreement(maps(), maps(), share=share)

    def test_a_constant_map(self):
        constant = maps()
        constant[3] = 0.5
        with pytest.raises(ValueError, match="map 3 is the same everywhere"):
            attribution_agreement(maps(), constant)
