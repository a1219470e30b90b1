"""Where the time of a search goes: steps and updates under Python's profiler."""

import cProfile
import pstats
from dataclasses import dataclass

from dsa_core.dsa import DSA
from dsa_core.lab.bench.steps import Loop
from dsa_core.training import BF16

# What is looked for: a word for it, the end of the file's name, the function.
PARTS = (
    ("forward (all)", "lab/bench/steps.py", "loss"),
    ("backward (all)", "torch/_tensor.py", "backward"),
    ("weights' SGD", "optim/optimizer.py", "wrapper"),
    ("importance", "dsa_core/ranking.py", "importance"),
    ("keep probabilities", "dsa_core/masks.py", "keep_probs"),
    ("of that soft_topk", "dsa_core/kernels/__init__.py", "soft_topk"),
    ("drawing the mask", "dsa_core/masks.py", "sample_mask"),
    ("putting the mask on", "dsa_core/masked_weights.py", "put_on"),
    ("gradient of the mask", "dsa_core/masked_weights.py", "turn"),
    ("step of keep ratios", "budget/priced.py", "step"),
    ("of that the z-step", "budget/surface.py", "shift_to_budget"),
    ("cost model: F", "budget/form.py", "__call__"),
    ("cost model: dF", "budget/form.py", "gradient"),
    ("rounding", "budget/rounding.py", "round_to_channels"),
)


@dataclass(frozen=True)
class Share:
    """What one part of a search took.

    Attributes:
        part: its name; parts lie within one another, so that shares do not add up to 1.
        calls: of the function.
        ms: in all.
        share: of the whole profile.
    """

    part: str
    calls: int
    ms: float
    share: float


def profile_search(name: str, *, steps: int = 40, every: int = 1, batch: int = 128) -> list[Share]:
    """Profile steps of a search by the free gradient, and one rounding, as at a search's end.

    A real search rounds once in thousands of steps, so that its share here is far too high.

    Args:
        name: a network for images of 3x32x32.
        steps: of the search.
        every: steps for each update of the keep ratios.
        batch: examples of a step.
    """
    method = DSA(ratio_every=every, anneal_fraction=0.0)
    loop = Loop(name, method, batch=batch, precision=BF16)
    assert loop.pruner is not None
    for _ in range(every):
        loop.step()
    recorder = cProfile.Profile()
    recorder.enable()
    for _ in range(steps):
        loop.step()
    loop.pruner.scheme.counts(loop.pruner.problem.budget)
    recorder.disable()
    return shares(recorder)


def shares(recorder: cProfile.Profile) -> list[Share]:
    """Look the parts up; the first row is the whole."""
    found = pstats.Stats(recorder)
    total: float = found.total_tt  # type: ignore[attr-defined]
    rows = [Share("all", 1, 1e3 * total, 1.0)]
    for part, file, function in PARTS:
        calls, seconds = 0, 0.0
        for (path, _, called), (_, n, _, cumulative, _) in found.stats.items():  # type: ignore[attr-defined]
            if called == function and path.endswith(file):
                calls, seconds = calls + n, seconds + cumulative
        rows.append(Share(part, calls, 1e3 * seconds, seconds / total))
    return rows
