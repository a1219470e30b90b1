"""What a mask costs: a masked training step against a plain one, `pytest tests/benchmarks -s`.

ResNet-20, batch 128, the same process, alternating, 30 pairs after 3 to warm up; the median of the
ratios. A masked step is drawing the mask (importance, keep probabilities, Bernoulli), forward,
backward and SGD, as in the search. Nothing here fails by being slow.
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dsa_core import models
from dsa_core.channels import trace
from dsa_core.masks import importance, keep_probs, masked_parameters, sample_mask
from dsa_core.training import Precision, TrainConfig, autocast, make_sgd

PAIRS, WARM_UP, BATCH = 30, 3, 128


def steps(precision: Precision) -> tuple[Callable[[], None], Callable[[], None]]:
    """A plain and a masked step of one network."""
    torch.manual_seed(0)
    model = models.build("resnet20").train()
    graph = trace(model, models.example_input("resnet20"))
    sgd = make_sgd(model, TrainConfig(epochs=1, lr=0.01))
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    alpha = torch.full((len(graph.prunable),), 0.5, dtype=torch.float64)

    def step(weights: dict[str, torch.Tensor]) -> None:
        with autocast(precision, x.device):
            loss = cross_entropy(functional_call(model, weights, (x,)), y)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()

    def masked() -> None:
        with torch.no_grad():
            p = keep_probs(importance(model, graph), alpha, graph, sharpness=10.0)
            mask = sample_mask(p)
        step(masked_parameters(dict(model.named_parameters()), graph, mask))

    return lambda: step({}), masked


def milliseconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_masked_over_plain(name: str) -> None:
    plain, masked = steps(Precision(name, channels_last=False))
    pairs = [(milliseconds(plain), milliseconds(masked)) for _ in range(WARM_UP + PAIRS)][WARM_UP:]
    ratio = statistics.median(m / p for p, m in pairs)
    times = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        f"\n{name}: plain {times[0]:.1f} ms, masked {times[1]:.1f} ms, median ratio {ratio:.3f} of "
        f"{PAIRS} pairs, {torch.get_num_threads()} threads"
    )
    assert ratio > 0.5
