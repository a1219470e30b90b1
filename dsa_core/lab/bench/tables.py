"""Tables of `dsa bench MODEL` and `dsa bench --profile`."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from dsa_core.lab.bench.networks import Pair, Row
from dsa_core.lab.bench.profile import Share


def latency_table(pair: Pair, rows: Iterable[Row]) -> Table:
    """Dense and pruned latency and throughput, a row for each batch and format."""
    title = f"{pair.name}: MACs / {pair.mac_reduction:.3f}, uniform, widths of {pair.divisor}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("batch", "format", "threads", "n"):
        table.add_column(name)
    for name in ("dense ms", "pruned ms", "dense /s", "pruned /s", "faster", "of the MACs'"):
        table.add_column(name, justify="right")
    for row in rows:
        dense, pruned = row.dense, row.pruned
        words = [dense.precision, "channels_last" * dense.channels_last, row.how]
        table.add_row(
            str(dense.batch),
            " ".join(word for word in words if word),
            str(dense.threads),
            str(dense.repeats),
            f"{dense.median_ms:.2f}",
            f"{pruned.median_ms:.2f}",
            f"{dense.per_second:.0f}",
            f"{pruned.per_second:.0f}",
            f"{row.speedup.median:.2f}",
            f"{row.over_macs.median:.2f}",
        )
    return table


def profile_table(name: str, rows: Sequence[Share]) -> Table:
    """Where the time of a search goes."""
    table = Table(title=f"{name}: steps of a search", title_justify="left", box=None)
    table.add_column("part")
    for column in ("calls", "ms a call", "share"):
        table.add_column(column, justify="right")
    for row in rows:
        each = f"{row.ms / row.calls:.3f}" if row.calls else "-"
        table.add_row(row.part, str(row.calls), each, f"{row.share:.2%}")
    return table
