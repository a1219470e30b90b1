"""One call from a network and its data to a smaller one: loaders, losses, resume, refusals."""

import copy
import itertools
from collections import namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems_networks import cbr, chain
from problems_runs import same
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)

import dsa_core as dsa
from dsa_core import compression
from dsa_core.errors import ConfigError, DataError, SurgeryError, TrainingError
from dsa_core.masks import top_channels
from dsa_core.methods import DTPWeight, Uniform
from dsa_core.surgery.verify import count_macs
from dsa_core.training import (
    Loader,
    LossObjective,
    TrainConfig,
    loader,
    recalibrate_batchnorm,
    to_device,
    train,
)
from dsa_core.training.batches import examples_in

N, SIZE = 48, 16
torch.manual_seed(0)
X, Y = torch.randn(N, 1, 6, 6), torch.arange(N) % 3
BATCHES = [(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, N, SIZE)]
EXAMPLE = torch.zeros(2, 1, 6, 6)


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return chain(8, a=cbr(1, 8), drop=nn.Dropout(dropout), b=cbr(8, 8))


def compressed(model: nn.Module, given=BATCHES, *, example=EXAMPLE, **changes) -> dsa.Compressed:
    """Half of the MACs in two epochs and in silence, unless told otherwise."""
    half = {"budget": dsa.Budget(macs=0.5), "epochs": 2, "loss": F.cross_entropy}
    return dsa.compress(model, example, given, **half | {"progress": False} | changes)


@pytest.fixture(scope="module")
def wanted() -> dsa.Compressed:
    return compressed(network())


class TwoInputs(nn.Module):
    """A network of two inputs that can say its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.net(a + b)


def macs_ratio(smaller: nn.Module, dense: nn.Module) -> float:
    x = torch.zeros(1, 1, 6, 6)
    return count_macs(smaller, x) / count_macs(dense, x)


@pytest.mark.parametrize(("ratio", "divisor"), [(0.6, 16), (0.4, 16), (0.2, 8), (0.06, 1)])
def test_for_onnx_widths_are_in_the_widest_blocks_that_meet_the_budget(ratio, divisor):
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(128, 3))
    graph = dsa.trace(model, EXAMPLE)
    assert dsa.Budget(macs=ratio, divisor=3).in_blocks(graph, (16, 8)).divisor == 3
    found = compressed(model, budget=dsa.Budget(macs=ratio), target="onnx", method=Uniform())
    assert found.allocation.budget.divisor == divisor
    assert {int(n) % divisor for n in found.allocation.counts} == {0}
    assert macs_ratio(found.model, model) <= ratio


def test_odd_widths_and_an_unknown_target_are_told(wanted, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.warns(UserWarning, match=r"multiples of 1: compress\(..., target='onnx'\)"):
        check = wanted.export_onnx(tmp_path / "net.onnx")
    assert check.path.exists()
    assert check.max_abs_diff < 1e-4
    with pytest.raises(ConfigError, match="target: wanted one of torch, onnx, got 'ort'"):
        compressed(network(), target="ort")


class Stream(IterableDataset):
    """Examples without a length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def batches():
    yield from BATCHES


def endless():
    return itertools.cycle(BATCHES)


LOADERS = {
    "DataLoader": lambda: DataLoader(TensorDataset(X, Y), SIZE, shuffle=True),
    "workers": lambda: DataLoader(TensorDataset(X, Y), SIZE, shuffle=True, num_workers=1),
    "list": lambda: BATCHES,
    "stream": lambda: DataLoader(Stream(), SIZE),
    "function": lambda: batches,
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.filterwarnings("ignore:train_loader has no length")
def test_every_loader(kind):
    model = network()
    result = compressed(model, LOADERS[kind]())
    assert macs_ratio(result.model, model) <= 0.5
    assert result.allocation.updates[-1].step == N // SIZE - (N // SIZE) % 2  # every second step
    assert [len(epochs) for epochs in result.epochs.values()] == [1, 1]


def test_a_source_of_batches_of_this_library():
    given = dsa.data.load("digits").batches("train", batch_size=32, indices=torch.arange(64))
    result = compressed(network(), given, loss=lambda out, y: F.cross_entropy(out, y % 3))
    assert macs_ratio(result.model, network()) <= 0.5


def test_a_list_and_its_function_are_the_same(wanted):
    with pytest.warns(UserWarning, match="no length.*steps_per_epoch= saves that"):
        b = compressed(network(), batches)
    same(wanted.model, b.model)
    c = compressed(network(), endless, steps_per_epoch=3)
    same(wanted.model, c.model)


def test_a_stream_goes_on_from_epoch_to_epoch_and_starts_again():
    feed = Loader([0, 1, 2], 2)
    assert [list(feed.mine(epoch)) for epoch in range(3)] == [[0, 1], [2, 0], [1, 2]]
    whole = Loader([0, 1, 2])
    assert [list(whole.mine(epoch)) for epoch in range(2)] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("given", ["sampler", "batch_sampler"])
def test_a_sampler_that_shares_is_told_the_epoch(given):
    sampler = DistributedSampler(range(8), num_replicas=2, rank=0)
    if given == "batch_sampler":
        loader = DataLoader(range(8), batch_sampler=BatchSampler(sampler, 2, drop_last=False))
    else:
        loader = DataLoader(range(8), 2, sampler=sampler)
    feed = Loader(loader)
    first, second, again = (torch.cat([*feed.mine(epoch)]).tolist() for epoch in (0, 1, 0))
    assert first == again != second
    assert torch.cat([*itertools.islice(feed.forever(), 4)]).tolist() == first + second


def test_what_can_be_read_once_is_refused():
    with pytest.raises(ConfigError, match=r"generator can be read only once.*not batches\(\)"):
        Loader(batches())
    with pytest.raises(ConfigError, match=r"wanted batches.*got 3"):
        Loader(3)
    once = iter(BATCHES)

    class Once(IterableDataset):
        def __iter__(self):
            return once

    feed = Loader(DataLoader(Once(), None), 5)
    with pytest.raises(DataError, match=r"no batch in a whole pass.*only once"):
        list(feed.mine(0))


def test_no_batches_and_no_end(monkeypatch):
    with pytest.raises(DataError, match="train_loader has no batch"):
        Loader([])
    monkeypatch.setattr(loader, "MOST", 10)
    with (
        pytest.warns(UserWarning, match="needed where there is no end"),
        pytest.raises(DataError, match="10 batches without an end: pass steps_per_epoch="),
    ):
        Loader(endless, progress=False)
    with pytest.raises(ConfigError, match="steps_per_epoch: wanted a whole number >= 1, got 0"):
        Loader(endless, 0)


def test_batches_of_every_form_reach_the_device():
    pair = namedtuple("pair", "x y")

    class Own:
        device = "cpu"

        def to(self, device):
            self.device = device
            return self

    batch = {"a": [X, (Y, "text")], "b": pair(X, 3), "c": Own()}
    found = to_device(batch, torch.device("meta"))
    assert found["a"][0].is_meta
    assert found["a"][1][0].is_meta
    assert found["a"][1][1] == "text"
    assert isinstance(found["b"], pair)
    assert found["b"].x.is_meta
    assert found["c"].device.type == "meta"
    assert [examples_in(b) for b in (batch, (torch.tensor(1.0), X), {"ids": Y}, "text")] == [
        *(N, N, N),
        1,
    ]


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["a"], b=batch["b"]), batch["y"])


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        (None, nn.CrossEntropyLoss()),
        (None, partial(F.cross_entropy, reduction="mean")),
        (None, lambda outputs, y: F.cross_entropy(outputs, y)),
        (None, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])),
        (lambda x, y: (x, 0 * x, y), F.cross_entropy),
        (lambda x, y: [[x, 0 * x], y], F.cross_entropy),
        (lambda x, y: ({"b": 0 * x, "a": x}, y), F.cross_entropy),
        (lambda x, y: {"a": x, "b": 0 * x, "y": y}, own_loss),
    ],
)
def test_every_form_of_a_loss_and_of_several_inputs_is_the_same(wanted, form, loss):
    if form is None:
        found = compressed(network(), loss=loss).model
    else:
        given, example = [form(x, y) for x, y in BATCHES], (EXAMPLE, EXAMPLE)
        found = compressed(TwoInputs(), given, example=example, loss=loss).model.net
    same(found, wanted.model)


OTHER = network()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]), "as loss.outputs, targets."),
        (lambda model, batch: model.loss(batch), r"as loss.model, batch.*AttributeError"),
        (partial(F.cross_entropy, reduction="none"), r"returned shape \(16,\), wanted a scalar"),
        (lambda outputs, y: 1.0, "returned float, wanted a scalar"),
        (lambda outputs, y: F.cross_entropy(outputs.detach(), y), "no gradient in the network"),
        (lambda model, batch: OTHER(batch[0]).mean(), "no gradient in the network.*copy of yours"),
        (nn.CrossEntropyLoss, "wanted a function or a module.*lambda model, batch"),
        ("cross_entropy", "wanted a function or a module"),
    ],
)
def test_a_wrong_loss_is_known_before_anything_is_trained(loss, message):
    with pytest.raises(ConfigError, match=message):
        compressed(network(), loss=loss)


def test_a_dict_asks_for_the_other_form():
    given = [{"x": x, "y": y} for x, y in BATCHES]
    with pytest.raises(ConfigError, match=r"a batch is a dict.*lambda model, batch"):
        compressed(network(), given)


def test_the_given_network_and_the_random_numbers_are_untouched():
    model = network(dropout=0.5).eval()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    with pytest.warns(UserWarning, match="no length"):
        compressed(model, LOADERS["stream"]())
    same(model, before)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_mask_of_infinities_is_no_broken_weight():
    model = network()
    model.register_buffer("causal", torch.full((2, 2), -torch.inf).triu(1))
    given = Loader(BATCHES), LossObjective(F.cross_entropy), TrainConfig(epochs=1)
    train(model, *given, seed=0, progress=False)
    with torch.no_grad():
        model.a[0].weight[0] = torch.inf
    with pytest.raises(TrainingError, match=r"a\.0\.weight is not finite"):
        train(model, *given, seed=0, progress=False)


def test_scores_are_of_the_three_networks():
    seen = []

    def validate(model: nn.Module) -> Tensor:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model)
        return torch.tensor(sum(p.numel() for p in model.parameters()))

    model = network()
    result = compressed(model, validate=validate)
    sizes = [float(sum(p.numel() for p in net.parameters())) for net in (model, result.model)]
    assert result.scores == {"dense": sizes[0], "cut": sizes[1], "fine_tuned": sizes[1]}
    assert model not in seen
    with pytest.raises(ConfigError, match=r"validate: wanted a function of a network.*got None"):
        compressed(model, validate=lambda m: None)


def test_other_methods_and_weights(wanted):
    uniform = compressed(network(), method=Uniform())
    assert uniform.allocation.method == "uniform"
    assert macs_ratio(uniform.model, network()) <= 0.5
    assert uniform.epochs["search"] == []
    dense = compressed(network(), weights="dense")
    searched = compressed(network(), weights="searched")
    assert not torch.equal(dense.model.a[0].weight, searched.model.a[0].weight)
    same(dense.model, wanted.model)
    trained = compressed(network(), method=dsa.methods.SSL())
    other = compressed(network(), method=dsa.methods.SSL(), weights="searched")
    same(trained.model, other.model)
    with pytest.raises(ConfigError, match='weights: wanted "searched", "dense" or None, got 3'):
        compressed(network(), weights=3)


@pytest.mark.parametrize(("epochs", "search"), [(8, 2), (4, 2), (3, 1)])
def test_a_search_takes_some_steps_and_half_of_the_epochs_at_most(monkeypatch, epochs, search):
    monkeypatch.setattr(compression, "SEARCH_STEPS", 2 * len(BATCHES))
    found = compressed(network(), epochs=epochs).epochs
    assert [len(part) for part in found.values()] == [search, epochs - search]


def test_held_out_batches_are_refused():
    method = dsa.DSA(estimator="straight_through")
    with pytest.raises(ConfigError, match="held-out batches, of which compress has none"):
        compressed(network(), method=method)


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (F.cross_entropy, lambda x, y: (x, y)),
        (
            lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
            lambda x, y: {"x": x, "y": y},
        ),
    ],
)
def test_no_epochs_train_no_weight(monkeypatch, loss, form):
    monkeypatch.setattr(compression, "FROZEN_STEPS", 19)
    model, given = network(), [form(x, y) for x, y in BATCHES]
    found = compressed(model, given, loss=loss, validate=lambda m: 1, epochs=0)
    assert found.allocation.updates[-1].step == 18  # every second one
    assert macs_ratio(found.model, network()) <= 0.5
    graph, keep = found.allocation.graph, found.allocation.keep
    by_norm = dsa.importance(model, graph, "l2")
    assert torch.equal(keep, top_channels(by_norm, found.allocation.counts, graph))
    wanted = dsa.prune(model, graph, keep, reconstruct=[x for x, _ in BATCHES], progress=False)
    same(found.model, wanted)
    assert found.scores == {"dense": 1.0, "cut": 1.0}


def test_the_dense_networks_own_outputs_serve_as_labels():
    model, images = network(), [x for x, _ in BATCHES]
    dense = copy.deepcopy(model).eval()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch), dense(batch).detach().softmax(1))

    found = compressed(model, images, loss=loss, epochs=0)
    assert macs_ratio(found.model, model) <= 0.5
    assert all(u.figures["price"] != 0 for u in found.allocation.updates[1:])  # slopes


def test_a_network_that_runs_twice_in_the_loss_is_not_refitted_but_told():
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]) + model(-batch[0]), batch[1])

    with pytest.warns(UserWarning, match="no layer could be refitted"):
        found = compressed(network(), loss=loss, epochs=0)
    assert macs_ratio(found.model, network()) <= 0.5


def test_no_epochs_and_no_search():
    found = compressed(network(), method=Uniform(), epochs=0)
    assert found.epochs == {"search": [], "fine-tune": []}
    assert 0.4 < macs_ratio(found.model, network()) <= 0.5
    with pytest.raises(ConfigError, match=r"epochs=0: ssl .* needs epochs in which the weights"):
        compressed(network(), method=dsa.methods.SSL(), epochs=0)


def test_an_optimizer_of_ones_own():
    made = []

    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(parameters, 1e-3))
        return made[-1]

    result = compressed(network(), optimizer=adam, epochs=4)
    assert len(made) == 2
    # cosine, 6 steps: the last of the first epoch is t = 2, (1 + cos(pi / 3)) / 2 = 3 / 4
    assert result.epochs["search"][0]["lr"] == pytest.approx(0.75e-3)
    with pytest.raises(ConfigError, match="optimizer: wanted a function of the parameters"):
        compressed(network(), optimizer=lambda p: 1e-3)


@pytest.mark.parametrize("epochs", [-1, 1, 2.5, True])
def test_epochs_are_two_or_more_or_none(epochs):
    with pytest.raises(ConfigError, match="epochs: wanted a whole number >= 2"):
        compressed(network(), epochs=epochs)


def test_norms_are_recalibrated_without_dropout():
    a, b = network(dropout=0.5), network(dropout=0.5)
    feed = Loader(BATCHES)
    recalibrate_batchnorm(a, feed, 3)
    recalibrate_batchnorm(b, feed, 3, run=LossObjective(F.cross_entropy).loss)
    same(a, b)
    assert b.training
    assert b.drop.training
    assert int(b.a[1].num_batches_tracked) == 3


class Auxiliary(nn.Module):
    """A second head that reads inner channels, in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.aux = network(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.net.a(x)
        found = self.net.head(self.net.b(inner).mean((2, 3)))
        return found + self.aux(inner.mean((2, 3))) if self.training else found


def test_a_norm_that_does_not_run_keeps_its_statistics():
    model = Auxiliary()
    model.spare = nn.BatchNorm2d(8)
    model.spare.running_mean.fill_(0.7)
    recalibrate_batchnorm(model, Loader(BATCHES), 3)
    assert model.spare.running_mean.eq(0.7).all()
    assert int(model.net.a[1].num_batches_tracked) == 3


def test_a_head_that_is_read_in_training_only_is_known_before_anything_is_trained():
    with pytest.raises(SurgeryError, match=r"cut network.*training only.*aux\.weight, aux\.bias"):
        compressed(Auxiliary())
    kept = dsa.Budget(macs=0.8, floors={"net.a.0": 1.0})
    found = compressed(Auxiliary(), budget=kept)
    assert found.model.aux.in_features == 8
    assert found.allocation.met


class Unusual(nn.Module):
    """Extra state, a buffer that is made in the first call, and one that each call replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("scale", None)
        self.register_buffer("last", torch.zeros(1, 1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(x.shape[-1])
        self.last = x.detach()
        return self.net(x * self.scale)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 1}


@pytest.mark.parametrize("epochs", [0, 2])
def test_extra_state_and_buffers_that_come_and_go(epochs, tmp_path):
    model = Unusual()
    found = compressed(model, epochs=epochs)
    assert model.scale is None
    assert model.last.shape == (1, 1, 6, 6)
    found.model(X)
    assert macs_ratio(found.model, network()) <= 0.5
    graph = dsa.trace(model, EXAMPLE)
    smaller = dsa.prune(model, graph, found.allocation.keep)
    with pytest.warns(UserWarning, match=r"_extra_state is not written \(1 of its kind\)"):
        folder = dsa.save(tmp_path, smaller, graph, found.allocation.keep, name="own")
    loaded = dsa.load(folder, model)
    assert torch.equal(loaded(X), smaller.eval()(X))


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_loss_in_low_precision(epochs):
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(batch[0]), batch[1])

    assert macs_ratio(compressed(network(), loss=loss, epochs=epochs).model, network()) <= 0.5


def test_a_network_that_is_frozen_whole():
    with pytest.raises(ConfigError, match=r"frozen; call model\.requires_grad_\(True\)"):
        compressed(network().requires_grad_(False), epochs=0)


class KilledError(Exception):
    """Stands for the end of a process."""


class DiesAt:
    """A loss that dies once, at its n-th call."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.at -= 1
        if self.at == 0:
            raise KilledError
        return F.cross_entropy(model(batch[0]), batch[1])


# 1 trial, search 2 epochs of 3, recalibration 3, tuning 2 epochs of 3
@pytest.mark.parametrize(
    ("at", "weights"), [(6, None), (9, "searched"), (15, "searched"), (15, None)]
)
def test_killed_and_resumed_changes_no_bit(tmp_path, at, weights):
    shuffled = DataLoader(TensorDataset(X, Y), SIZE, shuffle=True)
    given = {"epochs": 4, "weights": weights}
    wanted = compressed(network(dropout=0.5), shuffled, **given)
    torch.manual_seed(77)  # torch's own random state does not matter
    loss = DiesAt(at)
    given |= {"loss": loss, "checkpoint": tmp_path}
    with pytest.raises(KilledError):
        compressed(network(dropout=0.5), shuffled, **given)
    found = compressed(network(dropout=0.5), shuffled, **given)
    assert loss.at < 0
    same(found.model, wanted.model)
    assert torch.equal(found.allocation.keep, wanted.allocation.keep)


def test_a_checkpoint_of_another_cut_is_refused(tmp_path):
    compressed(network(), checkpoint=tmp_path, weights="dense")
    with pytest.raises(TrainingError, match="belongs to a different run: cut"):
        compressed(network(), checkpoint=tmp_path, weights="searched")


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    compressed(network(), checkpoint=tmp_path)
    other = network()
    with torch.no_grad():
        other.a[0].weight += 1
    with pytest.raises(TrainingError, match="starting weights was"):
        compressed(other, checkpoint=tmp_path)


def test_its_text_says_what_was_asked_and_reached(wanted):
    asked, reached, scores = repr(wanted).split("\n")
    x = torch.zeros(1, 1, 6, 6)
    counts = [count_macs(net, x) for net in (network(), wanted.model)]
    assert "macs 50.0% of the dense network, by dsa" in asked
    dense, left = (f"{count / 1e3:.3g} k" for count in counts)
    assert f"MACs {dense} -> {left} ({counts[1] / counts[0]:.1%})" in reached
    sizes = [sum(p.numel() for p in net.parameters()) for net in (network(), wanted.model)]
    assert f"parameters {sizes[0]} -> {sizes[1]} " in reached
    assert "validate=" in scores


def test_saved_and_loaded(wanted, tmp_path):
    loaded = dsa.load(wanted.save(tmp_path / "small"), network())
    same(loaded, wanted.model)
    assert torch.equal(loaded(X), wanted.model(X))


def test_bars_name_their_phase(capsys):
    compressed(network(), progress=True)
    shown = capsys.readouterr().err
    assert "search, epoch 0" in shown
    assert "fine-tune, epoch 0" in shown
    compressed(network())
    assert capsys.readouterr().err == ""


def test_single_weights_that_are_dropped_stay_zero_without_training(tmp_path):
    half = {"budget": dsa.Budget(params=0.3), "method": DTPWeight()}
    found = compressed(network(), epochs=0, **half)
    parameters, masks = dict(found.model.named_parameters()), found.allocation.weight_mask
    assert not any(parameters[name][~mask].any() for name, mask in masks.items())
    found.save(tmp_path)


def test_an_optimizer_of_ones_own_where_nothing_is_searched():
    found = compressed(network(), method=Uniform(), optimizer=lambda p: torch.optim.AdamW(p, 1e-3))
    assert len(found.epochs["fine-tune"]) == 2


class Noisy(nn.Module):
    """Adds noise in training, of a width that its code names."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net.a(x)
        y = y + 0.1 * torch.randn(len(y), 8, 1, 1) if self.training else y
        y = self.net.b(self.net.drop(y))
        return self.net.head(y.mean((2, 3)))


def test_code_that_runs_in_training_only_is_tried_too():
    with pytest.raises(SurgeryError, match=r"cut network.*training only is not cut \(no weight"):
        compressed(Noisy())
