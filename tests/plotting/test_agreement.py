import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from topokd_lib.plotting.agreement import agreement_figure
from topokd_lib.plotting.style import save_figure, use_house_style
from topokd_lib.topology import CloudAgreement

mpl.use("agg")

ROWS = {
    "start": CloudAgreement(0.1, 0.2, 0.3, 0.4, 0.5),
    "signature": CloudAgreement(0.6, 0.7, 1.0, 0.0, 0.25),
}


@pytest.fixture(autouse=True)
def _house():
    with mpl.rc_context():
        use_house_style()
        yield
    plt.close("all")


def test_every_number_is_where_it_belongs(tmp_path):
    figure = agreement_figure(ROWS)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == list(ROWS)
    for panel, fields in ((left, ("distances", "neighbours", "tree")), (right, ("deaths", "raw_deaths"))):
        dots = [line for line in panel.lines if line.get_marker() not in ("None", "")]
        assert [list(line.get_xdata()) for line in dots] == [
            [getattr(row, field) for row in ROWS.values()] for field in fields
        ]
    assert len(figure.legends[0].get_texts()) == 5
    assert save_figure(figure, tmp_path / "agreement.svg").stat().st_size > 0


def test_no_row():
    with pytest.raises(ValueError, match="needs at least one row"):
        agreement_figure({})
