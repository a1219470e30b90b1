"""Widgets of the notebooks: pure functions from a state to data, and thin shells that show it.

`read_networks` and `look` need no Jupyter; `BudgetExplorer` and `RunPanel` are ipywidgets.
"""

from course.widgets.explore import State, View, look
from course.widgets.explorer import BudgetExplorer
from course.widgets.live import LiveJob, LiveResult, Progress, prune_live
from course.widgets.networks import Network, read_networks
from course.widgets.page import LABELS
from course.widgets.run_panel import RunPanel
