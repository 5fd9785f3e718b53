"""Curves and costs."""

import pytest

from topokd_lib.plotting.runs import pareto_front, plot_curves, plot_pareto


def test_curves_have_a_point_for_each_epoch():
    (axes,) = plot_curves({"a": [50.0, 60.0], "b": [40.0, 45.0, 55.0]}).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn == {"a": ([1, 2], [50.0, 60.0]), "b": ([1, 2, 3], [40.0, 45.0, 55.0])}


def test_front_holds_what_nothing_beats():
    points = {"dear": (9.0, 72.0), "same cost": (2.0, 69.0), "quick": (2.0, 70.0), "beaten": (3.0, 70.0)}
    assert pareto_front(points) == ["quick", "dear"]
    (axes,) = plot_pareto(points, cost="minutes", value="%").axes
    assert list(axes.lines[0].get_xdata()) == [2.0, 9.0]
    assert {text.get_text() for text in axes.texts} == set(points)


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one epoch of each run, got none for: b"):
        plot_curves({"a": [1.0], "b": []})
    with pytest.raises(ValueError, match="got none for: any"):
        plot_curves({})
    with pytest.raises(ValueError, match="at least one method, got none"):
        plot_pareto({}, cost="minutes", value="%")
