"""Training: it learns, its parts are what their formulas say, and no interruption changes a bit."""

import hashlib
import io
import math
import signal
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_runs import same, write_folder
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook

from dsa_core.budget import Budget
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.lab import data, models
from dsa_core.lab.device import device_of
from dsa_core.pruner import Pruner
from dsa_core.training import (
    FP32,
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

TASK = data.classification()
PLAIN = {"precision": "fp32", "channels_last": False}  # nothing measured: the same on every machine


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def small(digits: data.Dataset, n: int = 300, **settings) -> data.Batches:
    return digits.batches("train", **({"batch_size": 64, "indices": torch.arange(n)} | settings))


def resnet8(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8")


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
def test_digits_are_learnt(digits, channels_last):
    model = resnet8()
    config = TrainConfig(epochs=4, precision="fp32", channels_last=channels_last)
    result = fit(model, small(digits, 1437), config)
    assert evaluate(model, digits.batches("test", batch_size=100), TASK).score > 0.9
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    assert result.history[-1]["train_score"] > 0.9 > result.history[0]["train_score"]
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.seconds == sum(record["seconds"] for record in result.history)
    found = result.precision, result.channels_last, result.stopped
    assert found == ("fp32", channels_last, False)


def test_one_step_by_hand(digits):
    # momentum buffer = g + wd w; Nesterov step = lr (g' + momentum buffer) = 1.9 lr g'
    batches = small(digits, 64, batch_size=64)
    model, twin = with_dropout().eval(), with_dropout()
    nn.Module.train(model)
    model[4], twin[4] = nn.Identity(), nn.Identity()
    # a rate of 0.3 that only the schedule knows: a milestone at epoch 0 takes a tenth of 3
    schedule = {"lr": 3.0, "schedule": "multi_step", "milestones": (0,)}
    config = TrainConfig(epochs=1, weight_decay=0.01, **schedule, **PLAIN)
    fit(model, batches, config)
    ((x, y),) = batches.epoch(0)
    cross_entropy(twin(x), y).backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.3 * 1.9 * (p.grad + 0.01 * p)
    for got, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_gradient_is_clipped(digits):
    batches = small(digits, 64, batch_size=64)
    config = {"epochs": 1, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    before, after = resnet8(), resnet8()
    clipped = TrainConfig(**config, clip_norm=0.01, **PLAIN)
    fit(after, batches, clipped)
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))
    assert moved == pytest.approx(0.01, rel=1e-3)  # float32 differences of weights of size 0.1


def test_label_smoothing_trains_but_does_not_report(digits):
    batches = small(digits, 64, batch_size=64)
    config = {"epochs": 1, "lr": 0.1, **PLAIN}
    plain, smooth = resnet8(), resnet8()
    a = fit(plain, batches, TrainConfig(**config))
    b = fit(smooth, batches, TrainConfig(**config, label_smoothing=0.2))
    assert b.history[0]["train_loss"] == pytest.approx(a.history[0]["train_loss"], rel=1e-5)
    assert not torch.equal(plain[0].weight, smooth[0].weight)


def test_silent_and_with_a_bar(digits, capsys):
    config = TrainConfig(epochs=1, **PLAIN)
    fit(resnet8(), small(digits), config)
    assert capsys.readouterr() == ("", "")
    fit(resnet8(), small(digits), config, progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_multi_step_is_the_papers():
    # DSA: lr 0.05, a tenth at epochs 120, 180, 240; here 10 steps an epoch
    config = TrainConfig(epochs=300, lr=0.05, schedule="multi_step", milestones=(120, 180, 240))
    for epoch, power in ((0, 0), (119, 0), (120, 1), (179, 1), (180, 2), (240, 3), (299, 3)):
        for step in (10 * epoch, 10 * epoch + 9):
            assert lr_at(step, 3000, 10, config) == pytest.approx(0.05 * 0.1**power)


def test_cosine_by_formula():
    config = TrainConfig(epochs=1, lr=0.2, schedule="cosine")
    rates = [lr_at(t, 8, 8, config) for t in range(8)]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 8)) for t in range(8)])


def test_one_cycle_by_hand():
    # T = 10, W = 4: up by fifths of the peak, 1/5 .. 4/5, the peak at 4, down by sixths to 1/6
    config = TrainConfig(epochs=1, lr=1.0, schedule="one_cycle", warmup=0.4)
    rates = [lr_at(t, 10, 10, config) for t in range(10)]
    assert rates == pytest.approx([1/5, 2/5, 3/5, 4/5, 1, 5/6, 4/6, 3/6, 2/6, 1/6])  # fmt: skip


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


def test_the_rate_is_set_at_every_step(digits):
    config = TrainConfig(epochs=2, lr=0.1, schedule="multi_step", milestones=(1,), **PLAIN)
    result = fit(resnet8(), small(digits, 128), config)
    assert [record["lr"] for record in result.history] == pytest.approx([0.1, 0.01])


def test_vectors_can_be_spared_from_decay():
    model = resnet8()
    everything = make_sgd(model, TrainConfig(epochs=1, weight_decay=0.1))
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]
    spared = make_sgd(model.parameters(), TrainConfig(epochs=1, weight_decay=0.1, decay_norm=False))
    assert [group["weight_decay"] for group in spared.param_groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in spared.param_groups[0]["params"])
    assert all(p.ndim == 1 for p in spared.param_groups[1]["params"])
    held = sum(len(group["params"]) for group in spared.param_groups)
    assert held == len(list(model.parameters()))


def test_adamw_takes_the_same_settings():
    config = TrainConfig(epochs=1, lr=0.01, weight_decay=0.1, decay_norm=False, momentum=0.8)
    made = make_optimizer(resnet8(), config.model_copy(update={"optimizer": "adamw"}), None)
    assert type(made) is torch.optim.AdamW
    assert type(make_optimizer(resnet8(), config, None)) is torch.optim.SGD
    assert [(g["lr"], g["betas"][0], g["weight_decay"]) for g in made.param_groups] == [
        (0.01, 0.8, 0.1),
        (0.01, 0.8, 0.0),
    ]


def test_wrong_settings_are_errors():
    for wrong in ({"epochs": -1}, {"epochs": 1, "lr": -0.1}, {"epochs": 1, "learning_rate": 0.1}):
        with pytest.raises(ValidationError):
            TrainConfig(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig(epochs=1).lr = 0.5


def test_evaluate_by_hand_over_uneven_batches(digits):
    model = with_dropout()
    model[4].eval()  # a mixture of modes, to see that each comes back
    batches = digits.batches("test", batch_size=77)  # 360 = 4 * 77 + 52
    result = evaluate(model, batches, TASK)
    assert model.training
    assert not model[4].training
    model.eval()
    with torch.no_grad():
        x = (digits.test_images / 255 - digits.mean[0]) / digits.std[0]
        outputs = model(x)
    assert result.n == 360
    assert result.score == (outputs.argmax(1) == digits.test_labels).sum().item() / 360
    assert result.loss == pytest.approx(cross_entropy(outputs, digits.test_labels).item(), rel=1e-5)


def test_evaluate_changes_nothing(digits):
    model, twin = resnet8(), resnet8()
    evaluate(model, digits.batches("test", batch_size=77), TASK)
    same(model, twin)


def test_mode_is_restored_after_an_error():
    model = with_dropout()
    with pytest.raises(RuntimeError, match="inside"), mode(model, training=False):
        raise RuntimeError("inside")
    assert all(module.training for module in model.modules())


def test_recalibration_by_hand(digits):
    model = resnet8()
    model.bn1.running_mean.fill_(9.0)
    weights = [p.clone() for p in model.parameters()]
    batches = small(digits)  # 5 batches an epoch, the last of 44
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


def test_recalibration_needs_a_batch(digits):
    with pytest.raises(ConfigError, match="n_batches must be at least 1, got 0"):
        recalibrate_batchnorm(resnet8(), small(digits), 0)


def test_precision_is_measured_and_leaves_no_trace(digits):
    model, twin = with_dropout(), with_dropout()
    x, _ = next(small(digits).epoch(0))
    before = torch.get_rng_state()
    chosen = choose_precision(model, x)
    assert torch.equal(before, torch.get_rng_state())
    same(model, twin)
    assert all(p.grad is None for p in model.parameters())
    names = ["fp32", "fp32 channels_last", "bf16", "bf16 channels_last"]
    assert list(chosen.milliseconds) == names
    best = min(chosen.milliseconds, key=chosen.milliseconds.__getitem__)
    assert best == chosen.name + " channels_last" * chosen.channels_last


def test_precision_given_is_not_measured(digits):
    x, _ = next(small(digits).epoch(0))
    chosen = choose_precision(resnet8(), x, precision="bf16", channels_last=True)
    assert chosen == Precision("bf16", channels_last=True)
    assert chosen.dtype == torch.bfloat16


def test_bf16_trains_with_float32_weights(digits):
    model = resnet8()
    config = TrainConfig(epochs=3, precision="bf16", channels_last=False)
    result = fit(model, small(digits, 1437), config)
    assert result.precision == "bf16"
    assert all(p.dtype == torch.float32 for p in model.parameters())
    bf16 = evaluate(
        model, digits.batches("test", batch_size=90), TASK, precision=Precision("bf16", False)
    )
    fp32 = evaluate(model, digits.batches("test", batch_size=90), TASK)
    assert fp32.score > 0.85
    assert bf16.score == pytest.approx(fp32.score, abs=0.03)
    assert bf16.loss != fp32.loss


def test_autocast_names():
    with autocast(FP32, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast("bf16", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="'fp32' or 'bf16' here, got 'auto'"):
        autocast("auto", torch.device("cpu"))


def test_device_is_a_device():
    assert device_of().type in {"cpu", "cuda", "mps", "xpu"}


def test_nan_names_the_place_and_the_checkpoint(digits, tmp_path):
    path = tmp_path / "run.pt"
    broken = data.Task("broken", lambda o, y: TASK.loss(o, y) * scale[0], TASK.score, "accuracy")
    scale, steps = [1.0], iter(range(100))

    def poison() -> bool:
        scale[0] = math.nan if next(steps) == 7 else 1.0  # 5 steps an epoch: epoch 1, step 2
        return False

    config = TrainConfig(epochs=3, lr=0.1, schedule="constant", **PLAIN)
    with pytest.raises(TrainingError, match=r"epoch 1, step 2 of 5, lr 0\.1\. .*run\.pt"):
        fit(resnet8(), small(digits), config, task=broken, checkpoint=path, stop=poison)
    state = torch.load(path, weights_only=True)
    assert len(state["history"]) == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def test_weights_broken_by_the_last_step_never_reach_a_checkpoint(digits, tmp_path):
    path, model = tmp_path / "run.pt", resnet8()
    # one step: its loss is finite, but 3e38 * (gradient + 100 weight) is beyond float32's 3.4e38
    config = TrainConfig(epochs=1, lr=3e38, weight_decay=100, schedule="constant", **PLAIN)
    batches = small(digits, 64)
    with pytest.raises(TrainingError, match=r"not finite after epoch 0.*run\.pt"):
        fit(model, batches, config, checkpoint=path)
    assert not torch.load(path, weights_only=True)["history"]


def test_checkpoint_of_another_run_is_refused(digits, tmp_path):
    path = tmp_path / "run.pt"
    config = TrainConfig(epochs=1, **PLAIN)

    def go(model=None, batches=None, config=config, seed=0, **kwargs):
        batches = batches or small(digits, 64)
        return fit(model or resnet8(), batches, config, seed=seed, checkpoint=path, **kwargs)

    go()
    assert len(go().history) == 1
    with pytest.raises(TrainingError, match=r"lr was '0\.1' and is now '0\.2'.*resume=False"):
        go(config=config.model_copy(update={"lr": 0.2}))
    with pytest.raises(TrainingError, match="seed was '0' and is now '1'"):
        go(seed=1)
    with pytest.raises(TrainingError, match="data labels was"):
        go(batches=small(digits, indices=torch.arange(64, 128)))
    with pytest.raises(TrainingError, match="model was"):
        go(model=with_dropout())
    assert len(go(config=config.model_copy(update={"lr": 0.2}), resume=False).history) == 1


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


@pytest.mark.parametrize("make", [resnet8, with_dropout])
@pytest.mark.parametrize("at", [0, 3, 5, 12])  # 5 steps an epoch
def test_stop_and_resume_changes_no_bit(digits, tmp_path, make, at):
    config = TrainConfig(epochs=4, lr=0.1, **PLAIN)
    whole = make()
    undisturbed = fit(whole, small(digits), config, seed=5)
    part, steps = make(), iter(range(100))
    path = tmp_path / "run.pt"
    common = {"seed": 5, "checkpoint": path}
    first = fit(part, small(digits), config, stop=lambda: next(steps) == at, **common)
    assert first.stopped
    assert len(first.history) == math.ceil(at / 5)
    torch.manual_seed(123)  # torch's own random state does not matter
    second = fit(part, small(digits), config, **common)
    same(part, whole)
    for a, b in zip(second.history, undisturbed.history, strict=True):
        timed = {"seconds": 0, "processor_seconds": 0}
        assert {**a, **timed} == {**b, **timed}


@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0)])
def test_images_read_by_workers_and_an_average_resume_to_the_same_bits(tmp_path, first, then):
    folder = data.load(f"folder:{write_folder(tmp_path, train=4)}")
    config, path = TrainConfig(epochs=3, lr=0.1, ema=0.9, **PLAIN), tmp_path / "run.pt"

    def go(workers: int, **more: Any) -> nn.Module:
        torch.manual_seed(0)
        front = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16**2, 64))
        model = nn.Sequential(front, with_dropout())
        made = replace(folder, size=16, workers=workers).batches("train", batch_size=3)
        fit(model, made, config, seed=5, **more)
        return model

    steps = iter(range(100))
    go(first, checkpoint=path, stop=lambda: next(steps) == 4)  # 3 steps an epoch
    same(go(then, checkpoint=path), go(0))


def test_the_average_of_the_weights_by_hand_takes_their_place(digits):
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    task = data.Task("falling", lambda x, y: x.mean(), lambda x, y: x.sum(), "sum")
    wanted = model[1].bias.detach().clone()
    note = register_optimizer_step_post_hook(lambda *_: seen.append(model[1].bias.detach().clone()))
    fit(model, small(digits), TrainConfig(epochs=1, ema=0.5, **PLAIN), task=task)
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
        config = TrainConfig(epochs=2, lr=0.1, **settings, **PLAIN)
        fit(model, small(data.load("digits")), config, pruner=pruner)
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


def test_the_seed_matters(digits):
    config = TrainConfig(epochs=1, **PLAIN)
    a, b = with_dropout(), with_dropout()
    fit(a, small(digits), config, seed=1)
    fit(b, small(digits), config, seed=2)
    assert not torch.equal(a[1].weight, b[1].weight)


def test_resume_keeps_the_measured_precision(digits, tmp_path):
    path, steps = tmp_path / "run.pt", iter(range(100))
    config = TrainConfig(epochs=1, precision="auto", channels_last="auto")
    first = fit(resnet8(), small(digits), config, stop=lambda: next(steps) == 2, checkpoint=path)
    second = fit(resnet8(), small(digits), config, checkpoint=path)
    assert len(first.milliseconds) == 4
    assert second.milliseconds == first.milliseconds
    assert (second.precision, second.channels_last) == (first.precision, first.channels_last)


def test_on_epoch_sees_saved_epochs(digits, tmp_path):
    path, seen = tmp_path / "run.pt", []

    def look(record: dict[str, float]) -> None:
        seen.append((record["epoch"], len(torch.load(path, weights_only=True)["history"])))

    config = TrainConfig(epochs=2, **PLAIN)
    fit(resnet8(), small(digits, 64), config, checkpoint=path, on_epoch=look)
    assert seen == [(0, 1), (1, 2)]


@pytest.mark.parametrize("at", [2, 7])
def test_ctrl_c_leaves_a_checkpoint(digits, tmp_path, at):
    config = TrainConfig(epochs=3, **PLAIN)
    path, steps, whole, part = tmp_path / "run.pt", iter(range(100)), resnet8(), resnet8()

    def press() -> bool:
        if next(steps) == at:
            signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt, match=rf"{at // 5} of 3 epochs.*resumes from .*run\.pt"):
        fit(part, small(digits), config, checkpoint=path, stop=press)
    fit(part, small(digits), config, checkpoint=path)
    fit(whole, small(digits), config)
    same(part, whole)


def test_ctrl_c_without_a_checkpoint(digits):
    def press() -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt, match="starts over"):
        fit(resnet8(), small(digits), TrainConfig(epochs=1), stop=press)


# Imported once, by the server, and not by each of the five processes of the test.
