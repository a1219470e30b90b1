"""Training: it learns, its parts are what their formulas say, and no interruption changes a bit."""

import hashlib
import io
import math
import signal
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import TASK, digits, fresh, same
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook

from dsa_core.budget import Budget
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.lab import data
from dsa_core.pruner import Pruner
from dsa_core.training import (
    Loader,
    Precision,
    TrainConfig,
    TrainResult,
    autocast,
    choose_precision,
    evaluate,
    load_checkpoint,
    lr_at,
    make_sgd,
    mode,
    recalibrate_batchnorm,
    save_checkpoint,
    train,
)
from dsa_core.training.optimizer import make_optimizer


def small(n: int = 300, **settings) -> data.Batches:
    return digits().batches("train", **({"batch_size": 64, "indices": torch.arange(n)} | settings))


def with_dropout(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(32, 10),
    )


def fit(
    model: nn.Module, batches: data.Batches, config: TrainConfig, *, task=TASK, seed=0, **more: Any
) -> TrainResult:
    """Train in silence, unless told otherwise."""
    return train(model, batches, task, config, seed=seed, **({"progress": False} | more))


@pytest.mark.parametrize("channels_last", [False, True])
def test_digits_are_learnt(channels_last):
    model = fresh()
    config = TrainConfig(epochs=4, channels_last=channels_last)
    result = fit(model, small(1437), config)
    assert evaluate(model, digits().batches("test", batch_size=100), TASK).score > 0.9
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    assert result.history[-1]["train_score"] > 0.9 > result.history[0]["train_score"]
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.seconds == sum(record["seconds"] for record in result.history)
    found = result.precision, result.channels_last, result.stopped
    assert found == ("fp32", channels_last, False)


def test_one_step_by_hand():
    # momentum buffer = g + wd w; Nesterov step = lr (g' + momentum buffer) = 1.9 lr g'
    batches = small(64, batch_size=64)
    model, twin = with_dropout().eval(), with_dropout()
    nn.Module.train(model)
    model[4], twin[4] = nn.Identity(), nn.Identity()
    # a rate of 0.3 that only the schedule knows: a milestone at epoch 0 takes a tenth of 3
    schedule = {"lr": 3.0, "schedule": "multi_step", "milestones": (0,)}
    config = TrainConfig(epochs=1, weight_decay=0.01, **schedule)
    fit(model, batches, config)
    ((x, y),) = batches.epoch(0)
    cross_entropy(twin(x), y).backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.3 * 1.9 * (p.grad + 0.01 * p)
    for got, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_gradient_is_clipped():
    batches = small(64, batch_size=64)
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    before, after = fresh(), fresh()
    fit(after, batches, TrainConfig(epochs=1, clip_norm=0.01, **plain))
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))
    assert moved == pytest.approx(0.01, rel=1e-3)  # float32 differences of weights of size 0.1


def test_label_smoothing_trains_but_does_not_report():
    batches = small(64, batch_size=64)
    plain, smooth = fresh(), fresh()
    a = fit(plain, batches, TrainConfig(epochs=1))
    b = fit(smooth, batches, TrainConfig(epochs=1, label_smoothing=0.2))
    assert b.history[0]["train_loss"] == pytest.approx(a.history[0]["train_loss"], rel=1e-5)
    assert not torch.equal(plain[0].weight, smooth[0].weight)


def test_silent_and_with_a_bar(capsys):
    config = TrainConfig(epochs=1)
    fit(fresh(), small(), config)
    assert capsys.readouterr() == ("", "")
    fit(fresh(), small(), config, progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "accuracy=" in shown


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # T = 10, W = 4: up by fifths of the peak, which is at 4, then down by sixths
        ({"warmup": 0.4}, [1/5, 2/5, 3/5, 4/5, 1, 5/6, 4/6, 3/6, 2/6, 1/6]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]),
        # a tenth at each milestone, of two steps an epoch
        ({"schedule": "multi_step", "milestones": (1, 3)}, [1, 1, .1, .1, .1, .1, .01, .01]),
    ],
)  # fmt: skip
def test_rates_by_formula(settings, rates):
    config = TrainConfig(epochs=1, lr=0.2, **settings)
    found = [lr_at(t, len(rates), 2, config) for t in range(len(rates))]
    assert found == pytest.approx([0.2 * rate for rate in rates])


@given(
    st.sampled_from(["one_cycle", "multi_step", "cosine", "constant"]),
    st.integers(1, 400),
    st.floats(0, 0.95),
)
def test_rates_are_positive_and_at_most_the_peak(schedule, total, warmup):
    config = TrainConfig(epochs=1, lr=0.7, schedule=schedule, warmup=warmup, milestones=(1, 2))
    rates = [lr_at(t, total, 3, config) for t in range(total)]
    assert all(0 < rate <= 0.7 for rate in rates)
    assert max(rates) == pytest.approx(0.7)


@pytest.mark.parametrize("step", [-1, 10])
def test_step_out_of_range(step):
    with pytest.raises(ConfigError, match=rf"0 \.\. 9 .*got {step}"):
        lr_at(step, 10, 10, TrainConfig(epochs=1))


def test_the_rate_is_set_at_every_step():
    config = TrainConfig(epochs=2, schedule="multi_step", milestones=(1,))
    result = fit(fresh(), small(128), config)
    assert [record["lr"] for record in result.history] == pytest.approx([0.1, 0.01])


def test_vectors_can_be_spared_from_decay():
    model = fresh()
    config = TrainConfig(epochs=1, lr=0.01, weight_decay=0.1, momentum=0.8)
    everything = make_sgd(model, config)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]
    config = config.model_copy(update={"decay_norm": False})
    adamw = config.model_copy(update={"optimizer": "adamw"})
    made = [make_optimizer(model, each, None) for each in (config, adamw)]
    assert [type(optimizer) for optimizer in made] == [torch.optim.SGD, torch.optim.AdamW]
    for optimizer in made:
        decays, vectors = (group["params"] for group in optimizer.param_groups)
        assert all(p.ndim > 1 for p in decays)
        assert all(p.ndim == 1 for p in vectors)
        assert len(decays) + len(vectors) == len(list(model.parameters()))
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {(group["lr"], group["betas"][0]) for group in made[1].param_groups} == {(0.01, 0.8)}


def test_wrong_settings_are_errors():
    for wrong in ({"epochs": -1}, {"epochs": 1, "lr": -0.1}, {"epochs": 1, "learning_rate": 0.1}):
        with pytest.raises(ValidationError):
            TrainConfig(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig(epochs=1).lr = 0.5


def test_evaluate_by_hand_over_uneven_batches():
    model, twin = with_dropout(), with_dropout()
    model[4].eval()  # a mixture of modes, to see that each comes back
    batches = digits().batches("test", batch_size=77)  # 360 = 4 * 77 + 52
    result = evaluate(model, batches, TASK)
    assert [module.training for module in model] == [True] * 4 + [False, True]
    same(model, twin)
    model.eval()
    with torch.no_grad():
        whole = digits()
        outputs = model((whole.test_images / 255 - whole.mean[0]) / whole.std[0])
    assert result.n == 360
    assert result.score == (outputs.argmax(1) == whole.test_labels).sum().item() / 360
    assert result.loss == pytest.approx(cross_entropy(outputs, whole.test_labels).item(), rel=1e-5)


def test_mode_is_restored_after_an_error():
    model = with_dropout()
    with pytest.raises(RuntimeError, match="inside"), mode(model, training=False):
        raise RuntimeError("inside")
    assert all(module.training for module in model.modules())


def test_recalibration_by_hand():
    model = fresh()
    model.bn1.running_mean.fill_(9.0)
    weights = [p.clone() for p in model.parameters()]
    batches = small()  # 5 batches an epoch, the last of 44
    recalibrate_batchnorm(model.eval(), batches, 7)
    with torch.no_grad():
        seen = [model.conv1(x) for x, _ in islice(batches.forever(), 7)]
    mean = torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0)
    variance = torch.stack([s.var((0, 2, 3), unbiased=True) for s in seen]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, variance, rtol=1e-5, atol=1e-5)
    assert model.bn1.momentum == 0.1
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(list(model.parameters()), weights, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="n_batches must be at least 1, got 0"):
        recalibrate_batchnorm(model, batches, 0)


def test_precision_is_measured_and_leaves_no_trace():
    model, twin = with_dropout(), with_dropout()
    x, _ = next(small().epoch(0))
    before = torch.get_rng_state()
    chosen = choose_precision(model, x)
    assert torch.equal(before, torch.get_rng_state())
    same(model, twin)
    assert all(p.grad is None for p in model.parameters())
    names = ["fp32", "fp32 channels_last", "bf16", "bf16 channels_last"]
    assert list(chosen.milliseconds) == names
    best = min(chosen.milliseconds, key=chosen.milliseconds.__getitem__)
    assert best == chosen.name + " channels_last" * chosen.channels_last


def test_precision_given_is_not_measured():
    chosen = choose_precision(fresh(), torch.zeros(0), precision="bf16", channels_last=True)
    assert chosen == Precision("bf16", channels_last=True)
    with pytest.raises(ConfigError, match="'fp32' or 'bf16' here, got 'auto'"):
        autocast(Precision("auto", channels_last=False), torch.device("cpu"))


def test_bf16_trains_with_float32_weights():
    model = fresh()
    config = TrainConfig(epochs=3, precision="bf16", channels_last=False)
    result = fit(model, small(1437), config)
    assert result.precision == "bf16"
    assert all(p.dtype == torch.float32 for p in model.parameters())
    test = digits().batches("test", batch_size=90)
    bf16 = evaluate(model, test, TASK, precision=Precision("bf16", False))
    fp32 = evaluate(model, test, TASK)
    assert fp32.score > 0.85
    assert bf16.score == pytest.approx(fp32.score, abs=0.03)
    assert bf16.loss != fp32.loss


def test_nan_names_the_place_and_the_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    broken = data.Task("broken", lambda o, y: TASK.loss(o, y) * scale[0], TASK.score, "accuracy")
    scale, steps = [1.0], iter(range(100))

    def poison() -> bool:
        scale[0] = math.nan if next(steps) == 7 else 1.0  # 5 steps an epoch: epoch 1, step 2
        return False

    config = TrainConfig(epochs=3, schedule="constant")
    with pytest.raises(TrainingError, match=r"epoch 1, step 2 of 5, lr 0\.1\. .*run\.pt"):
        fit(fresh(), small(), config, task=broken, checkpoint=path, stop=poison)
    state = torch.load(path, weights_only=True)
    assert len(state["history"]) == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def test_weights_broken_by_the_last_step_never_reach_a_checkpoint(tmp_path):
    path, model = tmp_path / "run.pt", fresh()
    # one step: its loss is finite, but 3e38 * (gradient + 100 weight) is beyond float32's 3.4e38
    config = TrainConfig(epochs=1, lr=3e38, weight_decay=100, schedule="constant")
    batches = small(64)
    with pytest.raises(TrainingError, match=r"not finite after epoch 0.*run\.pt"):
        fit(model, batches, config, checkpoint=path)
    assert not torch.load(path, weights_only=True)["history"]


def test_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    config = TrainConfig(epochs=1)

    def go(**changes):
        given = {"model": fresh(), "batches": small(64), "config": config, "checkpoint": path}
        return fit(**given | changes)

    go()
    assert len(go().history) == 1
    other = config.model_copy(update={"lr": 0.2})
    for changes, words in (
        (
            {"config": other},
            r"lr was '0\.1' and is now '0\.2'.*delete the checkpoint to start over",
        ),
        ({"seed": 1}, "seed was '0' and is now '1'"),
        ({"batches": small(indices=torch.arange(64, 128))}, "data labels was"),
        ({"model": with_dropout()}, "model was"),
    ):
        with pytest.raises(TrainingError, match=words):
            go(**changes)
    assert len(go(config=other, resume=False).history) == 1


class Evil:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": 1, "fingerprint": {"a": "1"}, "evil": Evil()}, "more than plain data"),
        ([1, 2], "holds a list, not a checkpoint"),
        ({"format": 2, "fingerprint": {"a": "1"}}, "not a checkpoint of format 1"),
        ({"format": 1}, "not a checkpoint of format 1"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_no_checkpoint_is_refused(tmp_path, content, words, sealed, capsys):
    path, raw = tmp_path / "run.pt", io.BytesIO()
    torch.save(content, raw)
    seal = hashlib.sha256(raw.getvalue()).digest() if sealed else b""
    path.write_bytes(raw.getvalue() + seal)
    with pytest.raises(TrainingError, match=rf"run\.pt .*{words if sealed else 'checksum'}"):
        load_checkpoint(path, {"a": "1"})
    assert "never" not in capsys.readouterr().out


def test_checkpoint_comes_back(tmp_path):
    path = tmp_path / "new" / "run.pt"
    listed = [1.5, {"x": None}]
    state = {"fingerprint": {"a": "1"}, "weights": torch.randn(3), "n": 3, "list": listed}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path, {"a": "1"})
    assert torch.equal(loaded["weights"], state["weights"])
    assert (loaded["n"], loaded["list"]) == (3, listed)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    with pytest.raises(TrainingError, match=r"there is no checkpoint .*absent\.pt"):
        load_checkpoint(tmp_path / "absent.pt", {})


@pytest.mark.parametrize("make", [fresh, with_dropout])
@pytest.mark.parametrize("at", [0, 3, 5, 12])  # 5 steps an epoch
def test_stop_and_resume_changes_no_bit(tmp_path, make, at):
    config = TrainConfig(epochs=4, ema=0.9 if make is fresh else None)
    whole = make()
    undisturbed = fit(whole, small(), config, seed=5)
    part, steps = make(), iter(range(100))
    path = tmp_path / "run.pt"
    common = {"seed": 5, "checkpoint": path}
    first = fit(part, small(), config, stop=lambda: next(steps) == at, **common)
    assert first.stopped
    assert len(first.history) == math.ceil(at / 5)
    torch.manual_seed(123)  # torch's own random state does not matter
    second = fit(part, small(), config, **common)
    same(part, whole)
    for a, b in zip(second.history, undisturbed.history, strict=True):
        timed = {"seconds": 0, "processor_seconds": 0}
        assert {**a, **timed} == {**b, **timed}


def test_the_average_of_the_weights_by_hand_takes_their_place():
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    task = data.Task("falling", lambda x, y: x.mean(), lambda x, y: x.sum(), "sum")
    wanted = model[1].bias.detach().clone()
    note = register_optimizer_step_post_hook(lambda *_: seen.append(model[1].bias.detach().clone()))
    fit(model, small(), TrainConfig(epochs=1, ema=0.5), task=task)
    note.remove()
    for t, bias in enumerate(seen, start=1):
        decay = min(0.5, (1 + t) / (10 + t))
        wanted = decay * wanted + (1 - decay) * bias
    assert len(seen) == 5
    torch.testing.assert_close(model[1].bias.detach(), wanted)
    assert (model[1].bias - seen[-1]).abs().min() > 1e-3


def test_settings_that_came_later_change_no_hash():
    plain, later = TrainConfig(epochs=1), TrainConfig(epochs=1, ema=0.9, compile=True)
    assert not {"ema", "compile", "optimizer"} & plain.model_dump().keys()
    assert later.model_dump() == plain.model_dump() | {"ema": 0.9, "compile": True}
    assert TrainConfig.model_validate_json(later.model_dump_json()) == later


@pytest.mark.slow
def test_a_compiled_search_is_the_same_search(monkeypatch):
    real, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda called: calls.append(called) or real(called))

    def go(**settings: Any) -> tuple[nn.Module, Any]:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        pruner = Pruner(model, torch.zeros(1, 1, 8, 8), Budget(macs=0.5), steps=10)
        config = TrainConfig(epochs=2, **settings)
        fit(model, small(), config, pruner=pruner)
        assert pruner.steps_done == 10
        return model, pruner.conclude().keep_ratios

    torch.manual_seed(0)
    go(compile=True)  # code of the same class, compiled without these hooks
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        found.append(go(compile=compiled))
    (model, ratios), (other, others) = found
    assert len(calls) == 2
    torch.testing.assert_close(others, ratios)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)


def test_the_seed_matters():
    config = TrainConfig(epochs=1)
    a, b = with_dropout(), with_dropout()
    fit(a, small(), config, seed=1)
    fit(b, small(), config, seed=2)
    assert not torch.equal(a[1].weight, b[1].weight)


def test_resume_keeps_the_measured_precision(tmp_path):
    path, steps = tmp_path / "run.pt", iter(range(100))
    config = TrainConfig(epochs=1, precision="auto", channels_last="auto")
    first = fit(fresh(), small(), config, stop=lambda: next(steps) == 2, checkpoint=path)
    second = fit(fresh(), small(), config, checkpoint=path)
    assert len(first.milliseconds) == 4
    assert second.milliseconds == first.milliseconds
    assert (second.precision, second.channels_last) == (first.precision, first.channels_last)


def test_ctrl_c_without_a_checkpoint():
    def press() -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt, match="starts over"):
        fit(fresh(), small(), TrainConfig(epochs=1), stop=press)


def test_held_out_batches_go_on_where_the_last_epoch_ended():
    assert list(islice(Loader([0, 1, 2]).forever(4), 4)) == [1, 2, 0, 1]


def test_a_checkpoint_that_cannot_be_written_leaves_no_pruner_attached(tmp_path):
    (tmp_path / "file").touch()
    model = fresh()
    pruner = Pruner(model, torch.zeros(1, 1, 8, 8), Budget(macs=0.5), steps=4)
    path = tmp_path / "file" / "search.pt"
    with pytest.raises(OSError, match="file"):
        fit(model, small(), TrainConfig(epochs=1), pruner=pruner, checkpoint=path)
    assert pruner.attachment is None
