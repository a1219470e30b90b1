"""Two processes, by torch's DistributedDataParallel and by Accelerate, find the same as one."""

from pathlib import Path

import pytest
import torch
from processes import in_processes
from small_search import (
    STEPS,
    batches,
    ends_well,
    exact,
    loss_of,
    pruner,
    sgd,
    shows_the_cut,
    step,
    trained,
    without_norms,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ddp")]
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")


def ddp(rank: int, size: int, *, frozen: bool, early: bool):
    """The network is wrapped before or after the pruner is attached."""
    model = without_norms()
    model.b[0].weight.requires_grad_(not frozen)
    optimizer = torch.optim.SGD(trained(model), lr=0.05)
    found = pruner(model)
    if early:
        found.attach(optimizer)
    called = DistributedDataParallel(model) if size > 1 else model
    if not early:
        found = pruner(called).attach(optimizer)
    for x, y in batches(STEPS):
        step(called, (x[rank::size], y[rank::size]), optimizer)
    shows_the_cut(found, called)
    return model, found


def accelerated(rank: int, size: int):
    """Model, optimizer and loader as Accelerate prepares them; two local batches for each step."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    rows = [row for batch in batches(STEPS) for row in zip(*batch, strict=True)]
    model = without_norms()
    called, optimizer, loader = accelerator.prepare(
        model, sgd(model), DataLoader(rows, batch_size=16 // size)
    )
    found = pruner(called).attach(optimizer)
    for batch in loader:
        with accelerator.accumulate(called):
            accelerator.backward(loss_of(called, batch))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(called.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    shows_the_cut(found, called)
    assert accelerator.num_processes == size
    state = accelerator.get_state_dict(called)
    assert all(torch.equal(state[name], value) for name, value in exact(model).items())
    return model, found


SEARCHES = {
    "plain": lambda *who: ddp(*who, frozen=False, early=False),
    "attached before": lambda *who: ddp(*who, frozen=False, early=True),
    "frozen": lambda *who: ddp(*who, frozen=True, early=False),
    "accelerate": accelerated,
}


def work(rank: int, size: int, out: Path) -> dict:
    seen = {}
    for name, search in SEARCHES.items():
        model, found = search(rank, size)
        ends_well(found)
        seen[name] = {"keep_ratios": found.keep_ratios, "weights": exact(model),
                      "counts": found.allocation.counts}  # fmt: skip
    return seen


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes")
    return in_processes(work, 1, out) + in_processes(work, 2, out)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_ranks_agree(outcomes, search):
    _, first, second = (seen[search] for seen in outcomes)
    assert first["keep_ratios"] == second["keep_ratios"]
    assert torch.equal(first["counts"], second["counts"])
    assert all(torch.equal(first["weights"][n], w) for n, w in second["weights"].items())


@pytest.mark.parametrize("search", SEARCHES)
def test_two_processes_find_what_one_finds(outcomes, search):
    one, two, _ = (seen[search] for seen in outcomes)
    assert two["keep_ratios"] == pytest.approx(one["keep_ratios"], rel=2e-3)
