"""Latency budgets: a measured latency model of one network on one machine."""

from dsa_core.lab.calibration.fitted import Calibration, read_calibration
from dsa_core.lab.calibration.timing import CalibrationSettings, calibrate
