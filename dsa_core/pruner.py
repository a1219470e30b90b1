"""DSA as an optimizer: two lines in anybody's training loop.

    pruner = Pruner(model, example, Budget(macs=0.5), steps=10_000).attach(optimizer)
    for batch in loader:                        # your loop: nothing else changes
        loss = loss_of(model, batch)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    smaller = pruner.finish()                   # a new network of the same classes

One step of the search, in the order in which it happens:

    before a forward pass in training mode   draw a mask m, multiply the consumers' weights by it
    forward and backward pass                yours; w.grad comes out as dL/d(w m)
    before `optimizer.step()`                exact weights back; dL/dm_i = sum w * dL/d(w m) over
                                             the slices of channel i; w.grad <- m * w.grad = dL/dw;
                                             the keep ratios move by dL/dm, at no further pass
    `optimizer.step()`                       yours

and around a forward pass in evaluation mode the network is the one that would be cut now, so that
your own validation shows the score at the present budget. A mask stays until the optimizer steps:
gradient accumulation, and a step that a gradient scaler skips, need no care.

What is drawn, and what the gradient moves, is the scheme's affair (`dsa_core.scheme`).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dsa_core.allocation import Allocation, Update
from dsa_core.attachment import check_optimizers, check_state, hook, plain, skipped, untouched
from dsa_core.channels import ChannelGraph, trace
from dsa_core.dsa import DSA
from dsa_core.errors import ConfigError, TrainingError
from dsa_core.masked_weights import MaskedWeights
from dsa_core.ranking import Importance, importance
from dsa_core.scheme import Figures, Method, Problem
from dsa_core.surgery.cut import duplicate, prune
from dsa_core.surgery.sparse import zero_weights

UNSEEN = 20  # optimizer steps without a forward pass of the network before a warning
FORMAT = 1


class Pruner:
    """Finds in your training loop how many channels each group keeps, and cuts the others out.

    The network trains in place; `finish` returns a smaller copy.

    Args:
        model: the network, trained or not; compiled or wrapped for several processes is fine.
        example: what the model is called with, as for `trace`; or the graph of the model.
        budget: what the smaller network may cost, such as `Budget(macs=0.5)`.
        steps: optimizer steps that the search takes, warm-up included; the budget is reached on
            the way (`Method.anneal_fraction`), and the rest trains at it.
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
        ConfigError: an argument is of the wrong kind.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164); masks at the consumers and their free
        gradient are this project's own (`masked_weights`).
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
        self.model = plain(model)
        self.graph = example if isinstance(example, ChannelGraph) else trace(self.model, example)
        self.problem = Problem(self.model, self.graph, budget, steps, warmup_steps, seed, method)
        self.problem.check()
        self.scheme = method.scheme(self.problem)
        self.steps_done, self.history = 0, [self._update(0, {})]
        self.restored = 1  # updates in the history that this object did not make
        self.dense: dict[str, Tensor] = {}
        self.weights: MaskedWeights | None = None  # while attached
        self._optimizers: list[torch.optim.Optimizer] = []
        self._handles: list[RemovableHandle] = []
        self._scaler: Any = None
        self._mask: Tensor | None = None  # of the step under way
        self._running = False  # a forward pass in training mode since the last step
        self._looking, self._looked = False, -1  # step of the last look
        self._unseen = 0
        self._cut: tuple[int, Tensor] | None = None  # a step, and the mask of the cut then
        self._final: Allocation | None = None

    # -- the four calls ---------------------------------------------------------------------------

    def attach(self, *optimizers: Any, scaler: Any = None) -> Self:
        """Hook into the network and its optimizers; from here on they train under masks.

        Args:
            optimizers: one or several; wrapped ones (Accelerate) too.
            scaler: the GradScaler, only where some of the network's weights are frozen.

        Raises:
            ConfigError: attached already, or no optimizer holds a parameter of the network.
        """
        if self.weights is not None:
            raise ConfigError("attach: the pruner is attached already; detach() it first")
        self._optimizers, self._scaler = check_optimizers(self.model, optimizers), scaler
        if not self.dense:
            self.dense = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        parameters = dict(self.model.named_parameters())
        self.weights = MaskedWeights(parameters, self.scheme.sites, self.scheme.size)
        model = self.model
        self._handles = [
            model.register_forward_pre_hook(hook(self._before_forward)),
            model.register_forward_hook(hook(self._after_forward), always_call=True),
            model.register_state_dict_post_hook(hook(self._exact_state)),
            *(o.register_step_pre_hook(self._before_step) for o in self._optimizers),
        ]
        return self

    def detach(self) -> None:
        """Put the exact weights back and let go of network and optimizers; may be called twice."""
        for handle in self._handles:
            handle.remove()
        if self.weights is not None:
            self.weights.close()
        self._handles, self.weights, self._mask, self._running = [], None, None, False

    def finish(
        self,
        *,
        weights: Literal["searched", "dense"] | nn.Module = "searched",
        rank: Importance | None = None,
    ) -> nn.Module:
        """End the search and cut: a new, smaller network of the same classes.

        The searched network stays as it is, whole, with its exact weights. The smaller one wants
        some training batches to renew BatchNorm's statistics, and fine-tuning.

        Args:
            weights: to cut: the "searched" ones, the "dense" ones as they were at `attach`, or
                those of a network of the same shape (an average of the weights, say).
            rank: what ranks the channels of a group by these weights; None as in the search.
        """
        source = self._source(weights)
        final = self.conclude(source, rank=rank)
        return zero_weights(prune(source, self.graph, final.keep), final.weight_mask or {})

    def conclude(
        self, source: nn.Module | None = None, *, rank: Importance | None = None
    ) -> Allocation:
        """End the search without a cut: which channels stay, under the whole budget.

        Args:
            source: network by whose weights channels are ranked; None for the searched one.
            rank: how; None as in the search.
        """
        self.detach()
        if self.steps_done < self.problem.steps:
            warnings.warn(
                f"{self.steps_done} of {self.problem.steps} steps were taken; the network is cut "
                "to its budget all the same. Fewer `steps` come down to it sooner",
                stacklevel=3,
            )
        if rank is None:
            b = self.scheme.importance(source)
        else:
            b = importance(source or self.model, self.graph, rank)
        self._final = self._allocation(self.problem.budget, b)
        return self._final

    def look(self, loss: Callable[[], Tensor]) -> None:
        """Let a held-out batch move the keep ratios, for an estimator that asks for one.

        Call it where `wants_look` is true, between two steps. Neither the weights nor their
        gradients nor BatchNorm's statistics are touched.

        Args:
            loss: runs the network on a batch and returns its loss, shape ().
        """
        if self.weights is None:
            raise ConfigError("look: attach the pruner first")
        if not self.wants_look:
            return
        with self._exact(), untouched(self.model):
            self._looking = True
            try:
                figures = self.scheme.look(self.steps_done, self.weights, loss)
            finally:
                self._looking = False
        self._looked = self.steps_done
        self._note(self.steps_done, figures)

    # -- what it knows ----------------------------------------------------------------------------

    @property
    def keep_ratios(self) -> dict[str, float]:
        """The present keep ratio of every group, by its name."""
        names = (group.name for group in self.graph.prunable)
        return dict(zip(names, self.scheme.keep_ratios.tolist(), strict=True))

    @property
    def cost(self) -> dict[str, float]:
        """What the present keep ratios cost, as a ratio of the dense network, by resource."""
        return {self.problem.budget.resource: self.scheme.cost}

    @property
    def allocation(self) -> Allocation:
        """Which channels stay: as cut by `finish`, before that as it would be cut now."""
        if self._final is not None:
            return self._final
        with self._exact():
            return self._allocation(
                self.problem.budget_now(self.steps_done), self.scheme.importance()
            )

    @property
    def looks(self) -> int:
        """Held-out batches taken so far."""
        return len(self.history) - 1 if self.scheme.held_out else 0

    @property
    def searching(self) -> bool:
        """Whether the warm-up is over."""
        return self.steps_done >= self.problem.warmup

    @property
    def wants_look(self) -> bool:
        """Whether the method waits for a held-out batch before the next step (`look`)."""
        return self.scheme.held_out and self._missing_look(self.steps_done)

    def __repr__(self) -> str:
        ratio, budget = next(iter(self.cost.values())), self.problem.budget
        return (
            f"Pruner({self.problem.method.label}: step {self.steps_done} of {self.problem.steps}, "
            f"{budget.resource} at {ratio:.1%} of the dense network, asked {budget.ratio:.1%})"
        )

    # -- save and go on ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on besides the network's and the optimizer's own state.

        Tensors, numbers and text only, so that `torch.load(weights_only=True)` reads it.
        """
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint(),
            "steps_done": self.steps_done,
            "looked": self._looked,
            "scheme": self.scheme.state_dict(),
            "history": [asdict(update) for update in self.history],
            "dense": self.dense,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, to the same bits if network and optimizer do as well.

        Raises:
            ConfigError: it is of another search; says in what.
        """
        check_state(state, FORMAT, self.fingerprint())
        self.steps_done, self._looked = int(state["steps_done"]), int(state["looked"])
        self.scheme.load_state_dict(state["scheme"])
        self.history = [Update(**update) for update in state["history"]]
        self.restored = len(self.history)
        device = self.problem.device
        self.dense = {k: v.to(device, copy=True) for k, v in state["dense"].items()}
        self._cut = None

    def fingerprint(self) -> dict[str, str]:
        """What a saved state must agree with."""
        p = self.problem
        return {
            "method": f"{p.method.label} {p.method.model_dump_json()}",
            "budget": repr(p.budget),
            "steps": f"{p.steps}, {p.warmup} of them warm-up",
            "mask seed": str(p.seed),
            "groups": " ".join(f"{g.name}:{g.size}" for g in self.graph.prunable),
        }

    # -- the hooks --------------------------------------------------------------------------------

    def _before_forward(self, model: nn.Module, inputs: Any) -> None:
        if self._looking or self.weights is None:
            return
        if model.training:
            self._running = True
            if not self.weights.on and self.searching:
                with self._full_numbers():
                    self._mask = self.scheme.mask(self.steps_done)
                self._restore()
        elif self.searching:
            with self._full_numbers():
                keep = self._mask_of_cut()
            self.weights.put_on(keep)

    def _after_forward(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """After an evaluation: back to the mask of the step under way, or to the exact weights."""
        if not (self._looking or model.training):
            self._restore()

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Turn the gradients now, or behind the closure that makes them (Lightning, L-BFGS)."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            if not skipped(optimizer):
                self.collect()
            return None

        def turned() -> Any:
            loss = closure()
            self.collect()
            return loss

        return args[:1], {**kwargs, "closure": turned}

    def _exact_state(self, model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """A state dict that is taken under a mask holds the exact weights."""
        if self.weights is not None and self.weights.on:
            for (_, site), exact in zip(self.weights.sites, self.weights.exact, strict=True):
                if prefix + site.name in state:
                    state[prefix + site.name] = exact.clone()

    def collect(self) -> None:
        """Take the mask off, turn the gradients, and move the keep ratios.

        `optimizer.step()` does this by itself. Called before that, it lets a clipping of gradients
        see those of the exact weights.
        """
        if self.weights is None or not self._running:
            self._count_unseen()
            return
        step, self._running, self._unseen = self.steps_done, False, 0
        gradient = torch.zeros(0)
        if self.weights.on:
            scale = 1.0 if self._scaler is None else float(self._scaler.get_scale())
            gradient = self.weights.turn(frozen_scale=scale)
            self._mask = None
            self.weights.take_off()
        self.steps_done = step + 1
        if step >= self.problem.warmup:
            self._learn(step, gradient)

    def _learn(self, step: int, gradient: Tensor) -> None:
        """Hand the mask's gradient of a weight step to the scheme."""
        if not bool(gradient.isfinite().all()):
            raise TrainingError(
                f"step {step}: the gradient is not finite; look at the loss, lower the learning "
                "rate, or clip. The weights are exact; the keep ratios have not moved"
            )
        if self.scheme.held_out and self._missing_look(step):
            raise TrainingError(
                f"step {step}: {self.problem.method.label} moves its keep ratios by held-out "
                "batches: call pruner.look(lambda: loss_of(model, batch)) wherever "
                "pruner.wants_look, or take the free gradient (estimator='free')"
            )
        lr = float(self._optimizers[0].param_groups[0]["lr"])
        penalty = self.scheme.penalty(step, lr)
        if penalty is not None:
            penalty.backward()
        figures = self.scheme.step(step, gradient, lr)
        if figures is not None:
            self._note(step + 1, figures)

    # -- small parts ------------------------------------------------------------------------------

    def _missing_look(self, step: int) -> bool:
        return self.problem.due(step) and self._looked != step

    def _count_unseen(self) -> None:
        self._unseen += 1
        if self._unseen == UNSEEN:
            warnings.warn(
                f"Pruner: {UNSEEN} optimizer steps without a forward pass of the network that was "
                "given, in training mode: nothing is pruned. Give it the module that you call",
                stacklevel=2,
            )

    def _restore(self) -> None:
        """The mask of the step under way, or the exact weights."""
        if self.weights is None:
            return
        if self._mask is None:
            self.weights.take_off()
        else:
            self.weights.put_on(self._mask)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """The exact weights for a while."""
        if self.weights is not None:
            self.weights.take_off()
        try:
            yield
        finally:
            self._restore()

    def _full_numbers(self) -> Any:
        """Outside of the autocast that the user's forward pass may run in."""
        return torch.autocast(self.problem.device.type, enabled=False)

    def _mask_of_cut(self) -> Tensor:
        """The mask of the network as it would be cut now; made anew after every step."""
        if self._cut is None or self._cut[0] != self.steps_done:
            keep = self.scheme.cut_mask(self.allocation)
            self._cut = self.steps_done, keep.to(self.problem.device, torch.float32)
        return self._cut[1]

    def _allocation(self, budget: Any, b: Tensor) -> Allocation:
        return Allocation(
            method=self.problem.method.label,
            graph=self.graph,
            budget=budget,
            keep_ratios=self.scheme.keep_ratios,
            importance=b.detach().cpu(),
            counts=self.scheme.counts(budget),
            updates=tuple(self.history),
            device=str(self.problem.device),
            notes=self.scheme.notes(),
            weight_mask=self.scheme.weight_mask(budget),
        )

    def _source(self, weights: Any) -> nn.Module:
        """The network whose weights are cut."""
        if isinstance(weights, nn.Module):
            return plain(weights)
        if weights == "searched":
            return self.model
        if weights != "dense" or not self.dense:
            raise ConfigError(
                f"weights: wanted 'searched', 'dense' (as they were at attach) or a network, got "
                f"{weights!r}"
            )
        source = duplicate(self.model)
        source.load_state_dict(self.dense)
        return source

    def _update(self, done: int, figures: Figures) -> Update:
        return Update(
            step=done,
            budget=self.problem.budget_at(done),
            cost=self.scheme.cost,
            keep_ratios=tuple(self.scheme.keep_ratios.tolist()),
            figures=figures,
        )

    def _note(self, done: int, figures: Figures) -> None:
        self.history.append(self._update(done, figures))
