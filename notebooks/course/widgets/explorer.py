"""The budget explorer: controls on the left of `look`, its `page` on the right."""

from collections.abc import Mapping
from functools import cache

from ipywidgets import (
    HTML,
    Dropdown,
    FloatSlider,
    HBox,
    Layout,
    SelectionSlider,
    ToggleButtons,
    VBox,
)

from course.widgets.explore import State, look
from course.widgets.guard import shown
from course.widgets.networks import Network
from course.widgets.page import Backdrop, page
from dsa_core.errors import ConfigError

RESOURCES = [("MACs", "macs"), ("parameters", "params")]
DIVISORS = (1, 2, 4, 8, 16)
NONE = "no group"
WIDE = {"description_width": "110px"}


class BudgetExplorer(HBox):
    """Sliders for a budget, and what it leaves of a network.

    Attributes:
        networks: by name, from `read_networks`.
        network, method, resource, budget, divisor, floor, protect: the controls; `wishes` are all
            but the first.
        sheet: an HTML widget with the answer; problem: what went wrong, empty if nothing did.
    """

    def __init__(self, networks: Mapping[str, Network], *, ratio: float = 0.5) -> None:
        if not networks:
            raise ConfigError("networks is empty: read some with read_networks(folder)")
        self.networks = dict(networks)
        self._backdrop = cache(lambda name: Backdrop.of(self.networks[name]))
        self.network = Dropdown(options=list(networks), description="network", style=WIDE)
        self.method = Dropdown(description="method", style=WIDE)
        self.resource = ToggleButtons(
            options=RESOURCES, description="budget in", style={**WIDE, "button_width": "112px"}
        )
        self.budget = percent_slider("budget, %", ratio, low=1.0)
        self.divisor = SelectionSlider(options=DIVISORS, description="multiples of", style=WIDE)
        self.floor = percent_slider("keep at least, %", 0.0, low=0.0)
        self.protect = Dropdown(description="never prune", style=WIDE)
        self.sheet, self.problem = HTML(), HTML()
        self._ready = False  # no answer while several controls change at once
        self.wishes = [self.method, self.resource, self.budget, self.divisor, self.floor]
        self.wishes += [self.protect]
        controls = [self.network, *self.wishes]
        for control in controls:
            control.layout.width = "360px"
        answer = VBox([self.problem, self.sheet], layout=Layout(flex="1 1 480px"))
        super().__init__([VBox(controls), answer], layout=Layout(flex_flow="row wrap"))
        self._take_network()
        self._listen()

    @property
    def state(self) -> State:
        """What the controls say."""
        floors = {} if self.protect.value == NONE else {self.protect.value: 1.0}
        return State(
            method=self.method.value,
            resource=self.resource.value,
            ratio=round(self.budget.value, 1) / 100,
            divisor=self.divisor.value,
            floor=round(self.floor.value) / 100,
            floors=floors,
        )

    def _listen(self) -> None:
        self.network.observe(lambda _: self._take_network(), names="value")
        for control in self.wishes:
            control.observe(lambda _: self.redraw(), names="value")

    def _take_network(self) -> None:
        """Offer the methods and groups of the chosen network."""
        network = self.networks[self.network.value]
        kept, self._ready = self.method.value, False
        self.method.options = list(network.searches)
        self.method.value = kept if kept in network.searches else self.method.options[0]
        self.protect.options = [NONE, *network.costs["macs"].names]
        self.protect.value = NONE
        self._ready = True
        self.redraw()

    def redraw(self) -> None:
        """Show what the controls say; an error is shown, and raised under test."""
        if not self._ready:
            return
        answer = ""  # of a wish that cannot be met nothing old stays in sight
        with shown(self.problem):
            network, state = self.networks[self.network.value], self.state
            answer = page(network, state, look(network, state), self._backdrop(self.network.value))
        self.sheet.value = answer

    def __repr__(self) -> str:
        return f"(the explorer, at {self.budget.value:g} %; run this notebook to move the sliders)"


def percent_slider(description: str, value: float, *, low: float) -> FloatSlider:
    """A slider from `low` to 100 percent, in steps of one, that speaks while it is dragged."""
    return FloatSlider(
        value=100 * value,
        min=low,
        max=100.0,
        step=1.0,
        description=description,
        readout_format=".0f",
        style=WIDE,
    )
