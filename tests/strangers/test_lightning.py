"""PyTorch Lightning's Trainer around a network that is searched."""

import pytest
import torch
from small_search import (
    BUDGET,
    EXAMPLE,
    FREE,
    STEPS,
    X,
    Y,
    ends_well,
    loss_of,
    masked,
    network,
    shows_the_cut,
)
from torch.utils.data import DataLoader, TensorDataset

from dsa_core.pruner import Pruner

L = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
         "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Classifier(L.LightningModule):
    """The usual module: the network is a part of it, and is trained by `training_step`."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.shown = network(), 0
        self.pruner = [Pruner(self.net, EXAMPLE, BUDGET, steps=STEPS, method=FREE)]

    def training_step(self, batch, index):
        return loss_of(self.net, batch)

    def validation_step(self, batch, index):
        shows_the_cut(self.pruner[0], self.net, batch[0])
        self.shown += 1

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        self.pruner[0].attach(optimizer)
        return optimizer


def loader(size: int) -> DataLoader:
    return DataLoader(TensorDataset(X[:640], Y[:640]), batch_size=size)


def fit(module: Classifier, **settings: object) -> None:
    few = DataLoader(TensorDataset(X[:8], Y[:8]), batch_size=8)
    L.Trainer(max_steps=STEPS, **QUIET, **settings).fit(module, loader(32), few)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fit_with_accumulation_clipping_and_validation(precision):
    module = Classifier()
    if precision != "32-true":  # the cut network is compared in the number format of the loop
        module.validation_step = None
    fit(module, accumulate_grad_batches=2, gradient_clip_val=0.5, precision=precision)
    assert module.shown > 1 or precision != "32-true"
    assert not masked(module.net)
    ends_well(module.pruner[0])


def test_a_checkpoint_taken_in_the_middle_of_a_step_is_exact(tmp_path):
    class Saves(Classifier):
        def on_after_backward(self):
            if masked(self.net):
                self.trainer.save_checkpoint(tmp_path / "now.ckpt")

    module = Saves()
    exact = {}

    class Keeps(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            exact.update({name: p.detach().clone() for name, p in module.named_parameters()})

    fit(module, callbacks=[Keeps()])
    saved = torch.load(tmp_path / "now.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in exact.items())
    ends_well(module.pruner[0])


def test_manual_optimisation():
    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss_of(self.net, batch))
            optimizer.step()

    module = Manual()
    fit(module)
    ends_well(module.pruner[0])
