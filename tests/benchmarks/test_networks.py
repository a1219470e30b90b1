"""Is half the MACs half the time? `pytest -s tests/benchmarks/test_networks.py`.

Uniform allocation, batch 128, widths in multiples of 1, 8, 16. Nothing here fails by being slow.
"""

import pytest

from dsa_core.lab.bench.networks import compare, formats, uniform_pair
from dsa_core.lab.bench.pictures import normalised, pictures


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet18_cifar"])
@pytest.mark.parametrize("divisor", [1, 8, 16])
def test_speedup_over_reduction(name: str, divisor: int) -> None:
    x, _ = next(normalised(pictures(128), batch_size=128).epoch(0))
    pair = uniform_pair(name, divisor=divisor)
    print(f"\n{name}, divisor {divisor}, MACs / {pair.mac_reduction:.3f}")
    for way in formats():
        row = compare(pair, x, way, repeats=7)
        order = " channels_last" if way.channels_last else ""
        times = f"{row.dense.median_ms:8.1f} -> {row.pruned.median_ms:8.1f} ms"
        faster = f"{row.speedup.median:.2f} times, {row.over_macs.median:.2f} of the MACs'"
        print(f"  {way.name + order:20} {times}, {faster}")
        assert row.speedup.median > 0
