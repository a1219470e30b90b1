"""`dsa report` prints a table of records, `dsa records pack` writes a file of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsa_core.errors import ConfigError
from dsa_core.lab.screen import console

if TYPE_CHECKING:
    from dsa_core.lab.record import Record

Form = Literal["text", "markdown", "csv"]
Columns = Literal["results", "cost", "status", "overview"]
RUNS_HELP = "folders written by `dsa run --out`, or files of records (.jsonl)"
COLUMNS_HELP = (
    "results; cost: trials, epochs and seconds of the search, relative to DSA; status: fewer "
    "columns; overview: a row per method, a column per budget"
)
INTO_HELP = "a Markdown page: put the table between <!-- dsa report: begin --> and its end"
PACK_HELP = "the file (default: FOLDER.jsonl); runs are added to it, or replaced in it"


def report_command(
    runs: Annotated[list[Path], typer.Argument(help=RUNS_HELP)],
    form: Annotated[Form, typer.Option("--format", help="text, markdown or csv")] = "text",
    columns: Annotated[Columns, typer.Option(help=COLUMNS_HELP)] = "results",
    into: Annotated[Path | None, typer.Option(help=INTO_HELP)] = None,
) -> None:
    """Gather records into a table: a row per method and budget, mean and spread over seeds."""
    from dsa_core.files import write_atomically
    from dsa_core.lab import report
    from dsa_core.lab.record_files import find_records

    records = find_records(*runs)
    if not records:
        raise ConfigError(
            f"no record that can be read in {', '.join(map(str, runs))}: is a run still going?"
        )
    if into is None:
        show(records, form, columns)
        return
    if form == "csv":
        raise ConfigError("--into: a page takes a Markdown table; leave out --format")
    if not into.is_file():
        raise ConfigError(f"--into: there is no page {into}")
    table = report.as_markdown(records, columns)
    write_atomically(into, report.put_into(into.read_text(encoding="utf-8"), table))


def show(records: "Sequence[Record]", form: Form = "text", columns: Columns = "results") -> None:
    """Print a table of records."""
    from dsa_core.lab import report

    if form == "text":
        screen = console()
        screen.print(report.as_table(records, width=screen.width, table=columns))
    elif form == "markdown":
        print(report.as_markdown(records, columns))
    else:
        print(report.as_csv(records, columns), end="")


records_app = typer.Typer(no_args_is_help=True, help="Files of records.")


@records_app.command("pack")
def pack_command(
    folder: Annotated[Path, typer.Argument(help="folder written by `dsa run --out`")],
    into: Annotated[Path | None, typer.Option(help=PACK_HELP)] = None,
) -> None:
    """Gather the records of all runs below a folder in one file, one per line.

    Example: dsa records pack runs/methods_digits --into data/records/methods_digits.jsonl
    """
    from dsa_core.lab.record_files import pack

    whole = folder.resolve()
    file = into or whole.with_name(f"{whole.name}.jsonl")
    print(f"{file}: {pack(folder, file)} records")
