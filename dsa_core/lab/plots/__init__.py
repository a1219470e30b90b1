"""Figures from data: pure functions that return a matplotlib `Figure`; one family a file."""

from dsa_core.lab.plots.allocation import allocation_figure, label
from dsa_core.lab.plots.style import COLOURS, DENSE, blank_figure, open_axes, png
