"""The command line: run, batch, report, records, groups, check, data, bench, calibrate."""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_core.errors import ConfigError, DSAError
from dsa_core.lab import help as texts
from dsa_core.lab.batch.cli import batch_command
from dsa_core.lab.bench.cli import bench_command, calibrate_command
from dsa_core.lab.options import parse_budgets, parse_changes, parse_floors
from dsa_core.lab.report_cli import records_app, report_command, show
from dsa_core.lab.screen import console

if TYPE_CHECKING:
    from dsa_core.lab.record import Record
    from dsa_core.lab.runs import RunConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Budgeted pruning by differentiable sparsity allocation: given a network and a budget, "
    "find how many channels each layer may keep, cut the rest out, and fine-tune.",
)
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
LONGEST = 100  # characters of the seeds in the name of a plot
RESUME = "Give the same `dsa run` command again to resume"


@app.command("run")
def run_command(
    preset: Annotated[str, typer.Option(help=texts.PRESET_HELP)] = "quick",
    method: Annotated[list[str] | None, typer.Option(help=texts.METHOD_HELP)] = None,
    budget: Annotated[list[str] | None, typer.Option(help=texts.BUDGET_HELP)] = None,
    model: Annotated[
        str | None, typer.Option(help=f"{texts.MODEL_HELP} (default: the preset's)")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help=texts.DATASET_HELP)] = None,
    floor: Annotated[list[str] | None, typer.Option(help=texts.FLOOR_HELP)] = None,
    divisor: Annotated[int, typer.Option(min=1, help=texts.DIVISOR_HELP)] = 1,
    weights: Annotated[Path | None, typer.Option(help=texts.WEIGHTS_HELP)] = None,
    calibration: Annotated[Path | None, typer.Option(help=texts.CALIBRATION_HELP)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=texts.SET_HELP)] = None,
    seed: Annotated[list[int] | None, typer.Option(help=texts.SEED_HELP)] = None,
    out: Annotated[Path, typer.Option(help=texts.OUT_HELP)] = Path("runs"),
    data: Annotated[Path | None, typer.Option(help=texts.ROOT_HELP)] = None,
    force: Annotated[bool, typer.Option("--force", help=texts.FORCE_HELP)] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help=texts.ONNX_HELP)] = False,
    int8: Annotated[bool, typer.Option("--int8", help=texts.INT8_HELP)] = False,
    workers: Annotated[int | None, typer.Option(min=0, help=texts.WORKERS_HELP)] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="no progress bars, only the table")
    ] = False,
) -> None:
    """Search, cut and fine-tune; print a table, write records and a plot of the allocation.

    After a stop or a kill, the same command resumes where it was.

    Example: dsa run --preset cpu-short --method dsa --method uniform --budget macs=0.5
    """
    from dsa_core.lab.runs import configure, dry_run, run
    from dsa_core.training.processes import process_group

    asked = parse_budgets(budget or ["macs=0.5"], calibration)
    points = itertools.product(asked, method or ["dsa"], seed or [0])
    configs = [
        configure(
            preset,
            method=name,
            model=model,
            dataset=dataset,
            resource=resource,
            ratio=ratio,
            also=dict(others),
            floors=parse_floors(floor or []),
            divisor=divisor,
            seed=number,
            weights=weights,
            calibration=calibration,
            changes=parse_changes(set_ or []),
        )
        for ((resource, ratio), *others), name, number in points
    ]
    configs = list({c.hash: c for c in configs}.values())  # duplicates are one run
    kinds = list({(c.method, str(c.asked)): c for c in configs}.values())
    if len(kinds) > 1:  # before hours are spent on the first
        dry_run(kinds, data)
    try:
        records = [
            run(
                c,
                out,
                data_root=data,
                weights=weights,
                progress=not quiet,
                force=force,
                onnx=onnx,
                int8=int8,
                workers=workers,
            )
            for c in configs
        ]
    except KeyboardInterrupt as stop:  # typer would exit silently
        how = f"{RESUME}, without --force" if force else RESUME
        print(f"\n{stop or 'interrupted'}. {how}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if process_group().is_main:  # other ranks print nothing
        report_runs(configs, records, out)


def report_runs(configs: "Sequence[RunConfig]", records: "Sequence[Record]", out: Path) -> None:
    """Print the table of some runs, and the paths of their records and plots."""
    from dsa_core.files import write_atomically
    from dsa_core.lab.plots import allocation_figure, png

    show(records)
    for config in configs:
        print(f"record:  {out / config.folder / 'record.json'}")
    budgets: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        budgets.setdefault(str(config.asked), []).append(i)
    for same in budgets.values():  # the bars of one plot share a budget
        plot = out / plot_name([configs[i] for i in same])
        write_atomically(plot, png(allocation_figure([records[i] for i in same])))
        print(f"plot: {plot}")


def plot_name(configs: "Sequence[RunConfig]") -> str:
    """The folder name of the first run, with the methods and seeds of all."""
    first = configs[0]
    methods = "-".join(dict.fromkeys(c.method for c in configs))
    seeds = "-".join(dict.fromkeys(str(c.seed) for c in configs))
    if len(seeds) > LONGEST:
        seeds = f"{seeds[:LONGEST]}-and-more"
    name = first.folder.replace(first.method, methods, 1)
    return f"allocation-{name.replace(f'-seed{first.seed}-', f'-seed{seeds}-')}.png"


@app.command("groups")
def groups_command(
    model: Annotated[str, typer.Argument(help=texts.MODEL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Show the channel groups of a network: what is removed together, and what is frozen.

    Example: dsa groups resnet20
    """
    from dsa_core.budget import Cost
    from dsa_core.lab import models
    from dsa_core.tracing import trace

    network = models.build(model)
    graph = trace(network, models.example_input(model))
    macs, params = Cost.of(graph, "macs").dense, Cost.of(graph, "params").dense
    if not as_json:
        print(graph)
        print(
            f"{macs / 1e6:.2f} M MACs, {params / 1e6:.3f} M parameters, "
            f"{len(graph.prunable)} prunable groups"
        )
        return
    groups = [
        {"name": g.name, "size": g.size, "members": g.members, "prunable": g.frozen is None}
        for g in graph.groups
    ]
    found = {
        "model": model,
        "groups": groups,
        "prunable_groups": len(graph.prunable),
        "macs": macs,
        "params": params,
        "frozen": [{"reason": reason, "channels": n} for reason, n in graph.frozen.items()],
        "unknown_ops": graph.unknown_ops,
    }
    print(json.dumps(found, indent=1))


@app.command("check")
def check_command(
    names: Annotated[list[str] | None, typer.Argument(help=f"networks: {texts.MODEL_HELP}")] = None,
    zoo: Annotated[bool, typer.Option("--zoo", help=texts.ZOO_HELP)] = False,
    keep: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of every group to keep")
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="a list of JSON objects")] = False,
) -> None:
    """Check that pruning a network gives the same outputs as masking it.

    Traces it, drops random channels, compares masked with pruned outputs and predicted with
    counted MACs, saves it, loads it, and compares again.
    """
    from dsa_core.lab import models
    from dsa_core.lab.check import check, summary

    chosen = list(names or []) + (models.names(torchvision=True) if zoo else [])
    if not chosen:
        raise ConfigError("name a network, or pass --zoo")
    rows = []
    for name in chosen:
        rows.append(check(name, keep=keep))
        if not as_json:
            r = rows[-1]
            diff = "-" if r.max_abs_diff is None else f"{r.max_abs_diff:.1e}"
            print(
                f"{r.status:7} {r.model:24} {r.groups:4d} groups  masked - pruned {diff:8} "
                f"MACs {r.macs_predicted} / {r.macs_counted}  {r.seconds:6.1f} s  {r.reason}",
                flush=True,
            )
    print(json.dumps([r.model_dump() for r in rows], indent=1) if as_json else summary(rows))
    if any(r.status != "ok" for r in rows):
        raise typer.Exit(1)


@app.command("data")
def data_command(
    name: Annotated[str | None, typer.Argument(help="a dataset (default: list all)")] = None,
    root: Annotated[Path | None, typer.Option(help=texts.ROOT_HELP)] = None,
    download: Annotated[bool, typer.Option("--download", help="download it if missing")] = False,
) -> None:
    """Show which datasets are available, or download one."""
    from rich.table import Table

    from dsa_core.lab import data

    table = Table(box=None, pad_edge=False)
    for column in ("dataset", "classes", "train", "test", "state"):
        table.add_column(column)
    for each in [name] if name else data.names():
        try:
            found = data.load(each, root, download=download)
            sizes = [str(found.num_classes), str(found.count("train")), str(found.count("test"))]
            table.add_row(each, *sizes, "ready")
        except DSAError as error:
            if name:
                raise
            table.add_row(each, "", "", "", f"not there: {error}")
    console().print(table)


app.command("report")(report_command)
app.add_typer(records_app, name="records")
app.command("batch")(batch_command)
app.command("bench")(bench_command)
app.command("calibrate")(calibrate_command)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 1 a network failed `dsa check`, or a run of a batch failed; 2 an error,
    reported in one line (set DSA_TRACEBACK for the traceback); 130 stopped by Ctrl-C.
    """
    try:
        app()
    except (DSAError, ValueError, OSError) as error:
        if os.environ.get("DSA_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
