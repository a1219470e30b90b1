"""Every backend that can run here goes through the same test bodies."""

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor

from dsa_core.kernels import backends, soft_topk


@pytest.fixture(scope="session", params=backends())
def op(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """`soft_topk` on one backend."""
    return partial(soft_topk, backend=request.param)
