"""AMC's reward: the score of the dense network under a mask, before any fine-tuning."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.channels import ChannelGraph
from dsa_core.errors import TrainingError
from dsa_core.masks import masked_parameters, top_channels
from dsa_core.methods.config import AMCSettings, SearchData
from dsa_core.ranking import importance
from dsa_core.training import (
    EvalResult,
    Precision,
    TrainConfig,
    autocast,
    device_of_model,
    mode,
    place,
)
from dsa_core.training.precision import choose_precision
from dsa_core.training.processes import agreed
from dsa_core.training.task import PERCENT

Batch = tuple[Tensor, Tensor]


class MaskedScore:
    """Scores allocations of one network by masked forward passes.

    The held-out examples are read once and stay on the device; the network does not change.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        data: SearchData,
        settings: AMCSettings,
        train: TrainConfig,
    ) -> None:
        self.model, self.graph, self.data = model, graph, data
        self.settings, device = settings, device_of_model(model)
        self.importance = importance(model, graph, settings.importance)
        self.parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.examples = held_out(data, settings.reward_examples, device)
        precision, order = train.precision, train.channels_last
        x = self.examples[0][0]
        self.use(agreed(choose_precision(model, x, precision=precision, channels_last=order)))

    def use(self, precision: Precision) -> None:
        """Use this number format and memory order from now on."""
        self.precision = precision
        self.batches = [(place(x, precision), y) for x, y in self.examples]
        self.dense = self(self.graph.sizes)

    def reward(self, worth: EvalResult) -> float:
        """The score if it is a share of 1, otherwise relative to the dense network's score."""
        return worth.score if self.data.task.unit == PERCENT else worth.score / self.dense.score

    @torch.no_grad()
    def __call__(self, counts: Tensor) -> EvalResult:
        """Measure the network with the counts (K,) most important channels of every group."""
        model, task = self.model, self.data.task
        mask = top_channels(self.importance, counts, self.graph).to(self.importance)
        weights = masked_parameters(self.parameters, self.graph, mask)
        score = loss = torch.zeros((), device=mask.device)
        with mode(model, training=False):
            for x, y in self.batches:
                with autocast(self.precision, mask.device):
                    outputs = functional_call(model, weights, (x,)).float()
                score = score + task.score(outputs, y)
                loss = loss + task.loss(outputs, y) * len(x)
        n = sum(len(x) for x, _ in self.batches)
        worth = EvalResult(float(loss) / n, float(score) / n, n)
        if worth.score != worth.score:
            raise TrainingError(
                f"the {task.score_name} of the masked network is not a number: are the weights of "
                "the dense network finite?"
            )
        return worth


def held_out(data: SearchData, most: int, device: torch.device) -> list[Batch]:
    """The first `most` examples of `data.held_out`, or of `data.ratios` if that is None."""
    source = data.held_out or data.ratios
    batches: list[Batch] = []
    left = most
    for x, y in source.epoch(0):
        batches.append((x[:left].to(device), y[:left].to(device)))
        left -= len(x)
        if left <= 0:
            break
    return batches
