"""One search, stated: everything that decides how it goes."""

from dataclasses import dataclass

from torch import nn

from dsa_core.admm import KeepRatioOptimizer
from dsa_core.allocators.config import SearchConfig, SearchData
from dsa_core.channels import ChannelGraph
from dsa_core.cost import Budget
from dsa_core.training import shapes_fingerprint


@dataclass(frozen=True)
class Problem:
    """Everything that decides how a search goes.

    Attributes:
        method: name of the allocator.
        model: dense network, trained or not, on its device; it is trained in place.
        graph: of the model.
        budget: to reach.
        data: what it learns from.
        config: how.
        optimizer: moves the keep ratios.
        seed: of the masks.
    """

    method: str
    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    data: SearchData
    config: SearchConfig
    optimizer: KeepRatioOptimizer
    seed: int

    def fingerprint(self) -> dict[str, str]:
        """What a checkpoint must agree with."""
        weights = {f"weights {k}": v for k, v in self.data.weights.fingerprint().items()}
        ratios = {f"ratios {k}": v for k, v in self.data.ratios.fingerprint().items()}
        own = {
            "method": self.method,
            "seed": str(self.seed),
            "budget": repr(self.budget),
            "model": shapes_fingerprint(self.model),
            "config": self.config.model_dump_json(),
        }
        return weights | ratios | own
