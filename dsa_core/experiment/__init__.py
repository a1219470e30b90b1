"""One run, from a configuration to a record: `run(configure("quick"), Path("runs"))`."""

from dsa_core.experiment.config import RunConfig, configure
from dsa_core.experiment.presets import PRESETS, Preset
from dsa_core.experiment.run import run

__all__ = ["PRESETS", "Preset", "RunConfig", "configure", "run"]
