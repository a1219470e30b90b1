"""What a search costs: one of its steps, update included, against a plain step, in turn.

`pytest tests/benchmarks -s`: ResNet-20, -56 and MobileNetV2, batch 128, images of 32x32; the median
of the ratios. "free": an update of the keep ratios in every step; "held_out": one every two steps,
by a batch of its own. Nothing here fails by being slow.
"""

import pytest

from dsa_core.lab.bench.steps import step_times
from dsa_core.training import BF16

ROUNDS = 20


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "mobilenet_v2"])
def test_search_over_plain(name: str) -> None:
    times = step_times(name, rounds=ROUNDS, precision=BF16)
    for kind in ("free", "held_out"):
        ratio = times.ratio(kind)
        print(f"\n{name}: {ratio.median:.3f} {ratio.spread}, n = {ratio.n}, {ratio.note}", end="")
        assert ratio.median > 0.5
    print()
