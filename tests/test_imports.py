"""Importing the library has no effect, and every public name is there."""

import json
import subprocess
import sys
from importlib.metadata import version

import dsa_core as dsa

LATE = {
    "jupyter",
    "jupyterlab",
    "ipywidgets",
    "papermill",
    "seaborn",
    "pandas",
    "matplotlib",
    "typer",
    "stable_baselines3",
    "torch._dynamo",  # as long to import as the rest of torch
}

PROBE = """
import json, sys, torch
def settings():
    return [torch.get_num_threads(), torch.get_num_interop_threads(),
            str(torch.get_default_dtype()),
            torch.get_rng_state().sum().item(), torch.initial_seed(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark, str(torch.get_default_device())]
torch.manual_seed(3)
before = settings()
import dsa_core
json.dump([before, settings(), list(sys.modules)], sys.stderr)
"""


def test_importing_prints_nothing_changes_no_setting_and_is_light():
    command = [sys.executable, "-W", "error::DeprecationWarning:dsa_core", "-c", PROBE]
    probe = subprocess.run(command, capture_output=True, text=True, check=True)
    assert probe.stdout == ""
    before, after, loaded = json.loads(probe.stderr)  # and nothing else was written there
    assert before == after
    assert "torch" in loaded
    assert not LATE & set(loaded)


def test_every_public_name_is_there_and_documented():
    assert len(set(dsa.__all__)) == len(dsa.__all__)
    for name in dsa.__all__:
        value = getattr(dsa, name)
        if callable(value) or hasattr(value, "__path__"):
            assert value.__doc__, name
    assert dsa.__version__ == version("dsa_core")
