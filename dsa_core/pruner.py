"""DSA as an optimizer: two lines in any training loop.

    pruner = Pruner(model, example, Budget(macs=0.5), steps=10_000).attach(optimizer)
    for batch in loader:                        # your loop: nothing else changes
        loss = loss_of(model, batch)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    smaller = pruner.finish()                   # a new network of the same module classes

One step of the search, in the order in which it happens:

    before a forward pass in training mode   draw a mask m, multiply the consumers' weights by it
    forward and backward pass                yours; w.grad comes out as dL/d(w m)
    before `optimizer.step()`                dL/dm_i = sum of w * dL/d(w m) over the slices of
                                             channel i; w.grad <- m * w.grad = dL/dw; the mask is
                                             removed; every `ratio_every` steps (2) the keep
                                             ratios move by the mean dL/dm: no extra pass
    `optimizer.step()`                       yours

In evaluation mode the network runs as if it were cut now, so your own validation shows the score at
the present budget. A backward pass wants training mode, and the whole network to run before parts
of it: autograd refuses others ("modified by an inplace operation"). A mask stays on until the
optimizer steps, so gradient accumulation and steps skipped by a GradScaler need no special care.
State dicts and deep copies of the network taken in between hold the unmasked weights. Take only
between steps: `torch.save(model)`, which pickles the module, the state dict of a part of it, and
averages of the weights (none after a skipped step).

The scheme (`dsa_core.scheme`) decides which mask is drawn and what its gradient moves.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dsa_core.allocation import Allocation
from dsa_core.attachment import Attachment, untouched, without_hooks
from dsa_core.budget import as_budget
from dsa_core.channels import ChannelGraph, check_fits
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.masked_weights import MaskedWeights
from dsa_core.masks import check_cut
from dsa_core.pruner_inputs import check_free, check_optimizers, followed, plain, weights_of
from dsa_core.ranking import Importance, importance
from dsa_core.scheme import Method, Problem
from dsa_core.search_state import SearchState
from dsa_core.surgery import reconstruct as refit
from dsa_core.surgery.cut import prune
from dsa_core.surgery.sparse import zero_weights
from dsa_core.tracing import trace
from dsa_core.training.evaluate import state_tensors

UNREACHED = 20  # masked steps without a gradient before a warning


class Pruner(SearchState):
    """Finds how many channels each group keeps while you train, and cuts out the others.

    The network trains in place; `finish` returns a smaller copy.

    Args:
        model: the network, trained or not; it may be compiled or wrapped for several processes.
        example: what the model is called with, as for `trace`; or the graph of the model.
        budget: what the smaller network may cost, such as `Budget(macs=0.5)`.
        steps: optimizer steps of the search, including the warm-up; the budget is reached after a
            share of them (`Method.anneal_fraction`), and the rest trains at it.
        method: how keep ratios are found; see `dsa_core.methods` for others than DSA.
        seed: of the masks.
        warmup_steps: plain steps before the first mask (for a network with random weights).

    Attributes:
        graph: which channels belong together.
        history: every move of the keep ratios.
        steps_done: optimizer steps seen.

    Raises:
        TraceError: the network cannot be followed.
        BudgetError: the budget cannot be met.
        ConfigError: an argument is of the wrong type.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164); masks at the consumers and their free
        gradient are this project's (`masked_weights`).
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        budget: Any,
        *,
        steps: int,
        method: Method | None = None,
        seed: int = 0,
        warmup_steps: int = 0,
    ) -> None:
        method = DSA() if method is None else method
        self.model, self._called = plain(model), followed(model)
        check_free(self.model)
        graph = example if isinstance(example, ChannelGraph) else trace(self.model, example)
        check_fits(self.model, graph)
        problem = Problem(self.model, graph, as_budget(budget), steps, warmup_steps, seed, method)
        problem.check()
        super().__init__(problem, method.scheme(problem))
        self.attachment: Attachment | None = None
        self._final: Allocation | None = None

    def attach(self, *optimizers: Any, scaler: Any = None) -> Self:
        """Hook into the network and its optimizers; from now on they train under masks.

        Args:
            optimizers: one or several; wrapped ones (Accelerate) too.
            scaler: the GradScaler, needed only if some of the network's weights are frozen, there
                are several optimizers, or you call `collect`.

        Freeze or unfreeze weights before `attach`, or between `detach` and another `attach`.

        Raises:
            ConfigError: attached already, or no optimizer holds a parameter of the network.
        """
        check_free(self.model)
        names = [site.name for site in self.scheme.sites]
        found = check_optimizers(self.model, optimizers, names)
        if not self.dense:
            self.dense = {k: v.clone() for k, v in state_tensors(self.model).items()}
        parameters = dict(self.model.named_parameters())
        self._final = None
        self.attachment = Attachment(
            self.model,
            self._called,
            found,
            MaskedWeights(parameters, self.scheme.sites, self.scheme.size),
            draw=self._draw,
            cut=self._cut,
            learn=self._learn,
            scaler=scaler,
        )
        return self

    def detach(self) -> None:
        """Restore the exact weights and remove all hooks; may be called twice."""
        if self.attachment is not None:
            self.attachment.close()
        self.attachment = None

    def collect(self) -> None:
        """Remove the mask, convert the gradients, and move the keep ratios.

        `optimizer.step()` does this itself. Call it right before if you clip gradients, so that
        those of the unmasked weights are clipped (with a GradScaler after its `unscale_`).
        """
        if self.attachment is not None:
            self.attachment.collect()

    def finish(
        self,
        *,
        weights: Literal["searched", "dense"] | nn.Module = "searched",
        rank: Importance | None = None,
        reconstruct: Iterable[Any] | None = None,
    ) -> nn.Module:
        """End the search and cut: a new, smaller network of the same module classes.

        The searched network is not changed. The smaller one needs some training batches to renew
        its BatchNorm statistics (unless it is reconstructed), and fine-tuning.

        Args:
            weights: to cut: the "searched" ones, the "dense" ones as they were at `attach`, or
                those of a network of the same shape (an average of the weights, say).
            rank: importance that ranks the channels of a group by these weights; None: that of the
                search.
            reconstruct: some batches of inputs, used to refit every layer to its outputs before the
                cut; use it with weights that work without a mask, the "dense" ones.
        """
        source = weights_of(self.model, weights, self.dense)
        final = self.conclude(source, rank=rank)
        smaller = prune(source, self.graph, final.keep)
        check_cut(source, self.graph, final.keep, smaller)
        if reconstruct is not None:
            refit(smaller, source, self.graph, final.keep, reconstruct)
        return zero_weights(without_hooks(smaller), final.weight_mask or {})

    def conclude(
        self, source: nn.Module | None = None, *, rank: Importance | None = None
    ) -> Allocation:
        """End the search without a cut: which channels stay, under the whole budget.

        Channels are ranked by the weights of `source`, see `finish`; None for the searched network.
        """
        if rank == "taylor" and self.attachment is not None:
            raise ConfigError(
                "rank='taylor' needs gradients of the unmasked network, and those of the last step "
                "were masked: call detach(), then zero_grad and a backward pass, then finish()"
            )
        self.detach()
        if self.steps_done < self.problem.steps:
            warnings.warn(
                f"{self.steps_done} of {self.problem.steps} steps were taken; the network is still "
                "cut to its budget. Pass a smaller steps= to reach the budget earlier",
                stacklevel=3,
            )
        if rank is None:
            b = self.scheme.importance(source)
        else:
            b = importance(source or self.model, self.graph, rank)
        self._final = self.allocate(self.problem.budget, b)
        return self._final

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `SearchState.load_state_dict`; a step that is open is dropped."""
        super().load_state_dict(state)
        if self.attachment is not None:
            self.attachment.shut()

    def held_out_step(self, loss: Callable[[], Tensor]) -> None:
        """Let a held-out batch move the keep ratios, for an estimator that needs one.

        Call it where `wants_held_out` is true, between two steps. Weights, gradients and
        BatchNorm statistics are not changed.

        Args:
            loss: runs the network on a batch and returns its loss, shape ().
        """
        if self.attachment is None:
            raise ConfigError("held_out_step: attach the pruner first")
        if not self.wants_held_out:
            return
        with self.attachment.exact(quiet=True), untouched(self.model):
            figures = self.scheme.held_out_step(self.steps_done, self.attachment.weights, loss)
        self.last_held_out = self.steps_done
        self.note(self.steps_done, figures)

    @property
    def allocation(self) -> Allocation:
        """Which channels stay: as cut by `finish`, before that as would be cut now."""
        if self._final is not None:
            return self._final
        with self.attachment.exact() if self.attachment else nullcontext():
            budget = self.problem.budget_now(self.steps_done)
            return self.allocate(budget, self.scheme.importance())

    def _draw(self) -> Tensor | None:
        return self.scheme.mask(self.steps_done) if self.searching else None

    def _cut(self) -> Tensor | None:
        if not self.searching:
            return None
        mask = self.scheme.cut_mask(self.allocation)
        return mask.to(self.problem.device, torch.float32)

    def _learn(self, gradient: Tensor) -> None:
        """Before an optimizer step: move the keep ratios by dL/dmask."""
        step, self.steps_done = self.steps_done, self.steps_done + 1
        if step < self.problem.warmup:
            return
        if not bool(gradient.isfinite().all()):
            raise TrainingError(
                f"step {step}: the gradient is not finite; check the loss, lower the learning "
                "rate, clip, or, if you scale the loss, attach(optimizer, scaler=scaler). The "
                "weights are exact; the keep ratios have not moved"
            )
        if self.scheme.held_out and self.held_out_missing(step):
            raise TrainingError(
                f"step {step}: {self.problem.method.label} moves its keep ratios by held-out "
                "batches: call pruner.held_out_step(lambda: loss_of(model, batch)) wherever "
                "pruner.wants_held_out, or use the free gradient (estimator='free')"
            )
        assert self.attachment is not None  # only an attachment calls this
        if step == self.problem.warmup + UNREACHED:
            self._warn_unreached()
        lr = float(self.attachment.optimizers[0].param_groups[0]["lr"])
        penalty = self.scheme.penalty(step, lr)
        if penalty is not None:
            (penalty * self.attachment.scale).backward()
        figures = self.scheme.step(step, gradient, lr)
        if figures is not None:
            self.note(step + 1, figures)

    def _warn_unreached(self) -> None:
        """Name groups whose channels seem to cost nothing because no gradient comes to them."""
        assert self.attachment is not None
        entries = self.attachment.weights.unreached()
        if not self.problem.method.learns or len(entries) != self.graph.n_channels:
            return
        prunable = self.graph.prunable
        names = [g.name for g in prunable if bool(entries[g.start : g.start + g.size].all())]
        if names:
            warnings.warn(
                f"Pruner: no gradient has come to {names[0]} ({len(names)} of {len(prunable)} "
                "groups): its channels seem free to remove. Run that part without torch.no_grad() "
                "and detach(), or keep it whole by a floor of 1",
                stacklevel=2,
            )
