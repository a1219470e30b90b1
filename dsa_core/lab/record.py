"""The record of one run: what was asked, what came out, how long it took, on what. JSON."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsa_core.budget import Resource
from dsa_core.errors import ConfigError
from dsa_core.files import write_atomically
from dsa_core.lab.latency import Latency

FILE = "record.json"


class Strict(BaseModel):
    """Frozen, and an unknown entry is an error; JSON has no NaN and infinity: they become text."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CostRecord(Strict):
    """One resource.

    Attributes:
        dense: of the whole network, in units (MACs of one example, or parameters; of latency,
            nanoseconds of a batch, timed in turn with the pruned network).
        asked_ratio: of the dense cost; None for a resource that was not limited.
        relaxed_ratio: cost of the relaxed keep ratios, of the dense cost.
        whole: predicted for the whole channels kept, in units.
        counted: measured on the pruned network by torch's own counters, or by the clock, in units.
    """

    dense: int
    asked_ratio: float | None
    relaxed_ratio: float
    whole: int
    counted: int

    @property
    def ratio(self) -> float:
        """Counted cost of the pruned network as a ratio of the dense one."""
        return self.counted / self.dense


class Scores(Strict):
    """The task's score on the test set, in the record's `score_unit`; a share of 1 if that is "%".

    Attributes:
        dense: before the search; None if the search started from random weights.
        pruned: right after the cut and the recalibration of BatchNorm.
        fine_tuned: at the end.
        masked_loss: loss on the validation part under the final hard mask, before the cut.
    """

    dense: float | None
    pruned: float
    fine_tuned: float
    masked_loss: float


class OnnxRecord(Strict):
    """The pruned network as ONNX.

    Attributes:
        file: its name in the run's folder.
        megabytes: its size.
        max_abs_diff: largest difference of an output between ONNX Runtime and the pruned network.
        latency: in ONNX Runtime on the CPU.
    """

    file: str
    megabytes: float
    max_abs_diff: float
    latency: Latency


class GroupRecord(Strict):
    """One prunable channel group."""

    name: str
    size: int
    kept: int
    keep_ratio: float


class Record(Strict):
    """One run.

    Attributes:
        schema_version: of this layout.
        config_hash: of the configuration in `config.json`.
        series: of the same without the seed; "" in records that did not have it yet.
        floors, divisor: what else was asked, see `Budget`.
        budget_met: whether the counted cost is within what was asked.
        score_unit: "%" (scores lie in [0, 1] and are shown times 100), or "dB".
        extra_scores: what else the task measures, by name, then "dense", "pruned", "fine_tuned".
        seconds, epochs: by phase: "dense", "search", "fine_tune".
        processor_seconds: of all threads of the process, by phase; what else the machine did does
            not count. Empty in records that did not have it yet.
        trials: searches it took until the budget was met, or until the method gave up on it; their
            seconds and epochs all count.
        dense_reused: whether an earlier run trained the dense network (its seconds count here too).
        latency: of the dense and the pruned network.
        onnx: what was written for other runtimes; None if that was not asked for.
        precision: number format of the fine-tuning; the search's is in `notes`.
        versions: of python, torch, torchvision, dsa_core.
        git_commit: of the source tree, if it is one.
    """

    schema_version: Literal[1] = 1
    config_hash: str
    series: str = ""
    method: str
    model: str
    dataset: str
    preset: str
    seed: int
    resource: Resource
    asked_ratio: float
    floors: dict[str, float] = {}
    divisor: int = 1
    budget_met: bool
    costs: dict[Resource, CostRecord]
    score_name: str
    score_unit: str = "%"
    scores: Scores
    extra_scores: dict[str, dict[str, float]] = {}
    groups: tuple[GroupRecord, ...]
    seconds: dict[str, float]
    processor_seconds: dict[str, float] = {}
    epochs: dict[str, int]
    trials: int = 1
    dense_reused: bool
    latency: dict[str, Latency]
    onnx: OnnxRecord | None = None
    precision: str
    versions: dict[str, str]
    device: str
    git_commit: str | None
    notes: dict[str, str | float | bool] = {}

    @property
    def total_seconds(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())


def write_record(folder: Path, record: Record) -> Path:
    """Write `record.json` atomically."""
    path = folder / FILE
    write_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ConfigError: the file is not a record; names the first entry that is wrong.
    """
    try:
        return Record.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {entry}: {first['msg']}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file: {error}") from error


def find_records(*roots: Path) -> list[Record]:
    """Read all records below some folders, in the order of their paths; equal ones count once.

    Raises:
        ConfigError: a folder is missing, or a file is not a record.
    """
    found: dict[str, Record] = {}
    for root in roots:
        if not root.exists():
            raise ConfigError(
                f"{root} does not exist: give the folder that `dsa run --out` wrote to"
            )
        for path in sorted(root.rglob(FILE)):
            record = read_record(path)
            found.setdefault(record.model_dump_json(), record)
    return list(found.values())
