"""`dsa bench` and `dsa calibrate`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dsa_core.errors import ConfigError
from dsa_core.lab.help import DIVISOR_HELP, MODEL_HELP
from dsa_core.lab.screen import console

JSON_HELP = "no MODEL: every figure of the library as one JSON object, under 10 minutes"
QUICK_HELP = "few rounds: under a minute"
PROFILE_HELP = "where the time of a search goes, in a table (networks for 3x32x32)"
COMPILED_HELP = "by torch.compile too; the first pass takes long"
ONNX_HELP = "in ONNX Runtime instead, on the CPU in float32"
CALIBRATION_OUT = "file to write; give it to `dsa run --budget latency=0.6 --calibration FILE`"
DEFAULT_OUT = Path("calibration.json")


def bench_command(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quick: Annotated[bool, typer.Option("--quick", help=QUICK_HELP)] = False,
    profile: Annotated[bool, typer.Option("--profile", help=PROFILE_HELP)] = False,
    macs: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the pruned network")] = 0.5,
    divisor: Annotated[int, typer.Option(min=1, help=DIVISOR_HELP)] = 1,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="(default: 1 and 128)")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help=COMPILED_HELP)] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help=ONNX_HELP)] = False,
    repeats: Annotated[int, typer.Option(min=1, help="rounds that are timed")] = 15,
) -> None:
    """Measure how fast a network is, dense and pruned; or, with --json, how fast the library is.

    Progress goes to stderr. Leave the machine alone meanwhile: other work spoils every number.

    Example: dsa bench resnet20 --divisor 8
    """
    if (model is None) != as_json:
        raise ConfigError("name a network to measure, or ask for --json without one")
    screen = console()
    if model is None:
        from dsa_core.lab.bench.report import all_figures

        print(json.dumps(all_figures(quick=quick, report=tell), indent=1))
    elif profile:
        from dsa_core.lab.bench.profile import profile_search
        from dsa_core.lab.bench.tables import profile_table

        screen.print(profile_table(model, profile_search(model, steps=10 if quick else 40)))
    else:
        rounds, batches = 3 if quick else repeats, batch or [1, 128]
        compare_network(model, macs, divisor, batches, compiled, onnx, repeats=rounds)


def compare_network(
    name: str,
    macs: float,
    divisor: int,
    batches: list[int],
    compiled: bool,
    onnx: bool,
    *,
    repeats: int,
) -> None:
    """Print the table of one network."""
    from dsa_core.lab import models
    from dsa_core.lab.bench.networks import compare, compare_onnx, formats, uniform_pair
    from dsa_core.lab.bench.tables import latency_table
    from dsa_core.lab.device import device_of

    device = device_of()
    pair = uniform_pair(name, macs=macs, divisor=divisor, device=device)
    rows = []
    for n in batches:
        x = models.example_input(name, n).to(device)
        if onnx:
            tell(f"batch {n}, ONNX Runtime")
            rows.append(compare_onnx(pair, x, repeats=repeats))
            continue
        for precision in formats():
            for fused in (False, True) if compiled else (False,):
                tell(f"batch {n}, {precision.name}{', channels_last' * precision.channels_last}")
                rows.append(compare(pair, x, precision, repeats=repeats, compiled=fused))
    screen = console()
    screen.print(latency_table(pair, rows))


def calibrate_command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    batch: Annotated[int, typer.Option(min=1, help="examples in the batch that is timed")] = 128,
    divisor: Annotated[int, typer.Option(min=1, help=DIVISOR_HELP)] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="memory order")] = False,
    classes: Annotated[int, typer.Option(min=1, help="outputs of the network")] = 10,
    out: Annotated[Path, typer.Option(help=CALIBRATION_OUT)] = DEFAULT_OUT,
) -> None:
    """Time many widths of a network on this machine, and fit what a channel costs: JSON.

    Example: dsa calibrate resnet20 --batch 128 --divisor 8
    """
    import torch

    from dsa_core.lab import models
    from dsa_core.lab.calibration import CalibrationSettings, calibrate
    from dsa_core.lab.device import device_of
    from dsa_core.tracing import trace
    from dsa_core.training import Precision
    from dsa_core.training.precision import DTYPES

    if precision not in DTYPES:
        raise ConfigError(f"--precision must be one of {', '.join(DTYPES)}, got {precision!r}")
    check_writable(out, model)
    device = device_of()
    with torch.random.fork_rng(devices=[]):
        network = models.build(model, num_classes=classes).to(device)
    x = models.example_input(model, batch).to(device)
    found = calibrate(
        network,
        trace(network, x[:1]),
        x,
        CalibrationSettings(divisor=divisor),
        precision=Precision(precision, channels_last),
        name=model,
        on_visit=lambda done, n: tell(f"{done} of {n} widths", every=20, count=done),
    )
    found.write(out)
    print(
        f"{model}: dense {found.dense_ms:.2f} ms a batch of {batch}, {found.device}, {precision}. "
        f"{found.configurations} widths fitted; on {found.held_out} others the form is off by "
        f"{found.error_median:.1%} in the median, {found.error_max:.1%} at most\n"
        f"calibration: {out}"
    )


def check_writable(out: Path, model: str) -> None:
    """Refuse now a file that cannot be written after the minutes of timing, or is of another."""
    from dsa_core.lab.calibration import read_calibration
    from dsa_core.lab.runs.folder import check_folder

    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder: name a file")
    check_folder(out.absolute().parent)
    if out.exists() and (found := read_calibration(out).model) != model:
        raise ConfigError(f"--out: {out} is the calibration of {found!r}: name another file")


def tell(text: str, *, every: int = 1, count: int = 0) -> None:
    """Print progress on stderr."""
    if count % every == 0:
        print(text, file=sys.stderr, flush=True)
