"""DTP on single weights: exactly the asked number stays, zeros stay zero, the record says so."""

from functools import cache

import pytest
import torch
from problems_runs import allocate, fresh, graph8, search_config, tiny_run, trained
from torch import nn

from dsa_core.budget import Budget, Cost
from dsa_core.errors import BudgetError, ConfigError
from dsa_core.lab.runs import run
from dsa_core.masked_weights import MaskedWeights
from dsa_core.methods import DTP, Allocation, DTPWeight
from dsa_core.methods.dtp_weight import WeightScheme, nonzero_macs
from dsa_core.scheme import Problem
from dsa_core.surgery.sparse import load_sparse, zero_weights
from dsa_core.tracing import trace

PLANS = ("closed", "proximal")
TOTAL = sum(p.numel() for p in fresh().parameters())


@cache
def found(ratio: float, plan: str = "closed", **own) -> Allocation:
    config = search_config(dtp=DTP(plan=plan, **own))
    return allocate("dtp-weight", trained(), Budget(params=ratio), config)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.0371])
def test_exactly_as_many_stay_as_were_asked_for(plan, ratio):
    allocation = found(ratio, plan)
    wanted = int(ratio * TOTAL + 1e-9)  # biases and BatchNorm count, and stay
    assert allocation.whole_cost("params") == wanted
    assert allocation.met
    assert allocation.relaxed_cost("params") == pytest.approx(wanted / TOTAL, abs=1e-12)
    ones = trained()
    for p in ones.parameters():
        p.data.fill_(1.0)
    cut = zero_weights(ones, allocation.weight_mask)
    assert sum(int((p != 0).sum()) for p in cut.parameters()) == wanted


def test_channels_and_dense_macs_stay():
    allocation = found(0.1)
    assert torch.equal(allocation.counts, graph8().sizes)
    assert bool(allocation.keep.all())
    assert allocation.whole_ratio("macs") == allocation.relaxed_cost("macs") == 1.0
    assert set(allocation.weight_mask) == {layer.weight for layer in graph8().layers}
    with pytest.raises(BudgetError, match="search again"):
        allocation.at(params=0.5)


def test_nonzero_macs_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))
    graph = trace(model, torch.zeros(1, 1, 4, 4))
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    conv, linear = masks["0.weight"], masks["2.weight"]
    conv[0, 0, 1, 1] = conv[1, 0, 0, 0] = linear[2, 5] = True
    assert nonzero_macs(graph, {"0.weight": conv, "2.weight": linear}) == 2 * 16 + 1
    assert nonzero_macs(graph, {"0.weight": conv}) == 2 * 16 + 96
    share = found(0.1).notes["nonzero_macs_ratio"]
    assert share == nonzero_macs(graph8(), found(0.1).weight_mask) / Cost.of(graph8(), "macs").dense


def test_given_shares():
    config = search_config(dtp=DTP(keep_ratios={"conv1.weight": 1.0, "*": 0.25}))
    mask = allocate("dtp-weight", trained(), Budget(params=0.2), config).weight_mask
    densities = {name: float(m.double().mean()) for name, m in mask.items()}
    others = [d for name, d in densities.items() if name != "conv1.weight"]
    assert densities["conv1.weight"] / others[3] == pytest.approx(4, rel=0.02)  # one of 144 weights
    assert max(others) - min(others) < 0.01


def test_without_training_the_largest_weights_stay():
    """Scores that do not move: the largest |w| of every tensor, the same share of each."""
    start = dict(trained().named_parameters())
    for name, mask in found(0.3, score_lr=0.0).weight_mask.items():
        size = start[name].detach().abs()
        assert float(size[mask].min()) >= float(size[~mask].max())
        share = float(mask.double().mean())
        assert share == pytest.approx(0.295, abs=0.01)  # the rest is BatchNorm
    shares = [float(m.double().mean()) for m in found(0.3, score_lr=3000).weight_mask.values()]
    assert max(shares) - min(shares) > 0.02  # and here the loss has spoken


def test_budgets_without_a_meaning_are_refused(tmp_path):
    with pytest.raises(BudgetError, match=r"saves no macs.*ask for params=0\.5, or .* dtp for"):
        allocate("dtp-weight", trained(), Budget(macs=0.5))
    with pytest.raises(BudgetError, match="divisor=8: dtp-weight keeps an exact number"):
        DTPWeight().check_budget(Budget(params=0.5, divisor=8))
    with pytest.raises(BudgetError, match="cannot be reached"):
        allocate("dtp-weight", trained(), Budget(params=0.008))
    with pytest.raises(BudgetError, match="saves no macs"):
        run(tiny_run(method="dtp-weight"), tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))  # before anything was trained


def test_a_whole_run_writes_a_sparse_network_and_is_told_at_once_that_onnx_has_none(tmp_path):
    config = tiny_run(method="dtp-weight", resource="params", ratio=0.3)
    with pytest.raises(ConfigError, match="dtp-weight removes single weights"):
        run(config, tmp_path, progress=False, onnx=True)
    assert not list(tmp_path.rglob("*.safetensors"))
    record = run(config, tmp_path, progress=False)
    assert record.budget_met
    sparse = load_sparse(tmp_path / config.folder / "pruned")
    left = sum(int(p.count_nonzero()) for p in sparse.parameters())
    assert left <= record.costs["params"].counted <= 0.3 * TOTAL


def test_the_masks_multiply_the_weights():
    model = trained()
    problem = Problem(model, graph8(), Budget(params=0.3), 20, 0, 0, DTPWeight())
    scheme = WeightScheme(problem, DTPWeight())
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    flat = torch.rand(scheme.size, generator=torch.Generator().manual_seed(0))
    MaskedWeights(parameters, scheme.sites, scheme.size).put_on(flat)
    for name, part in zip(scheme.shapes, flat.split(scheme.sizes.tolist()), strict=True):
        wanted = before[name].flatten() * part
        torch.testing.assert_close(parameters[name].detach().flatten(), wanted)


def test_the_history_has_the_cost_of_the_weights():
    updates = found(0.3).updates
    assert [u.cost for u in updates] == pytest.approx([u.budget for u in updates], rel=1e-9)
    assert updates[-1].cost == pytest.approx(0.3)
    assert {u.keep_ratios for u in updates} == {(1.0,) * 6}


def test_a_floor_for_all_tensors():
    config = search_config(dtp=DTP(score_lr=3000))
    allocation = allocate("dtp-weight", trained(), Budget(params=0.3, floors={"*": 0.28}), config)
    assert min(float(m.double().mean()) for m in allocation.weight_mask.values()) >= 0.28


def test_a_floor_for_one_tensor_or_group_is_refused():
    with pytest.raises(BudgetError, match=r"floors: \['conv1'\]: .* one floor for all"):
        DTPWeight().check_budget(Budget(params=0.5, floors={"conv1": 0.5}))
