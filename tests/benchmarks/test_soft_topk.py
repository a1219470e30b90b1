"""How long a forward and backward pass of soft_topk takes: `pytest tests/benchmarks`.

The problem and its two peers are in `lab.bench.soft_topk`. Nothing here fails by being slow.
"""

from collections.abc import Callable

import pytest
from torch import Tensor
from torch.testing import assert_close

from dsa_core.lab.bench.soft_topk import Solver, by_group, by_operator, by_scipy, problem, speedup


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("solve", [by_operator, by_scipy, by_group], ids=lambda f: f.__name__)
def test_forward_and_backward(
    benchmark: Callable[..., list[Tensor]], solve: Solver, temperature: float
) -> None:
    arguments = problem(temperature)
    result = benchmark(solve, *arguments)
    wanted = by_scipy(*arguments)
    wanted = [wanted[0], wanted[-1]] if solve is by_group else wanted
    for got, other in zip(result, wanted, strict=True):
        assert_close(got, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.05])
@pytest.mark.parametrize("peer", [by_group, by_scipy], ids=lambda f: f.__name__)
def test_speedup(peer: Solver, temperature: float) -> None:
    ratio = speedup(peer, temperature=temperature)
    print(
        f"\nsoft_topk over {peer.__name__}, T = {temperature}: {ratio.median:.1f} times "
        f"(middle half {ratio.spread[0]:.1f} to {ratio.spread[1]:.1f}, n = {ratio.n})"
    )
    assert ratio.median > 0
