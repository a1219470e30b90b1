"""Errors of a callback: they would vanish without a word, so they are shown in the panel."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

from ipywidgets import HTML

from dsa_core.errors import BudgetError, ConfigError

NOTE = "max-width:800px;padding:8px;border-left:4px solid #D55E00"


@contextmanager
def shown(problem: HTML) -> Iterator[None]:
    """Run a block of a callback, and show in `problem` what it raises.

    What cannot be had is an answer: its message is shown and nothing is raised. Any other error is
    shown with its traceback, and raised again under test.
    """
    try:
        yield
        problem.value = ""
    except (BudgetError, ConfigError) as error:
        problem.value = f'<div role="alert" style="{NOTE}">{escape(str(error))}</div>'
    except Exception:
        text = escape(traceback.format_exc())
        problem.value = f'<div role="alert" style="{NOTE}"><pre>{text}</pre></div>'
        if under_test():
            raise


def under_test() -> bool:
    """Whether pytest is running."""
    return "PYTEST_CURRENT_TEST" in os.environ
