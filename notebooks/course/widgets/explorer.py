"""The budget explorer: controls, and the `page` of what they ask for."""

from collections.abc import Mapping
from dataclasses import replace

from ipywidgets import HTML, Accordion, Dropdown, FloatSlider, HBox, ToggleButtons, VBox

from course.notebook import shown
from course.widgets.explore import State, answer
from course.widgets.networks import Network
from course.widgets.page import STYLE, page, take_away
from dsa_core.errors import ConfigError

RESOURCES = [("MACs", "macs"), ("parameters", "params")]
DIVISORS = (1, 2, 4, 8, 16)
NONE, ALONE = "no group", "nothing"
WIDE = {"description_width": "112px"}


class BudgetExplorer(HBox):
    """Sliders for a budget, and what it leaves of a network.

    Attributes:
        networks: by name, from `read_networks`.
        network, method, rival, resource, budget, divisor, floor, protect: the controls; `wishes`
            are all but the first. The rival is a second method under the same wishes.
        sheet: an HTML widget with the answer; problem: what went wrong, empty if nothing did.
        taken: an HTML widget with what to take away, folded.
    """

    def __init__(self, networks: Mapping[str, Network], *, ratio: float = 0.5) -> None:
        if not networks:
            raise ConfigError("networks is empty: read some with read_networks(folder)")
        self.networks = dict(networks)
        self.network = Dropdown(options=list(networks), description="network", style=WIDE)
        self.method = Dropdown(description="method", style=WIDE)
        self.rival = Dropdown(description="beside it", style=WIDE)
        self.resource = ToggleButtons(
            options=RESOURCES, description="budget in", style={**WIDE, "button_width": "112px"}
        )
        self.budget = percent_slider("budget, %", ratio, low=1.0)
        self.divisor = Dropdown(options=DIVISORS, description="multiples of", style=WIDE)
        self.floor = percent_slider("keep at least, %", 0.0, low=0.0)
        self.protect = Dropdown(description="never prune", style=WIDE)
        self.sheet, self.problem, self.taken = HTML(), HTML(), HTML()
        self._ready = False  # no answer while several controls change at once
        self.wishes = [self.method, self.rival, self.resource, self.budget, self.divisor]
        self.wishes += [self.floor, self.protect]
        controls = VBox([self.network, *self.wishes]).add_class("dsa-controls")
        fold = Accordion([self.taken], titles=["Take it away"])
        shows = VBox([self.problem, self.sheet, fold]).add_class("dsa-answer")
        super().__init__([HTML(STYLE), controls, shows])
        self.add_class("dsa-explorer")
        self._take_network()
        self._listen()

    @property
    def state(self) -> State:
        """What the controls say."""
        floors = {} if self.protect.value == NONE else {self.protect.value: 1.0}
        return State(
            method=self.method.value,
            resource=self.resource.value,
            ratio=round(self.budget.value / 100, 3),
            divisor=self.divisor.value,
            floor=round(self.floor.value) / 100,
            floors=floors,
        )

    def _listen(self) -> None:
        self.network.observe(lambda _: self._take_network(), names="value")
        for control in self.wishes:
            control.observe(lambda _: self.redraw(), names="value")

    def _take_network(self) -> None:
        """Offer the methods and groups of the chosen network; if it cannot be built, say why."""
        network, self._ready = self.networks[self.network.value], False
        self.sheet.value = self.taken.value = ""
        names: tuple[str, ...] = ()
        with shown(self.problem):
            names = network.costs["macs"].names
        methods = list(network.searches)
        offer(self.method, methods, methods[0])
        offer(self.rival, [ALONE, *methods], methods[1] if len(methods) > 1 else ALONE)
        self.protect.options = [NONE, *names]
        self.protect.value = NONE
        self._ready = bool(names)
        self.redraw()

    def redraw(self) -> None:
        """Show what the controls say; an error is shown, and raised under test."""
        if not self._ready:
            return
        sheet = taken = ""  # of what went wrong nothing old stays in sight
        with shown(self.problem):
            network, state = self.networks[self.network.value], self.state
            states = [state, replace(state, method=self.rival.value)]
            if self.rival.value in (ALONE, state.method):
                states.pop()
            answers = [answer(network, each) for each in states]
            sheet, taken = page(network, answers), take_away(answers[0])
        self.sheet.value, self.taken.value = sheet, taken

    def __repr__(self) -> str:
        return f"(the explorer, at {self.budget.value:g} %; run this notebook to move the sliders)"


def offer(control: Dropdown, options: list[str], default: str) -> None:
    """Change the options, and keep what was chosen if it is still there."""
    kept = control.value if control.value in options else default
    control.options = options
    control.value = kept


def percent_slider(description: str, value: float, *, low: float) -> FloatSlider:
    """A slider from `low` to 100 percent, in steps of one, that speaks while it is dragged.

    A number typed beside it may have a decimal: 33.3.
    """
    return FloatSlider(
        value=100 * value,
        min=low,
        max=100.0,
        step=1.0,
        description=description,
        readout_format=".1f",
        style=WIDE,
    )
