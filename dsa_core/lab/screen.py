"""The console for tables."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 220  # columns when the output goes to a file or a pipe


def console() -> "Console":
    """A console that does not fold tables when the output is not a terminal."""
    from rich.console import Console  # a fifth of the time of `dsa --help`

    return Console() if sys.stdout.isatty() else Console(width=WIDE)
