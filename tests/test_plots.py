"""The plot of an allocation shows the numbers of its records."""

import io
from itertools import chain, pairwise

import pytest
from matplotlib.image import imread
from problems_runs import some_record

from dsa_core.errors import ConfigError
from dsa_core.lab.plots import COLOURS, allocation_figure, label, png
from dsa_core.lab.record import GroupRecord


def groups(n: int, kept: int = 5) -> tuple[GroupRecord, ...]:
    return tuple(
        GroupRecord(name=f"g{i}", size=16 + i, kept=kept + i, keep_ratio=0.5) for i in range(n)
    )


def bars(figure) -> list[list[float]]:
    """Heights: of the dense bars, then of each run's, all rows one after the other."""
    rows = [[[b.get_height() for b in part] for part in axes.containers] for axes in figure.axes]
    return [list(chain.from_iterable(parts)) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize("n", [1, 10, 11, 53])
def test_heights_are_the_channels_kept(n):
    records = [some_record(groups=groups(n, kept)) for kept in (5, 7)]
    figure = allocation_figure(records)
    dense, first, second = bars(figure)
    assert dense == [16 + i for i in range(n)]
    assert first == [5 + i for i in range(n)]
    assert second == [7 + i for i in range(n)]
    names = [t.get_text() for axes in figure.axes for t in axes.get_xticklabels()]
    assert names == [f"g{i}" for i in range(n)]
    assert len(figure.axes) == -(-n // 10)
    labels = {t.get_text() for axes in figure.axes for t in axes.texts}
    assert labels == {str(k + i) for k in (5, 7) for i in range(n)}


def test_words():
    records = [some_record(), some_record(method="uniform", seed=3)]
    figure = allocation_figure(records)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "resnet20 on cifar10, 50 % of the MACs asked"
    (both,) = allocation_figure([some_record(also_asked={"params": 0.1})]).legends
    assert "50 % of the MACs and 10 % of the parameters asked" in both.get_title().get_text()
    assert [t.get_text() for t in legend.get_texts()] == [
        "dense",
        "dsa, seed 0: 50.0 % MACs, 88.00 % accuracy",
        "uniform, seed 3: 50.0 % MACs, 88.00 % accuracy",
    ]
    assert label(some_record(resource="params")).startswith("dsa, seed 0: 40.0 % parameters")
    assert figure.axes[0].get_ylabel() == "channels kept"


def test_bars_of_a_group_stand_beside_each_other():
    figure = allocation_figure([some_record() for _ in range(7)])
    dense, *runs = figure.axes[0].containers
    edges = [(b.get_x(), b.get_x() + b.get_width()) for b in (run[0] for run in runs)]
    assert all(a[1] <= b[0] for a, b in pairwise(edges))
    assert dense[0].get_x() <= edges[0][0]
    assert edges[-1][1] <= dense[0].get_x() + dense[0].get_width()
    assert len({run[0].get_facecolor() for run in runs}) == len(COLOURS)


def test_a_png_of_readable_width():
    image = imread(io.BytesIO(png(allocation_figure([some_record(groups=groups(30))]), dpi=100)))
    assert image.shape[1] == 800
    assert tuple(image[0, 0, :3]) == (1, 1, 1)  # white, not transparent


def test_errors():
    with pytest.raises(ConfigError, match="no run to draw"):
        allocation_figure([])
    with pytest.raises(
        ConfigError, match=r"resnet56 \(dsa\) and resnet20 \(dsa\).*draw them separately"
    ):
        allocation_figure([some_record(), some_record(model="resnet56", groups=groups(3))])
