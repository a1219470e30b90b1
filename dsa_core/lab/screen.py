"""Where tables are printed."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 220  # columns of a table that goes to a file or a pipe


def console() -> "Console":
    """A console that does not fold tables when nobody looks."""
    from rich.console import Console  # a fifth of the time that `dsa --help` would take

    return Console() if sys.stdout.isatty() else Console(width=WIDE)
