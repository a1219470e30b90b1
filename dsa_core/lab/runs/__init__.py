"""One run, from a configuration to a record: `run(configure("quick"), Path("runs"))`."""

from dsa_core.lab.runs.config import RunConfig, configure
from dsa_core.lab.runs.preset import Preset
from dsa_core.lab.runs.presets import PRESETS
from dsa_core.lab.runs.run import dry_run, run
