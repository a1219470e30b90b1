"""All figures of `dsa bench --json`, in one object."""

from collections.abc import Callable
from typing import Any

from dsa_core.lab.bench.figures import Figure
from dsa_core.lab.bench.images import made_up, normalised
from dsa_core.lab.bench.networks import compare, formats, uniform_pair
from dsa_core.lab.bench.soft_topk import by_group, by_scipy, speedup
from dsa_core.lab.bench.steps import step_times
from dsa_core.lab.bench.throughput import train_throughput
from dsa_core.lab.bench.tracing import trace_over_peer, trace_seconds, verification_cost
from dsa_core.lab.device import device_of
from dsa_core.lab.machine import machine
from dsa_core.training import FP32

Report = Callable[[str], None]
Figures = dict[str, Figure]
BATCH = 128
TEMPERATURE = 0.2  # the default search begins there: sharpness 5
HEADLINE = (1, "fp32")  # divisor and format of `speedup_over_mac_reduction_*`


def all_figures(*, quick: bool, report: Report) -> dict[str, Any]:
    """Measure everything.

    Args:
        quick: few rounds, and only the smallest networks: under a minute on 2 quiet cores instead
            of under ten.
        report: called with a line that says what is measured next.

    Returns:
        What JSON can hold: a figure by name, and under "machine" what ran.
    """
    found: Figures = {}
    for measure in (operator, steps, throughput, tracing, networks):
        found |= measure(quick, report)
    return {
        "machine": machine() | {"device": str(device_of())},
        "quick": quick,
        **{name: figure.model_dump() for name, figure in found.items()},
    }


def operator(quick: bool, report: Report) -> Figures:
    """The operator against a solver for each group."""
    report("soft_topk against SciPy")
    rounds = 10 if quick else 60
    return {
        "soft_topk_speedup_vs_scipy": speedup(by_group, temperature=TEMPERATURE, rounds=rounds),
        "soft_topk_speedup_vs_bare_scipy": speedup(
            by_scipy, temperature=TEMPERATURE, rounds=rounds
        ),
    }


def steps(quick: bool, report: Report) -> Figures:
    """Steps of a search over plain ones: free updates in every step, held-out ones every two."""
    found: Figures = {}
    rounds = {"resnet20": 24, "resnet56": 20, "mobilenet_v2": 20}
    for name, n in rounds.items():
        report(f"steps of a search: {name}")
        times = step_times(name, rounds=3 if quick else n, batch=BATCH)
        found[f"search_step_ratio_{name}"] = times.ratio("free")
        found[f"search_step_ratio_{name}_held_out"] = times.ratio("held_out")
    return found


def throughput(quick: bool, report: Report) -> Figures:
    """Training by our loop and by the usual one."""
    rounds, length = (2, 6) if quick else (7, 20)
    report("training throughput")
    ratio, speed = train_throughput("resnet20", rounds=rounds, steps=length)
    found = {"train_throughput_ratio": ratio, "train_throughput": speed}
    if not quick:
        report("training throughput, both in fp32")
        both, _ = train_throughput("resnet20", rounds=3, steps=length, precision="fp32")
        found["train_throughput_ratio_fp32"] = both
    return found


def tracing(quick: bool, report: Report) -> Figures:
    """The deepest ResNet; 12 networks beside torch-pruning; and their trial cut."""
    report("tracing resnet152")
    rounds = 1 if quick else 3
    found = {"trace_seconds_resnet152": trace_seconds("resnet152", rounds=rounds)}
    report("tracing beside torch-pruning")
    found |= trace_over_peer(rounds=rounds)
    report("the trial cut")
    return found | verification_cost(rounds=rounds)


def networks(quick: bool, report: Report) -> Figures:
    """Speed-up over the reduction of MACs: uniform, half the MACs."""
    names = ("resnet20",) if quick else ("resnet20", "resnet56", "resnet18_cifar")
    x, _ = next(normalised(made_up(BATCH), batch_size=BATCH, device=device_of()).epoch(0))
    found: Figures = {}
    for name in names:
        for divisor in (1,) if quick else (1, 8, 16):
            report(f"latency of {name}, widths in multiples of {divisor}")
            pair = uniform_pair(name, divisor=divisor, device=x.device)
            for precision in [FP32] if quick else formats():
                row = compare(pair, x, precision, repeats=3 if name == "resnet18_cifar" else 7)
                order = "_channels_last" if precision.channels_last else ""
                label = f"_divisor{divisor}_{precision.name}{order}"
                key = "" if (divisor, f"{precision.name}{order}") == HEADLINE else label
                note = (
                    f"MACs / {pair.mac_reduction:.3f}, uniform, divisor {divisor}, {precision.name}"
                )
                figure = row.over_macs.model_copy(update={"note": note + order.replace("_", " ")})
                found[f"speedup_over_mac_reduction_{name}{key}"] = figure
    return found
