"""Widgets of the notebooks: pure functions from a state to data, and thin shells that show it.

`read_shelf` and `look` need no Jupyter; `BudgetExplorer` and `RunPanel` are ipywidgets.
"""

from course.widgets.explore import State, View, look, lowest_ratio
from course.widgets.explorer import BudgetExplorer
from course.widgets.live import LiveJob, LiveResult, Progress, prune_live
from course.widgets.run_panel import RunPanel
from course.widgets.shelf import Network, Search, read_shelf

__all__ = [
    "BudgetExplorer",
    "LiveJob",
    "LiveResult",
    "Network",
    "Progress",
    "RunPanel",
    "Search",
    "State",
    "View",
    "look",
    "lowest_ratio",
    "prune_live",
    "read_shelf",
]
