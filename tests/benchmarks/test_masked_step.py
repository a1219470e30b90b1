"""What a mask costs: a masked training step against a plain step, `pytest tests/benchmarks -s`.

ResNet-20 and -56, batch 128, by the loop of the search itself, in turn; the median of the ratios.
A masked step is drawing the mask (importance, keep probabilities, Bernoulli), forward, backward
and SGD; an update of the keep ratios is one more forward and backward pass, and comes every 20
steps in the paper, every 2 by default. Nothing here fails by being slow.
"""

import pytest

from dsa_core.lab.bench.steps import DEFAULT_EVERY, PAPER_EVERY, step_times

ROUNDS = 30


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masked_over_plain(name: str, precision: str) -> None:
    times = step_times(name, rounds=ROUNDS, precision=precision)
    for every in (None, PAPER_EVERY, DEFAULT_EVERY):
        ratio = times.ratio(every)
        print(f"\n{name}: {ratio.median:.3f} {ratio.spread}, n = {ratio.n}, {ratio.note}", end="")
        assert ratio.median > 0.5
    print()
