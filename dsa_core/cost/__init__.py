"""What a network costs as a function of its keep ratios, and the budget it must meet."""

from dsa_core.cost.budget import NANOSECONDS, Budget, round_to_channels
from dsa_core.cost.form import Cost, QuadraticForm, Resource, macs_form, params_form

__all__ = [
    "NANOSECONDS",
    "Budget",
    "Cost",
    "QuadraticForm",
    "Resource",
    "macs_form",
    "params_form",
    "round_to_channels",
]
