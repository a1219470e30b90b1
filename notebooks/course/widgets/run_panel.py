"""A Run button that trains in a thread, so that Stop is heard while it does."""

import threading
from collections.abc import Callable
from dataclasses import replace

from ipywidgets import HTML, Button, Dropdown, FloatProgress, HBox, Layout, VBox

from course.notebook import shown
from course.widgets.explore import State
from course.widgets.live import NETWORK, LiveJob, LiveResult, Progress, prune_live
from course.widgets.page import STYLE, live_page

NOTE = f"Run trains {NETWORK} and prunes it to the budget and limits set above, in seconds."
CANNOT = (
    f"Run cannot train this network, which takes minutes to hours: choose {NETWORK}, or give the "
    "command under Take it away."
)
STOPPED = "stopped; nothing was kept"


class RunPanel(VBox):
    """Run, Stop, a bar of progress, and what came out.

    Attributes:
        run, stop: buttons; only one of them can be pressed at a time.
        bar, status: how far it is; status is text for people.
        sheet: an HTML widget with the result; problem: what went wrong, empty if nothing did.
        thread: of the last run; result: of the last that was not stopped; None before.

    Args:
        state: what the controls say.
        job: how long to train.
        network: the control that chooses a network; on another than `NETWORK` Run says that it
            cannot.
    """

    def __init__(
        self,
        state: Callable[[], State],
        job: LiveJob | None = None,
        *,
        network: Dropdown,
    ) -> None:
        self._state, self._job = state, job or LiveJob()
        self._halt = threading.Event()
        self.thread: threading.Thread | None = None
        self.result: LiveResult | None = None
        self.run = Button(description="Run", icon="play", button_style="primary")
        self.stop = Button(description="Stop", icon="stop", disabled=True)
        self.bar = FloatProgress(value=0.0, min=0.0, max=1.0, layout=Layout(width="240px"))
        self.status, self.sheet, self.problem = HTML(NOTE), HTML(), HTML()
        buttons = HBox([self.run, self.stop, self.bar])
        super().__init__([HTML(STYLE), buttons, self.status, self.problem, self.sheet])
        self._network = network
        network.observe(lambda _: self._take_network(), names="value")
        self._take_network()
        self.run.on_click(lambda _: self.begin())
        self.stop.on_click(lambda _: self._halt.set())

    def _take_network(self) -> None:
        """Say whether Run works on the chosen network, unless a run is going."""
        if self.stop.disabled:
            self._offer(going=False)
            self.status.value = CANNOT if self.run.disabled else NOTE

    def _offer(self, *, going: bool) -> None:
        """Only one of the buttons can be pressed, and Run only where it works."""
        works = self._network.value.startswith(NETWORK)
        self.run.disabled, self.stop.disabled = going or not works, not going

    def begin(self) -> None:
        """Start a run in its thread, unless one is going."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._halt.clear()
        self._offer(going=True)
        self.sheet.value = ""
        job = replace(self._job, state=self._state())
        self.thread = threading.Thread(target=self._work, args=(job,), daemon=True)
        self.thread.start()

    def _work(self, job: LiveJob) -> None:
        try:
            with shown(self.problem):
                self._finish(prune_live(job, report=self._report, stop=self._halt.is_set))
        finally:
            if self.problem.value:
                self.status.value = "failed"
            self._offer(going=False)

    def _report(self, progress: Progress) -> None:
        self.bar.value = progress.done
        self.status.value = f"{progress.phase}: {progress.done:.0%}"

    def _finish(self, result: LiveResult | None) -> None:
        if result is None:
            self.status.value = STOPPED
            return
        self.result, self.bar.value = result, 1.0
        self.status.value = "done"
        self.sheet.value = live_page(result)

    def __repr__(self) -> str:
        return "(Run and Stop; run this notebook to press them)"
