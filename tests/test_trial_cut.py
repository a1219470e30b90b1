"""Networks that a cut would break are refused before anything is trained."""

import pytest
from problems_runs import tiny_run
from torch import Tensor, nn

from dsa_core.errors import SurgeryError
from dsa_core.lab.runs import run


class OnlyInTraining(nn.Module):
    """Reads a layer in training mode alone, where tracing does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.aux = nn.Conv2d(1, 8, 3), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu().mean((2, 3))
        return self.fc(x) + self.aux(x) if self.training else self.fc(x)


def test_a_network_that_a_cut_would_break_in_training_is_refused_before_it(tmp_path):
    config = tiny_run(model=f"{__name__}:OnlyInTraining")
    told = r"cannot run in training mode: .*never reads: aux\.weight, aux\.bias"
    with pytest.raises(SurgeryError, match=told):
        run(config, tmp_path, progress=False)
    assert not (tmp_path / "dense").exists()
