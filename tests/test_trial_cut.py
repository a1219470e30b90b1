"""Networks that a cut would break are refused before anything is trained."""

import pytest
import torch
from problems_runs import digits, tiny_run
from torch import Tensor, nn

from dsa_core.errors import ConfigError, SurgeryError
from dsa_core.lab.runs import run
from dsa_core.lab.runs.start import start


class WideView(nn.Module):
    """Writes the number of channels behind `b` into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=4, padding=1)
        self.fc = nn.Linear(16 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().view(-1, 16 * 2 * 2))


class ByWidth(nn.Module):
    """Divides by the number of channels, which a cut changes and a mask does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.fc((x / x.shape[1]).mean((2, 3)))


class OnlyInTraining(nn.Module):
    """Reads a layer in training mode alone, where tracing does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.aux = nn.Conv2d(1, 8, 3), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu().mean((2, 3))
        return self.fc(x) + self.aux(x) if self.training else self.fc(x)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (WideView, "the pruned network cannot run: .*floor of 1"),
        (ByWidth, "computes something else when channels are cut .*floor of 1"),
        (OnlyInTraining, r"cannot run in training mode: .*never reads: aux\.weight, aux\.bias"),
    ],
)
def test_a_network_that_a_cut_would_break_is_refused_before_training(network, told, tmp_path):
    config = tiny_run(model=f"{__name__}:{network.__name__}")
    with pytest.raises(SurgeryError, match=told):
        run(config, tmp_path, progress=False)
    assert not (tmp_path / "dense").exists()


def test_a_group_that_a_floor_keeps_is_not_cut_in_the_trial(tmp_path):
    config = tiny_run(model=f"{__name__}:ByWidth", floors={"a": 1.0}, ratio=1.0)
    start(config, digits(), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("file", "content"), [("dense.json", b"no json"), ("model.safetensors", b"\x08cut short")]
)
def test_a_damaged_dense_network_is_named_with_what_to_do(file, content, tmp_path):
    config = tiny_run(method="uniform")
    run(config, tmp_path, progress=False)
    next(tmp_path.glob(f"dense/*/{file}")).write_bytes(content)
    with pytest.raises(ConfigError, match=r"dense.*cannot be read.*Remove the folder"):
        run(config, tmp_path, progress=False, force=True)
