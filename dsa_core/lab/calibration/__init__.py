"""Latency as a budget: what a channel of this network costs on this machine, by the clock."""

from dsa_core.lab.calibration.fitted import Calibration, read_calibration
from dsa_core.lab.calibration.timing import CalibrationSettings, calibrate

__all__ = ["Calibration", "CalibrationSettings", "calibrate", "read_calibration"]
