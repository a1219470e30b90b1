"""The loop of every tutorial, with what people add to it: accumulation, clipping, AdamW."""

import copy
import pickle
import pickletools

import pytest
import torch
from small_search import (
    EXAMPLE,
    STEPS,
    X,
    batches,
    ends_well,
    evaluated,
    loss_of,
    masked,
    network,
    pruner,
    same,
    search,
    sgd,
    shows_the_cut,
    started,
    step,
    values,
    without_norms,
)
from torch import nn

from dsa_core.errors import TrainingError


@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3)])
def test_a_plain_loop(make):
    model = network()
    optimizer, found = started(model, make)

    def take(called, batch, optimizer) -> None:
        loss = loss_of(called, batch)
        assert masked(model) or found.steps_done < 4  # nothing is dropped before the budget falls
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    search(found, model, optimizer, take=take)
    ends_well(found)


def test_a_loop_that_goes_on_after_the_search_and_evaluates_in_inference_mode():
    model = network()
    optimizer, found = started(model, steps=8)
    for batch in batches(12):
        with torch.inference_mode():  # the first pass of the step, and one before its backward pass
            model(batch[0])
        loss = loss_of(model, batch)
        with torch.inference_mode():
            seen = evaluated(model, batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert seen.isfinite().all()
    ends_well(found, steps=12)


def test_accumulated_gradients_are_those_of_one_big_batch():
    one, two = without_norms(), without_norms()
    (slow, parts), (fast, whole) = started(one, seed=3), started(two, seed=3)
    for x, y in batches(8):
        slow.zero_grad(), fast.zero_grad()
        held = []
        for rows in (slice(0, 16), slice(16, None)):
            (loss_of(one, (x[rows], y[rows])) / 2).backward()
            held.append(values(one))
        assert same(*held)  # the mask stays
        shows_the_cut(parts, one)
        assert same(values(one), held[0])
        loss_of(two, (x, y)).backward()
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
        slow.step(), fast.step()
    assert parts.keep_ratios == pytest.approx(whole.keep_ratios, abs=1e-3)
    assert parts.steps_done == whole.steps_done == 8


@pytest.mark.parametrize("early", [False, True])
def test_clipping_before_or_after_the_gradients_are_turned(early):
    model = network()
    optimizer, found = started(model, lambda m: sgd(m, lr=0.2))

    def take(called, batch, optimizer) -> None:
        optimizer.zero_grad()
        loss_of(called, batch).backward()
        if early:
            found.collect()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert float(norm) <= 0.5 + 1e-5

    search(found, model, optimizer, take=take)
    ends_well(found)


def test_a_network_that_changes_its_number_format_after_attach():
    model = network()
    optimizer, found = started(model, steps=8)
    model.double()
    for x, y in batches(8):
        step(lambda x: model(x.double()), (x, y), optimizer)
    assert not masked(model)
    assert found.finish().head.weight.dtype == model.head.weight.dtype == torch.float64


def test_steps_of_a_network_that_nobody_calls_are_noticed():
    model, other = network(), network()
    optimizer, _ = started(model)
    for _ in range(19):
        optimizer.step()
    other(EXAMPLE)
    with pytest.warns(UserWarning, match="without a forward pass"):
        optimizer.step()


def perturb(model: nn.Module) -> None:
    """What SAM does between two passes, and an optimizer that is not attached."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-3)


@pytest.mark.parametrize("after", ["a forward pass", "an evaluation", "the step"])
def test_weights_that_are_changed_under_a_mask_are_refused(after):
    model = network()
    optimizer, found = started(model)
    for batch in batches(STEPS // 2):
        step(model, batch, optimizer)
    loss_of(model, batch).backward()
    assert masked(model)
    perturb(model)
    then = {
        "a forward pass": lambda: loss_of(model, batch),
        "an evaluation": lambda: evaluated(model, batch[0]),
        "the step": optimizer.step,
    }
    with pytest.raises(TrainingError, match="were changed between its forward pass and the step"):
        then[after]()
    found.detach()
    assert not masked(model)


def test_weights_that_are_changed_between_two_steps_are_not():
    model = network()
    optimizer, found = started(model)

    def take(called, batch, optimizer) -> None:
        step(called, batch, optimizer)
        perturb(model)

    search(found, model, optimizer, take=take)
    ends_well(found)


def test_a_state_that_is_loaded_after_an_evaluation_is_the_one_evaluated():
    model, again = network(), network()
    optimizer, found = started(model)
    search(found, model, optimizer)
    wanted = evaluated(model, X[:8])
    _, other = started(again)
    again.load_state_dict(model.state_dict())
    assert not torch.equal(evaluated(again, X[:8]), wanted)
    other.load_state_dict(found.state_dict())
    assert torch.equal(evaluated(again, X[:8]), wanted)


@pytest.mark.parametrize("weights", ["searched", "dense", "a copy"])
def test_nothing_of_ours_is_left_in_the_smaller_network(weights):
    model = network()
    optimizer, found = started(model)
    search(found, model, optimizer)
    given = copy.deepcopy(model) if weights == "a copy" else weights
    assert "dsa_core" not in repr(pickled_names(found.finish(weights=given)))


def pickled_names(model: nn.Module) -> set[str]:
    return {str(arg) for _, arg, _ in pickletools.genops(pickle.dumps(model)) if arg is not None}


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_that_another_optimizer_left_count_once(compiled):
    slopes = []
    for own in (False, True):  # who zeroes: all, or each optimizer its own
        model = network()
        called = torch.compile(model, backend="eager") if compiled else model
        parts = [[], []]
        for name, p in model.named_parameters():
            parts["head" in name].append(p)
        body, head = (torch.optim.SGD(part, lr=0.01) for part in parts)
        found = pruner(model, steps=8).attach(head, body)
        learn, seen = found.attachment.learn, []
        found.attachment.learn = lambda g, learn=learn, seen=seen: (seen.append(g), learn(g))
        for batch, optimizer in zip(batches(6), [head, body] * 3, strict=True):
            (optimizer if own else model).zero_grad()
            loss_of(called, batch).backward()
            optimizer.step()
        slopes.append(seen)
    for one, two in zip(*slopes, strict=True):
        torch.testing.assert_close(one, two)
