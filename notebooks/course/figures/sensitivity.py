"""Does an allocation make sense: groups by role, and two rankings against each other."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dsa_core.errors import ConfigError
from dsa_core.lab.plots.style import COLOURS, blank_figure, open_axes

ROLE_COLOURS = {
    "stem": COLOURS[5],
    "shortcut": COLOURS[0],
    "strided": COLOURS[1],
    "inner": COLOURS[2],
}


def groups_figure(
    names: Sequence[str],
    roles: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Several quantities of the same groups, one panel above another, coloured by role.

    Args:
        names: of the groups.
        roles: of each group: stem, shortcut, strided or inner.
        rows: label with unit -> one value a group.
        errors: label -> half the length of an error bar for each group.

    Raises:
        ConfigError: a row has another length, or a role is unknown.
    """
    unknown = sorted(set(roles) - set(ROLE_COLOURS))
    if unknown or any(len(values) != len(names) for values in (roles, *rows.values())):
        raise ConfigError(
            f"wanted one value and one role ({', '.join(ROLE_COLOURS)}) for each of {len(names)} "
            f"groups; unknown roles: {unknown or 'none'}"
        )
    figure = blank_figure(max(6.5, 0.55 * len(names) + 2.0), 1.2 + 1.7 * len(rows))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(panels, rows.items(), strict=True):
        bars = (errors or {}).get(label)
        axes.bar(range(len(names)), values, color=[ROLE_COLOURS[r] for r in roles], yerr=bars)
        axes.axhline(0, color="#333333", linewidth=0.6)
        axes.set_ylabel(label, fontsize=8)
        open_axes(axes)
    patches = [Patch(color=ROLE_COLOURS[role], label=role) for role in dict.fromkeys(roles)]
    panels[0].legend(
        handles=patches, frameon=False, fontsize=8, ncols=4, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    panels[-1].set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    panels[-1].set_xlabel("channel group, named by its first layer")
    return figure


def agreement_figure(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    names: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """Two quantities of the same groups against each other, one panel for each pair.

    Args:
        pairs: title -> (values along x, values along y), one a group.
        names: of the groups; short ones are readable.
        xlabel, ylabel: with the unit.
        log: whether both axes are logarithmic; a group with a value <= 0 is then not drawn.
    """
    figure = blank_figure(max(4.5, 3.7 * len(pairs)), 3.6)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (title, (x, y)) in zip(panels, pairs.items(), strict=True):
        shown = [t for t in zip(x, y, names, strict=True) if not log or min(t[:2]) > 0]
        draw_agreement(axes, shown)
        if log and shown:  # an axis without a positive value has no logarithm
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(xlabel)
    panels[0].set_ylabel(ylabel)
    return figure


def draw_agreement(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw one dot for each group (x, y, name), with its name."""
    axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=COLOURS[0])
    for x, y, name in points:
        axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.margins(0.12)
    open_axes(axes)
