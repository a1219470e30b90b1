"""The cost of a network as a function of its keep ratios, and optimizers that meet a budget.

`form.py` has the cost, `surface.py` the budget surface, `priced.py` (default) and `paper.py` the
optimizers that land on it.
"""

from typing import Any

import torch
from torch import Tensor

from dsa_core.budget.base import KeepRatioOptimizer, Residuals
from dsa_core.budget.budget import NS_PER_MS, Budget, as_budget
from dsa_core.budget.form import Cost, QuadraticForm, Resource, macs_form, params_form
from dsa_core.budget.paper import Paper, PaperSettings
from dsa_core.budget.priced import Priced, PricedSettings
from dsa_core.budget.rounding import round_to_channels
from dsa_core.budget.schedules import budget_at, sharpness_at, step_scale_at
from dsa_core.budget.surface import (
    Costs,
    check_budget,
    metric,
    prices,
    shift_to_budget,
    shift_to_budgets,
    uniform_ratio,
)
from dsa_core.errors import ConfigError, nearest


def make_optimizer(
    name: str,
    costs: Costs,
    *,
    floors: Tensor,
    start: Tensor | None = None,
    settings: PricedSettings | PaperSettings | None = None,
) -> KeepRatioOptimizer:
    """Build an optimizer of keep ratios.

    Args:
        name: "priced" (the default of this library) or "paper".
        costs: the form F, F(1) = 1, or several of them; called with float64.
        floors: lowest keep ratio of each group, shape (K,), in (0, 1]; for one channel of C, 1 / C.
        start: first keep ratios, shape (K,), in (0, 1], raised to the floors; None for the dense
            network.
        settings: `PricedSettings` or `PaperSettings`, to match the name; None for the defaults.

    Raises:
        ConfigError: the name is unknown, or the settings are the other optimizer's.
        ValueError: floors or start are out of range or of the wrong shape.
    """
    floors = _ratios("floors", floors, floors.shape)
    start = torch.ones_like(floors) if start is None else _ratios("start", start, floors.shape)
    known: dict[str, tuple[Any, Any]] = {
        "priced": (Priced, PricedSettings),
        "paper": (Paper, PaperSettings),
    }
    if name not in known:
        raise ConfigError(f"name: unknown optimizer {name!r}{nearest(name, known)}")
    kind, wanted = known[name]
    settings = wanted() if settings is None else settings
    if not isinstance(settings, wanted):
        raise ConfigError(f"settings: {type(settings).__name__} does not belong to {name!r}")
    made: KeepRatioOptimizer = kind(costs, floors=floors, start=start, settings=settings)
    return made


def _ratios(name: str, values: Tensor, shape: torch.Size) -> Tensor:
    """Return ratios as float64, shape (K,), or raise ValueError."""
    values = values.detach().to(torch.float64)
    if values.shape != shape or values.ndim != 1 or values.numel() == 0:
        raise ValueError(
            f"{name}: wanted one ratio a group, shape {tuple(shape)}, got {tuple(values.shape)}"
        )
    if not bool(((values > 0) & (values <= 1)).all()):
        raise ValueError(f"{name}: wanted ratios in (0, 1], got {values.tolist()}")
    return values.clone()
