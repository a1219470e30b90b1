"""The hooks by which a Pruner acts on a network and its optimizers.

A step is *open* from its first forward pass in training mode until an optimizer steps. While it is
open the weights are under its mask; between two steps they are exact.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.masked_weights import MaskedWeights
from dsa_core.training.evaluate import mode
from dsa_core.training.processes import average

UNSEEN = 20  # optimizer steps without a forward pass of the network before a warning


class Attachment:
    """A network and its optimizers, from `Pruner.attach` to `Pruner.detach`.

    Args:
        model: the network itself.
        called: the modules whose forward calls are hooked.
        optimizers: all that train the network's weights.
        weights: of the network, to mask.
        draw: returns the mask of a new step, shape (n,); None trains the exact weights.
        cut: returns the mask of the network as it would be cut now; None: uncut.
        learn: called with dL/dm at the end of a step, shape (n,), or (0,) without a mask.
        scaler: GradScaler, see `Pruner.attach`.
    """

    def __init__(
        self,
        model: nn.Module,
        called: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        weights: MaskedWeights,
        *,
        draw: Callable[[], Tensor | None],
        cut: Callable[[], Tensor | None],
        learn: Callable[[Tensor], None],
        scaler: Any = None,
    ) -> None:
        self.model, self.optimizers, self.weights, self.scaler = model, optimizers, weights, scaler
        self.draw, self.cut, self.learn = draw, cut, learn
        self.open = False
        self.mask: Tensor | None = None  # of the open step
        self.learnt = False  # from the open step, whose closure may run again
        self.quiet = False  # the hooks do nothing
        self.unseen = 0
        self.scale = 1.0  # of the loss, that the gradients still carry after `turn`
        self.eval_mask: Tensor | None = None  # what `cut` gave since the last step
        self.left: dict[int, Tensor | None] = {}  # gradients of earlier steps, before the first new
        self.several = several = len(optimizers) > 1 and scaler is None
        self.handles = [
            *(w.register_hook(hook(partial(self.arrived, w))) for w in weights.weights if several),
            *(m.register_forward_pre_hook(hook(self.before_forward)) for m in called),
            *(m.register_forward_hook(hook(self.after_forward), always_call=True) for m in called),
            model.register_state_dict_post_hook(hook(self.on_save, self.weights.copy_exact)),
            # loading ends the step: removing its mask later would overwrite the weights loaded
            model.register_load_state_dict_pre_hook(hook(lambda *_: self.shut())),
            *(o.register_step_pre_hook(self.before_step) for o in optimizers),
            *(o.register_step_post_hook(self.after_step) for o in optimizers),
        ]

    def close(self) -> None:
        """Restore the exact weights and remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.quiet = True  # compiled code may still call removed hooks
        self.weights.close()

    # -- a step -----------------------------------------------------------------------------------

    def before_forward(self, *_: Any) -> None:
        """Apply the mask of the step or, in evaluation mode, that of the cut."""
        if self.quiet or torch.compiler.is_exporting():
            return
        self.weights.check_unchanged()
        with apart(self.weights.device):
            if not self.model.training:
                if self.eval_mask is None:
                    self.eval_mask = self.cut()
                if self.eval_mask is not None:
                    self.weights.put_on(self.eval_mask)
                return
            if not self.open:
                self.open, self.mask = True, self.draw()
                if self.mask is not None:
                    self.weights.end_graphs()  # of a part that was called before the whole
            elif self.weights.frozen and not self.has_gradient():
                self.weights.drop_frozen_gradients()  # of a step that a gradient scaler skipped
            if not self.weights.on:
                self.restore()

    def after_forward(self, *_: Any) -> None:
        """After an evaluation: restore the mask of the open step, or the exact weights.

        A backward pass would go through other weights than the forward pass: autograd refuses it.
        """
        if not (self.quiet or self.model.training or torch.compiler.is_exporting()):
            followed = self.weights.on and not self.open and torch.is_grad_enabled()
            with apart(self.weights.device):
                self.restore()
                if followed:
                    self.weights.end_graphs()

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Convert the gradients now; with a closure (Lightning, L-BFGS), after it has run."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            if not skipped(optimizer):
                self.collect(optimizer)
            return None
        self.learnt = False

        def turned() -> Any:
            loss = closure()
            self.collect(optimizer, again=True)
            return loss

        return args[:1], {**kwargs, "closure": turned}

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The step of a closure ends here: L-BFGS calls it several times, under one mask."""
        if self.learnt:
            self.shut()

    def collect(self, optimizer: Any = None, *, again: bool = False) -> None:
        """Restore the exact weights and convert the gradients; the first time, learn from them.

        With `again` the step may continue under the same mask.
        """
        if not self.open:
            self.count_unseen()
            return
        self.weights.check_unchanged()
        first, self.unseen = not self.learnt, 0
        gradient = self.turn(optimizer)
        if again:
            self.weights.take_off()
            self.eval_mask, self.learnt = None, True
        else:
            self.shut()
        if first:
            self.learn(gradient)

    def turn(self, optimizer: Any) -> Tensor:
        """dL/dm, without any scale of the loss; the gradients become those of the exact weights."""
        fused = getattr(optimizer, "grad_scale", None)  # a fused optimizer unscales itself
        self.scale, scale = 1.0 if fused is None else float(fused), 1.0
        if self.scaler is not None and fused is None:
            self.unscale_others(optimizer)
            scale = float(self.scaler.get_scale())
        if not self.weights.on:
            self.weights.drop_frozen_gradients()
            return torch.zeros(0)
        with self.left_aside():
            gradient = self.weights.turn(frozen_scale=scale)
        gradient /= self.scale
        if self.weights.frozen:
            average([gradient])  # DistributedDataParallel may not know the frozen weights
        if self.scaler is not None and not bool(gradient.isfinite().all()):
            gradient.zero_()  # an overflow outside of this optimizer, which the scaler does not see
        return gradient

    def unscale_others(self, optimizer: Any) -> None:
        """Unscale the gradients of the other optimizers, which dL/dm needs too."""
        for other in self.optimizers:
            if other is not optimizer and optimizer is not None:
                try:
                    self.scaler.unscale_(other)
                except RuntimeError:  # already unscaled
                    continue

    def shut(self) -> None:
        """End the open step, if there is one."""
        self.open, self.mask, self.learnt, self.eval_mask = False, None, False, None
        self.left = {}
        self.weights.take_off()

    # -- around it --------------------------------------------------------------------------------

    def restore(self) -> None:
        """The mask of the open step, or the exact weights."""
        if self.mask is None:
            self.weights.take_off()
        else:
            self.weights.put_on(self.mask)

    @contextmanager
    def exact(self, *, quiet: bool = False) -> Iterator[None]:
        """The exact weights for the length of a block; with `quiet` the hooks do nothing."""
        on, before = self.weights.on, self.quiet
        self.weights.take_off()
        self.quiet = quiet
        try:
            yield
        finally:
            self.quiet = before
            if on:
                self.restore()

    def has_gradient(self) -> bool:
        """Whether any gradient is accumulated for the next step."""
        frozen = {id(weight) for weight in self.weights.frozen}
        held = (p for o in self.optimizers for group in o.param_groups for p in group["params"])
        return any(p.grad is not None and bool(p.grad.any()) for p in held if id(p) not in frozen)

    def arrived(self, weight: nn.Parameter, _: Tensor) -> None:
        """Before a gradient is added: keep what is there, of a step of another optimizer."""
        if self.open and id(weight) not in self.left:
            self.left[id(weight)] = None if weight.grad is None else weight.grad.clone()

    @contextmanager
    def left_aside(self) -> Iterator[None]:
        """Take out what several optimizers have left in the gradients, which was turned before."""
        weights = self.weights.weights if self.several else []
        pairs = [(w.grad, self.left.get(id(w), w.grad)) for w in weights if w.grad is not None]
        kept = [(grad, left.clone()) for grad, left in pairs if left is not None]
        for grad, left in kept:
            grad.sub_(left)
        yield
        for grad, left in kept:
            grad.add_(left)
        self.left = {}

    def count_unseen(self) -> None:
        """Warn if the network takes steps without being called."""
        self.unseen += 1
        if self.unseen == UNSEEN:
            warnings.warn(
                f"Pruner: {UNSEEN} optimizer steps without a forward pass of its network in "
                "training mode: nothing is pruned. Pass the module you call; if it was compiled "
                "before attach(), call torch.compiler.reset()",
                stacklevel=2,
            )

    def on_save(self, model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """Put the exact weights into a state dict taken under a mask."""
        exact = self.weights.aside()
        for name, weight in model.named_parameters(remove_duplicate=False):
            if id(weight) in exact and prefix + name in state:
                state[prefix + name] = exact[id(weight)].clone()


def nothing(*_: Any) -> None:
    """The hook of a copy."""


class Hook(partial[Any]):
    """A hook that is not copied with its module, neither by deepcopy nor by pickle.

    Attributes:
        on_copy: called with the memo of a deep copy of the module.
    """

    on_copy: Callable[[dict[int, Any]], None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        if self.on_copy is not None:
            self.on_copy(memo)
        return Hook(nothing)

    def __reduce__(self) -> tuple[type["Hook"], tuple[Callable[..., None]]]:
        return Hook, (nothing,)


def hook(call: Callable[..., Any], on_copy: Callable[[dict[int, Any]], None] | None = None) -> Hook:
    """A `Hook` that `torch.compile` does not trace."""
    made = Hook(torch.compiler.disable(call))
    made.on_copy = on_copy
    return made


def without_hooks(model: nn.Module) -> nn.Module:
    """Remove what a copy has in place of our hooks; returns the network."""
    for m in model.modules():
        every: list[dict[int, Any]] = [m._forward_pre_hooks, m._forward_hooks]
        for hooks in [*every, m._state_dict_hooks, m._load_state_dict_pre_hooks]:
            for key, found in list(hooks.items()):
                if getattr(getattr(found, "hook", found), "func", None) is nothing:
                    del hooks[key]
    return model


def skipped(optimizer: Any) -> bool:
    """Whether a fused optimizer will skip the step because the scaler found an overflow."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(float(found_inf))


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Leave the autocast, inference mode and checkpointing of the user's forward pass.

    Activation checkpointing counts saved tensors, and ours are not recomputed.
    """
    with (
        torch.autocast(device.type, enabled=False),
        torch.inference_mode(False),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ):
        yield


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a network in training mode; restore its buffers and modes afterwards."""
    before = [(m._buffers, dict(m._buffers)) for m in model.modules()]
    values = [(b, b.clone()) for b in model.buffers()]
    try:
        with mode(model, training=True):
            yield
    finally:
        with torch.no_grad():
            for buffers, found in before:  # a forward may have set others in their place
                buffers.update(found)
            for buffer, value in values:
                buffer.copy_(value)
