"""giotto-tda as a second opinion on Rips persistence; gudhi is the first."""

import numpy as np
import pytest
import torch

from topokd_lib.topology import rips_diagrams

homology = pytest.importorskip(
    "gtda.homology", reason="giotto-tda is optional and has no wheels for Python 3.13"
)


@pytest.mark.parametrize("dimension", [0, 1])
def test_diagrams_agree(dimension):
    clouds = torch.rand(4, 24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (diagrams,) = rips_diagrams(clouds, dimensions=(dimension,))
    found = homology.VietorisRipsPersistence(homology_dimensions=(dimension,)).fit_transform(clouds.numpy())
    for index, theirs in enumerate(found):
        bars = theirs[theirs[:, 1] > theirs[:, 0], :2]  # giotto-tda pads with bars of length 0
        ours = diagrams[index].numpy()
        order, other = np.lexsort(ours.T), np.lexsort(bars.T)
        np.testing.assert_allclose(ours[order], bars[other], atol=1e-6)
