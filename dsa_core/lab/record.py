"""The record of one run: settings, results, time and hardware."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, model_validator

from dsa_core.budget import Resource
from dsa_core.lab.latency import Latency

PHASES = ("dense", "search", "fine_tune")
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """Frozen, and an unknown entry is an error; NaN and infinity, which JSON lacks, become text."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CostRecord(Strict):
    """One resource.

    Attributes:
        dense: of the whole network, in units (MACs of one example, or parameters; of latency,
            nanoseconds of a batch, timed in turn with the pruned network).
        asked_ratio: of the dense cost; None for a resource that was not limited.
        relaxed_ratio: cost of the relaxed keep ratios, of the dense cost.
        whole: predicted for the whole channels kept, in units.
        counted: measured on the pruned network by torch's counters, or by the clock, in units.
    """

    dense: int = Field(ge=1)
    asked_ratio: Ratio | None
    relaxed_ratio: float = Field(ge=0, allow_inf_nan=False)
    whole: int = Field(ge=0)
    counted: int = Field(ge=0)

    @property
    def ratio(self) -> float:
        """Counted cost of the pruned network as a ratio of the dense one."""
        return self.counted / self.dense


class Scores(Strict):
    """The task's score on the test set, in the record's `score_unit`; a share of 1 if that is "%".

    Attributes:
        dense: before the search; None if the search started from random weights.
        pruned: right after the cut and the recalibration of BatchNorm.
        fine_tuned: after fine-tuning.
        masked_loss: loss on the held-out part under the final hard mask, with the BatchNorm
            statistics of the cut network, renewed or refitted (not in records before 0.2.0).
    """

    dense: FiniteFloat | None
    pruned: FiniteFloat
    fine_tuned: FiniteFloat
    masked_loss: float


class OnnxRecord(Strict):
    """The pruned network as ONNX.

    Attributes:
        file: its name in the run's folder.
        megabytes: its size.
        max_abs_diff: largest difference of an output between ONNX Runtime and the pruned network.
        latency: in ONNX Runtime on the CPU.
        score: of the test set, computed by ONNX Runtime; of the network in 8-bit integers.
        int8: that network, if it was asked for.
    """

    file: str
    megabytes: float
    max_abs_diff: float
    latency: Latency
    score: float | None = None
    int8: "OnnxRecord | None" = None


class GroupRecord(Strict):
    """One prunable channel group."""

    name: str
    size: int = Field(ge=1)
    kept: int = Field(ge=1)
    keep_ratio: float = Field(ge=0, le=1 + 1e-9)

    @model_validator(mode="after")
    def _fits(self) -> "GroupRecord":
        if self.kept > self.size:
            raise ValueError(f"kept must be at most the size, {self.size}, got {self.kept}")
        return self


class SearchRecord(Strict):
    """What a record keeps of the history of its search.

    Attributes:
        updates: number of entries in the history.
        path: keep ratios of every group, shape (T, K), during a search with a falling budget: for
            each whole per cent of the dense cost, those of the last update not below it. Empty for
            other searches. The final ones are in the record's `groups`.
        first_losses: on held-out batches at the first updates, to compare two runs of one
            configuration; None where there was no loss.
        epoch_seconds: of each epoch, all trials together.
    """

    updates: int = Field(ge=0)
    path: tuple[tuple[Ratio, ...], ...] = ()
    first_losses: tuple[FiniteFloat | None, ...] = ()
    epoch_seconds: tuple[Seconds, ...] = ()


class Record(Strict):
    """One run.

    Attributes:
        schema_version: of this layout.
        config_hash: of the configuration.
        series: the same without the seed; "" in older records.
        also_asked: ratios of the other resources limited at the same time.
        floors, divisor: see `Budget`.
        budget_met: whether the counted cost is within what was asked.
        score_unit: "%" (scores lie in [0, 1] and are shown times 100), or "dB".
        extra_scores: the task's other metrics, by name, then "dense", "pruned", "fine_tuned".
        seconds, epochs: by phase: "dense", "search", "fine_tune".
        processor_seconds: CPU time of all threads of the process, by phase; empty in older records.
        trials: searches until the budget was met or the method gave up; their seconds and epochs
            all count.
        dense_reused: whether an earlier run trained the dense network (its seconds count here too).
        latency: of the dense and the pruned network.
        onnx: the exported network; None if not requested.
        precision: number format of the fine-tuning; the search's is in `notes`.
        versions: of python, torch, torchvision, numpy, dsa_core.
        git_commit: of the source tree; None outside a git repository.
        search: the course of the search; None in older records.
        config: all settings, as in the run's `config.json`; empty in older records.
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
    asked_ratio: Ratio
    also_asked: dict[Resource, Ratio] = {}
    floors: dict[str, float] = {}
    divisor: int = Field(default=1, ge=1)
    budget_met: bool
    costs: dict[Resource, CostRecord]
    score_name: str
    score_unit: str = "%"
    scores: Scores
    extra_scores: dict[str, dict[str, float]] = {}
    groups: tuple[GroupRecord, ...]
    seconds: dict[str, Seconds]
    processor_seconds: dict[str, Seconds] = {}
    epochs: dict[str, Annotated[int, Field(ge=0)]]
    trials: int = Field(default=1, ge=1)
    dense_reused: bool
    latency: dict[str, Latency]
    onnx: OnnxRecord | None = None
    precision: str
    versions: dict[str, str]
    device: str
    git_commit: str | None
    notes: dict[str, str | float | bool] = {}
    search: SearchRecord | None = None
    config: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _whole(self) -> "Record":
        """Check that all entries read by tables exist, and the range of scores in per cent."""
        require("costs", self.costs, ("macs", "params", *self.asked))
        require("latency", self.latency, ("dense", "pruned"))
        require("seconds", self.seconds, PHASES)
        require("epochs", self.epochs, PHASES)
        for name, score in self.scores.model_dump(exclude={"masked_loss"}).items():
            if self.score_unit == "%" and score is not None and not 0 <= score <= 1:
                raise ValueError(f"scores.{name} must be a share in [0, 1], got {score}")
        widths = {len(ratios) for ratios in self.search.path} if self.search else set()
        if widths - {len(self.groups)}:
            raise ValueError(f"search.path needs {len(self.groups)} ratios a row, got {widths}")
        return self

    @property
    def asked(self) -> dict[Resource, float]:
        """The budget: the ratio of each limited resource, `resource` first."""
        return {self.resource: self.asked_ratio, **self.also_asked}

    @property
    def total_seconds(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())


def require(entry: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuse an entry that lacks a part."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{entry} has no {missing[0]!r}")
