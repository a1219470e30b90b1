"""Checks before anything is trained: do network, dataset and budget fit each other?"""

import torch
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.channels.export import failing_module
from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.lab import models
from dsa_core.lab.data import AnyDataset
from dsa_core.lab.runs.config import RunConfig
from dsa_core.methods.amc import check_amc
from dsa_core.pruner import Pruner
from dsa_core.surgery import prune
from dsa_core.surgery.verify import some_channels
from dsa_core.tracing import trace
from dsa_core.training import TrainConfig, choose_precision, mode

SLOW = 1.3  # times fp32's time: more than noise


def start(
    config: RunConfig, dataset: AnyDataset, example: Tensor
) -> tuple[nn.Module, ChannelGraph]:
    """Build the network from its seed and trace it; refuse now what would fail hours later.

    Args:
        config: of the run.
        dataset: gives the number of classes, and a task that must fit the network's outputs.
        example: zeros in the shape of one example, on the device of the run.

    Raises:
        ConfigError: the network is unknown, does not accept images of this shape, or is for another
            task; or the calibration is of another network or machine.
        TraceError: it cannot be traced.
        SurgeryError: a cut network of its kind cannot run in training mode.
        BudgetError: the budget is out of range, below the cost of its floors, or not supported by
            the method.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = models.build(config.model, num_classes=dataset.num_classes).to(example.device)
    try_images(config, model, example)
    try_task(config, dataset, model, example.device)
    graph = trace(model, example)
    if config.calibration is not None:
        config.calibration.check(config.model, example, config.divisor)
    config.budget.check(config.budget.costs(graph))
    for how in phases_of(config).values():
        dataset.task.training_loss(how.label_smoothing)
    try_method(config, model, graph)
    try_training(config, model, graph, example)
    return model, graph


def try_method(config: RunConfig, model: nn.Module, graph: ChannelGraph) -> None:
    """Refuse settings and budgets with which the method could not search."""
    search, name = config.preset.search, config.method
    if name == "amc":
        check_amc(graph, config.budget, search)
        return
    epochs, warmup = search.train.epochs, search.warmup_epochs
    if warmup and warmup >= epochs:
        raise ConfigError(
            f"search.warmup_epochs={warmup} leaves no epoch to search in: search.train.epochs="
            f"{epochs} counts the warm-up too"
        )
    Pruner(model, graph, config.budget, steps=epochs, method=search.method(name), seed=config.seed)


def try_task(
    config: RunConfig, dataset: AnyDataset, model: nn.Module, device: torch.device
) -> None:
    """Compute the loss of one example; ConfigError if the network is for another task."""
    batches = dataset.batches("train", batch_size=1, augment="none", shuffle=False, device=device)
    x, y = next(iter(batches.epoch(0)))
    with mode(model, training=False), torch.no_grad():
        outputs = model(x)
        try:
            dataset.task.loss(outputs, y)
        except Exception as error:
            shape = by(tuple(outputs.shape)) if isinstance(outputs, Tensor) else type(outputs)
            raise ConfigError(
                f"{config.model} is not for {dataset.task.name}, the task of {config.dataset}: it "
                f"returns {shape}, the targets are {by(tuple(y.shape))} ({error}). Name another "
                "network (segnet_small and lraspp_mobilenet_v3_large segment, edsr_small enlarges),"
                " or another dataset"
            ) from error


def try_images(config: RunConfig, model: nn.Module, example: Tensor) -> None:
    """Run the network once; ConfigError if it does not accept images of this shape."""
    try:
        with mode(model, training=False), torch.no_grad():
            model(example)
    except Exception as error:
        raise ConfigError(
            f"{config.model} does not take the images of {config.dataset}, "
            f"{by(tuple(example.shape[1:]))}{made_for(config.model)}: "
            f"{failing_module(model, error)}: {error}. Name another network "
            "(resnet20 and the like take 3x32x32, resnet8 takes 1x8x8), or another dataset"
        ) from error


def try_training(config: RunConfig, model: nn.Module, graph: ChannelGraph, example: Tensor) -> None:
    """Run a cut copy on the CPU in training mode, which may use more layers than evaluation;
    SurgeryError if it fails."""
    least = config.budget.least_counts(config.budget.cost(graph)).tolist()
    names = {g.name for g, low in zip(graph.prunable, least, strict=True) if low < g.size}
    pruned = prune(model, graph, some_channels(graph, names)).cpu()
    try:
        with mode(pruned, training=True), torch.no_grad(), torch.random.fork_rng(devices=[]):
            pruned(torch.zeros((2, *example.shape[1:])))
    except Exception as error:
        unread = ", ".join(graph.unused) or "nothing that is known"
        raise SurgeryError(
            f"the pruned network cannot run in training mode: {failing_module(pruned, error)}: "
            f"{error}. Channels are followed in evaluation mode, which never reads: {unread}. Keep "
            "the groups that those layers read by a floor of 1"
        ) from error


def phases_of(config: RunConfig) -> dict[str, TrainConfig]:
    """How each phase of a run trains, by the name of its settings."""
    preset = config.preset
    phases = {"search.train": preset.search.train, "fine_tune": preset.fine_tune}
    dense = preset.dense if config.weights is None else None
    return phases if dense is None else {"dense": dense, **phases}


def slow_format(config: RunConfig, model: nn.Module, example: Tensor) -> str:
    """Advice for a run in bf16 on a processor that computes fp32 faster; empty for other runs."""
    names = [
        name for name, how in phases_of(config).items() if how.precision == "bf16" and how.epochs
    ]
    if not names or example.device.type != "cpu":
        return ""
    some = example.new_zeros((4, *example.shape[1:]))
    times = choose_precision(model, some, channels_last=True).milliseconds
    ratio = times["bf16 channels_last"] / times["fp32 channels_last"]
    if ratio < SLOW:
        return ""
    settings = " ".join(f"--set {name}.precision=fp32" for name in names)
    return f"bf16 takes {ratio:.1f} x the time of fp32 on this processor: consider {settings}"


def made_for(name: str) -> str:
    """The image shape a network is made for, if it states one."""
    try:
        return f" (it is made for {by(tuple(models.example_input(name).shape[1:]))})"
    except ConfigError:
        return ""


def by(shape: tuple[int, ...]) -> str:
    """A shape as text: 3x32x32."""
    return "x".join(map(str, shape))
