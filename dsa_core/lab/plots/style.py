"""Shared by all figures: colours, a blank figure without pyplot state, PNG bytes."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes a second to load, and who needs the colours alone does without
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for colour-blind readers
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
DENSE = "#BBBBBB"
METHODS = ("dsa", "uniform", "dcss", "dtp", "ssl", "morphnet", "amc")  # in order of `COLOURS`
INK = "#333333"


def blank_figure(width: float, height: float) -> "Figure":
    """Make an empty white figure of a size in inches, with constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def open_axes(axes: "Axes") -> None:
    """Hide the upper and right edges of the box."""
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: "Figure", *, dpi: int = 140) -> bytes:
    """The figure as PNG bytes, on white so that it is legible in dark mode too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
