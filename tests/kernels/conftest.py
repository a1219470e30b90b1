"""Every backend that takes float64 on a CPU goes through the same test bodies.

Triton computes in float32: `triton_interpreted.py` and `test_triton.py` compare it with these.
"""

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor

from dsa_core.kernels import soft_topk


@pytest.fixture(scope="session", params=["reference", "torch"])
def op(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """`soft_topk` on one backend."""
    return partial(soft_topk, backend=request.param)
