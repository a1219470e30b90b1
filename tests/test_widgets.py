"""The explorer and the live run: what they compute, and that the controls are wired to it."""

import json
import re
import shlex
import threading
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
from course.notebook import Session
from course.widgets import (
    BudgetExplorer,
    LiveJob,
    Network,
    Progress,
    RunPanel,
    State,
    look,
    networks,
    page,
    prune_live,
    read_networks,
    run_panel,
)
from course.widgets.explore import answer
from course.widgets.networks import STORED, costs_of, passed, traced_costs
from ipywidgets import Dropdown
from problems_runs import found, graph8, some_record
from typer.main import get_command

from dsa_core.budget import Budget, Cost
from dsa_core.errors import BudgetError, ConfigError
from dsa_core.lab.cli import app
from dsa_core.lab.options import parse_changes
from dsa_core.lab.record import CostRecord, GroupRecord
from dsa_core.lab.record_files import write_record
from dsa_core.lab.runs.changes import named
from dsa_core.lab.runs.history import history_of, search_record
from dsa_core.surgery.verify import count_macs

ROOT = Path(__file__).resolve().parents[1]
COSTS = {resource: Cost.of(graph8(), resource) for resource in ("macs", "params")}
NAME = "resnet8 on digits, quick"


def put(folder: Path, method: str, ratio: float, score: float = 0.9, seed: int = 0) -> None:
    """Write a run as `dsa run` does: the search of a test, read at a budget."""
    allocation = found(method).at(macs=ratio)
    counts, ratios = allocation.counts, allocation.keep_ratios
    names, sizes = COSTS["macs"].names, COSTS["macs"].sizes.tolist()
    groups = zip(names, sizes, counts.tolist(), ratios.tolist(), strict=True)
    record = some_record(
        method=method,
        model="resnet8",
        dataset="digits",
        preset="quick",
        seed=seed,
        asked_ratio=ratio,
        groups=tuple(GroupRecord(name=n, size=s, kept=k, keep_ratio=a) for n, s, k, a in groups),
        costs={
            r: CostRecord(
                dense=c.dense,
                asked_ratio=ratio if r == "macs" else None,
                relaxed_ratio=allocation.relaxed_cost(r),
                whole=c.at(counts),
                counted=c.at(counts),
            )
            for r, c in COSTS.items()
        },
        scores=some_record().scores.model_copy(update={"fine_tuned": score}),
        search=search_record(history_of(allocation), allocation.graph),
    )
    write_record(folder / f"{method}-{ratio}-{seed}", record)


def change(path: Path, **changes: object) -> None:
    """Write other values into a record, as an older or another program would have them."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for method in ("dsa", "uniform"):
        put(folder, method, 0.5, score=0.8)
        put(folder, method, 0.75, score=0.9)
    return folder


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    return read_networks(folder)[NAME]


@pytest.mark.parametrize("model", ["resnet8", "resnet20_a", "resnet56_a", "vit_digits"])
def test_stored_costs_are_those_of_the_network(model: str) -> None:
    if model == "vit_digits":
        pytest.importorskip("timm", reason="timm is not installed")
    assert model in json.loads(STORED.read_text())
    torch.manual_seed(5)
    wanted, stored = torch.rand(3), costs_of(model)
    torch.manual_seed(5)
    traced = traced_costs(model)
    assert torch.equal(torch.rand(3), wanted)  # the generator is left alone
    for resource, cost in traced.items():
        assert stored[resource].checksum == cost.checksum
        assert torch.equal(stored[resource].sizes, cost.sizes)


def test_costs_of_a_network_that_is_not_stored_are_traced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(networks, "STORED", tmp_path / "costs.json")
    networks.costs_of.cache_clear()
    assert networks.costs_of("resnet8")["macs"].checksum == COSTS["macs"].checksum
    networks.costs_of.cache_clear()


def test_a_folder_without_records_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dsa run --out"):
        read_networks(tmp_path)
    with pytest.raises(ConfigError, match="read_networks"):
        BudgetExplorer({})


def test_a_record_of_another_network_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "dsa", 0.5)
    path = next(tmp_path.rglob("record.json"))
    costs = json.loads(path.read_text())["costs"]
    costs["macs"]["dense"] += 1
    change(path, costs=costs)
    (other,) = read_networks(tmp_path).values()
    with pytest.raises(ConfigError, match="made with other classes"):
        _ = other.costs


@pytest.mark.parametrize("other", [{"score_name": "PSNR"}, {"method": "dtp-weight"}])
def test_runs_without_accuracy_or_widths_are_passed_over(other, tmp_path: Path) -> None:
    put(tmp_path, "dsa", 0.5)
    change(next(tmp_path.rglob("record.json")), **other)
    with pytest.raises(ConfigError, match="dsa run --out"):
        read_networks(tmp_path)


def test_shipped_records_of_all_methods_answer_every_budget_down_to_a_quarter() -> None:
    data = ROOT / "data"
    here = Session(ROOT, data, data / "records", ROOT / "runs", torch.device("cpu"), 0)
    shown = read_networks(*here.campaigns)
    assert not [name for name in shown if "=" in name]  # no trials of changed settings
    shipped = shown[NAME]
    assert set(shipped.searches) == {"amc", "dcss", "dsa", "dtp", "morphnet", "ssl", "uniform"}
    for method in shipped.searches:
        assert {r.asked_ratio for r in shipped.searches[method]} == {0.25, 0.5, 0.75}
        pathless = len(passed(shipped.searches[method][0])) == 1
        assert pathless == (method in ("amc", "ssl", "morphnet"))
        for ratio in (0.25, 0.5, 0.75, *(() if pathless else (0.3, 0.66, 0.9, 1.0))):
            view = look(shipped, State(method=method, ratio=ratio))
            assert view.used["macs"].ratio <= ratio + 1e-9
            assert view.measured == (ratio in (0.25, 0.5, 0.75))
            assert view.measured or view.predicted is not None
    for network in shown.values():  # whatever is shipped agrees with itself
        for s in network.records:
            if s.divisor == 1 and not s.floors:
                view = look(network, State(s.method, s.resource, s.asked_ratio))
                assert view.used[s.resource].ratio <= s.asked_ratio + 1e-9
                assert view.measured


def test_at_its_own_budget_a_search_gives_its_own_answer(network: Network) -> None:
    assert list(network.searches) == ["dsa", "uniform"]
    assert [r.asked_ratio for r in network.searches["dsa"]] == [0.5, 0.75]
    for record in network.searches["dsa"]:
        view = look(network, State(ratio=record.asked_ratio))
        assert view.counts == tuple(g.kept for g in record.groups)
        assert view.measured
        assert view.record is record
        assert view.used["macs"].kept == record.costs["macs"].counted
        assert view.predicted is None


@pytest.mark.parametrize("ratio", [0.55, 0.7, 0.83, 0.99])
@pytest.mark.parametrize("resource", ["macs", "params"])
def test_any_budget_is_what_allocation_at_says(network: Network, ratio, resource) -> None:
    view = look(network, State(resource=resource, ratio=ratio))
    if resource == "params" or ratio < 0.75:  # read from the search that went to one half
        wanted = found("dsa").at(**{resource: ratio}).counts
        # six digits of a history move a ratio by 1e-6: a channel here or there
        assert (torch.tensor(view.counts) - wanted).abs().max() <= 1
    assert view.used[resource].ratio <= ratio
    assert not view.measured


def test_the_score_lies_between_the_measured_ones_on_the_path_of_the_search(network) -> None:
    view = look(network, State(ratio=0.6))
    low, high = (look(network, State(ratio=r)).used["macs"].ratio for r in (0.5, 0.75))
    t = (view.used["macs"].ratio - low) / (high - low)
    assert view.predicted is not None
    assert view.predicted.score == pytest.approx(0.8 + 0.1 * t)
    for off in ({"divisor": 8}, {"floor": 0.25}, {"floors": {"conv1": 1.0}}):
        view = look(network, State(ratio=0.6, **off))
        assert (view.measured, view.predicted) == (False, None)


def test_divisor_and_floors_hold(network: Network) -> None:
    floors = {COSTS["macs"].names[0]: 1.0}
    state = State(ratio=0.6, divisor=8, floor=0.25, floors=floors)
    assert state.budget == Budget(macs=0.6, divisor=8, floors={"*": 0.25, **floors})
    view = look(network, state)
    pairs = list(zip(view.counts, view.sizes, strict=True))
    assert all(k % 8 == 0 for k, _ in pairs)
    assert all(k >= 0.25 * n for k, n in pairs)
    assert view.counts[0] == view.sizes[0]
    assert view.used["macs"].ratio <= 0.6


def test_what_cannot_be_answered_says_so(network: Network) -> None:
    with pytest.raises(BudgetError, match="floors"):
        look(network, State(ratio=0.5, floor=0.9))
    with pytest.raises(BudgetError, match="below what this search passed"):
        look(network, State(ratio=0.3))
    with pytest.raises(ConfigError, match="did you mean 'dsa'"):
        look(network, State(method="dsb"))


@pytest.fixture
def explorer(network: Network) -> BudgetExplorer:
    return BudgetExplorer({NAME: network}, ratio=0.6)


def test_the_page_shows_what_look_finds(explorer: BudgetExplorer) -> None:
    view = look(explorer.networks[NAME], explorer.state)
    text = explorer.sheet.value
    for name, size, count in zip(view.names, view.sizes, view.counts, strict=True):
        assert f'data-group="{name}" data-kept="{count}"' in text
        assert f"{name}: {count} of {size} channels" in text
    assert f"{view.used['macs'].ratio:.1%}</b> {view.used['macs'].kept:,}" in text
    assert f"{COSTS['macs'].dense:,}" in text
    assert f"{view.predicted.score:.1%}" in text
    assert "between two measured budgets" in text


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("budget", 70.0),
        ("resource", "params"),
        ("method", "uniform"),
        ("rival", "nothing"),
        ("divisor", 8),
        ("protect", "layer1.0.conv1"),
    ],
)
def test_every_control_redraws(explorer: BudgetExplorer, control: str, value: object) -> None:
    before = explorer.sheet.value
    getattr(explorer, control).value = value
    assert explorer.problem.value == ""
    assert explorer.sheet.value != before


@pytest.mark.parametrize(
    ("ratio", "says", "mark"),
    [(0.5, "measured, seed 0", "measured"), (0.6, "on the line", "guess")],
)
def test_the_page_says_how_a_score_is_known(network: Network, ratio, says, mark) -> None:
    explorer = BudgetExplorer({NAME: network}, ratio=ratio)
    assert says in explorer.sheet.value
    assert re.findall(r'data-mark="(\w+)"', explorer.sheet.value) == [mark, mark]
    hollow = re.findall(r'data-mark[^>]*fill="none"', explorer.sheet.value)
    assert bool(hollow) == (mark == "guess")
    assert ("ms</span>" in explorer.sheet.value) == (mark == "measured")  # latency, likewise
    explorer.divisor.value = 8
    assert explorer.sheet.value.count("<td>not measured</td>") == 4  # latency, score of two methods
    assert "data-mark" not in explorer.sheet.value


def test_all_seeds_of_a_budget_are_told(tmp_path: Path) -> None:
    for seed, score in enumerate((0.8, 0.82)):
        put(tmp_path, "dsa", 0.5, score=score, seed=seed)
    explorer = BudgetExplorer(read_networks(tmp_path))
    spread = 0.02 / 2**0.5
    assert f"its 2 seeds: 81.00% ± {spread:.2%}" in explorer.sheet.value
    assert explorer.rival.value == "nothing"
    for seed, other in enumerate(({"series": "another"}, {"device": "another"}), start=2):
        put(tmp_path, "dsa", 0.5, score=0.5, seed=seed)
        change(tmp_path / f"dsa-0.5-{seed}" / "record.json", **other)
    assert "its 2 seeds: 81.00%" in BudgetExplorer(read_networks(tmp_path)).sheet.value


def test_a_method_without_a_path_says_so_beside_the_answer_of_another(tmp_path: Path) -> None:
    for method in ("dsa", "ssl"):
        put(tmp_path, method, 0.5)
    change(next(tmp_path.glob("ssl*/record.json")), search=None)
    explorer = BudgetExplorer(read_networks(tmp_path), ratio=0.6)
    assert explorer.rival.value == "ssl"
    says = "ssl followed no falling budget: it answers only what it was asked, 50.0% of the MACs"
    assert says in explorer.sheet.value
    assert "channels kept by dsa" in explorer.sheet.value
    explorer.budget.value = 50.0
    assert "channels kept by ssl" in explorer.sheet.value
    assert "pale: other methods" not in explorer.sheet.value
    explorer.rival.value = "nothing"
    assert "pale: other methods" in explorer.sheet.value


def test_a_method_without_a_path_keeps_at_its_own_budget_what_it_kept(tmp_path: Path) -> None:
    put(tmp_path, "dsa", 0.553, score=0.85)
    path = next(tmp_path.rglob("record.json"))
    groups = json.loads(path.read_text())["groups"]
    groups[0] |= {"kept": 1, "keep_ratio": 0.05}  # it came out below its budget
    change(path, method="ssl", search=None, groups=groups)
    explorer = BudgetExplorer(read_networks(tmp_path), ratio=0.553)
    assert "85.00%</b> measured, seed 0" in explorer.sheet.value
    counts = look(explorer.networks[NAME], explorer.state).counts
    assert counts == tuple(group["kept"] for group in groups)
    explorer.divisor.value = 8  # its own are no multiples, and there is nowhere else to read
    assert "with no floor and in multiples of 1" in explorer.sheet.value


def test_an_allocation_can_be_taken_away(explorer: BudgetExplorer) -> None:
    view, text = look(explorer.networks[NAME], explorer.state), unescape(explorer.taken.value)
    given = dict(re.findall(r'data-take="(.*?)">(.*?)</pre>', text, re.DOTALL))
    taken = json.loads(given["The allocation"])
    assert taken["channels"] == dict(zip(view.names, view.counts, strict=True))
    names: dict[str, Any] = {}
    exec(given["Python that prunes with it"], names)
    smaller = count_macs(names["smaller"], torch.zeros(1, 1, 8, 8))
    assert smaller == view.used["macs"].kept
    explorer.floor.value = 20.0
    words = shlex.split(unescape(explorer.taken.value).partition("dsa run ")[2].partition("<")[0])
    asked = get_command(app).commands["run"].make_context("run", words).params
    assert (asked["budget"], asked["floor"]) == (["macs=0.6"], ["*=0.2"])


def test_the_command_of_a_search_has_the_settings_of_its_run(tmp_path: Path) -> None:
    put(tmp_path, "dsa", 0.5)
    changes = {"search.betas": "[0.9, 0.99]", "search.ratio_every": "10"}
    data, config = "folder:my photos", {"weights": 64 * "0"}
    path, preset = next(tmp_path.rglob("record.json")), named("quick", changes)
    change(path, preset=preset, dataset=data, config=config)
    (network,) = read_networks(tmp_path).values()
    command = unescape(page.take_away(answer(network, State())))
    words = shlex.split(command.partition("dsa run ")[2].partition("<")[0])
    asked = get_command(app).commands["run"].make_context("run", words).params
    assert (asked["preset"], asked["dataset"]) == ("quick", data)
    assert parse_changes(asked["set_"]) == changes
    assert asked["weights"] == Path("FILE")


@pytest.mark.parametrize(
    ("control", "value", "says"),
    [("budget", 10.0, "Ask for that or more"), ("floor", 95.0, "cannot be reached")],
)
def test_a_wish_that_cannot_be_met_clears_the_old_answer(explorer, control, value, says) -> None:
    was = getattr(explorer, control).value
    getattr(explorer, control).value = value
    assert explorer.sheet.value.count(says) == 2  # one for each method
    assert explorer.sheet.value.count('role="alert"') == 2
    assert "data-group" not in explorer.sheet.value
    assert explorer.taken.value == ""
    getattr(explorer, control).value = was
    assert "alert" not in explorer.sheet.value
    assert "data-group" in explorer.sheet.value


def test_other_errors_are_shown_and_raised_under_test(explorer, monkeypatch) -> None:
    monkeypatch.setattr("course.widgets.explore.look", Mock(side_effect=ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        explorer.budget.value = 70.0
    assert "ZeroDivisionError: a bug" in explorer.problem.value


def test_another_network_brings_its_own_groups_and_methods(network: Network) -> None:
    other = replace(network, searches={"uniform": network.searches["uniform"]})
    explorer = BudgetExplorer({"a": network, "b": other})
    assert (explorer.method.value, explorer.rival.value) == ("dsa", "uniform")
    explorer.network.value = "b"
    assert (explorer.method.value, explorer.rival.value) == ("uniform", "uniform")
    assert explorer.sheet.value.count("<svg") == 2  # one network, one frontier
    assert explorer.protect.options[1:] == COSTS["macs"].names
    assert explorer.problem.value == ""


def test_a_network_that_cannot_be_built_says_so_and_freezes_nothing(network: Network) -> None:
    other = replace(network, model="my_package.nets:small")
    explorer = BudgetExplorer({"a": network, "b": other})
    explorer.network.value = "b"
    assert "my_package.nets:small" in explorer.problem.value
    assert (explorer.sheet.value, explorer.taken.value) == ("", "")
    explorer.network.value = "a"
    assert explorer.problem.value == ""
    assert "data-group" in explorer.sheet.value


ALONE = Dropdown(options=[NAME])
FLOORS = {"layer9": 1.0}  # of a group that ResNet-8 does not have: left out
SHORT = LiveJob(State(ratio=0.5, floors=FLOORS), dense_epochs=1, search_epochs=1, tune_epochs=1)


def test_a_live_run_meets_its_budget_and_reports_every_phase() -> None:
    heard: list[Progress] = []
    result = prune_live(SHORT, report=heard.append, stop=lambda: False)
    assert result is not None
    assert result.allocation.whole_cost("macs") <= 0.5 * COSTS["macs"].dense
    assert bool((result.allocation.counts > 0).all())
    assert 0.1 < result.tuned <= 1
    done = [p.done for p in heard]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)
    assert len({p.phase for p in heard}) == 3


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_live_run_stops_in_every_phase(share: float) -> None:
    heard = [Progress("", -1.0)]
    result = prune_live(SHORT, report=heard.append, stop=lambda: heard[-1].done >= share)
    assert result is None
    assert heard[-1].done <= share + 0.1


def test_run_and_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()

    def slow(job: LiveJob, *, report, stop):
        report(Progress("searching", 0.25))
        going.set()
        while not stop():
            threading.Event().wait(0.01)

    monkeypatch.setattr(run_panel, "prune_live", slow)
    panel = RunPanel(lambda: State(ratio=0.4), network=ALONE)
    panel.run.click()
    assert going.wait(10)
    assert (panel.run.disabled, panel.stop.disabled) == (True, False)
    assert "searching: 25%" in panel.status.value
    thread = panel.thread
    panel.begin()
    assert panel.thread is thread  # a second run is not begun
    panel.stop.click()
    panel.thread.join(10)
    assert "stopped" in panel.status.value
    assert (panel.run.disabled, panel.stop.disabled) == (False, True)
    assert panel.result is None


def test_run_prunes_to_the_state_of_that_moment() -> None:
    states = iter([State(ratio=0.5), State(ratio=0.3)])
    panel = RunPanel(lambda: next(states), SHORT, network=ALONE)
    for ratio in (0.5, 0.3):
        panel.begin()
        panel.thread.join(120)
        found = panel.result.allocation
        assert 0.8 * ratio < found.whole_ratio("macs") <= ratio
        assert f"{found.whole_cost('macs'):,}" in panel.sheet.value
        assert panel.status.value == "done"


def test_run_says_on_which_network_it_works() -> None:
    choice = Dropdown(options=["resnet20 on cifar10, cpu-short", NAME])
    panel = RunPanel(State, network=choice)
    assert (panel.run.disabled, panel.stop.disabled) == (True, True)
    assert "cannot train this network" in panel.status.value
    choice.value = NAME
    assert not panel.run.disabled
    assert "resnet8 on digits" in panel.status.value
    choice.value = "resnet20 on cifar10, cpu-short"
    assert panel.run.disabled


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State(method="ssl"), "cannot search by ssl"),
        (State(ratio=0.3, floor=1.0), "cannot be reached"),
    ],
)
def test_what_run_cannot_do_is_told_before_training_and_without_a_traceback(state, says) -> None:
    with pytest.raises((BudgetError, ConfigError), match=says):
        prune_live(LiveJob(state), report=pytest.fail, stop=lambda: False)
    panel = RunPanel(lambda: state, network=ALONE)
    panel.begin()
    panel.thread.join(60)
    assert says in panel.problem.value
    assert "Traceback" not in panel.problem.value


def test_an_error_in_the_thread_is_shown(monkeypatch) -> None:
    monkeypatch.setattr(run_panel, "prune_live", Mock(side_effect=ZeroDivisionError("a bug")))
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    panel = RunPanel(State, network=ALONE)
    panel.begin()
    panel.thread.join(10)
    assert "ZeroDivisionError: a bug" in panel.problem.value
    assert panel.status.value == "failed"
    assert not panel.run.disabled


def test_the_explorer_answers_a_slider_without_nagles_delay(monkeypatch):
    channels = pytest.importorskip("jupyter_server.services.kernels.connection.channels")
    from course.prompt_socket import PromptConnection

    order = Mock()
    monkeypatch.setattr(channels.ZMQChannelsWebsocketConnection, "connect", order.connect)
    connection = PromptConnection.__new__(PromptConnection)
    connection._trait_values["websocket_handler"] = order
    connection.connect()
    assert order.mock_calls[:2] == [call.set_nodelay(True), call.connect()]
    assert f"course.prompt_socket.{PromptConnection.__name__}" in (ROOT / "Makefile").read_text()
