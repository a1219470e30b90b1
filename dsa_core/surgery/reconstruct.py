"""After a cut, fit every layer's weights to what the dense layer computed: no labels, no training.

Layer after layer, in the order in which they run, with X the inputs of a layer in the network cut
and fitted so far, and Y the outputs of the same layer in the dense network (kept channels only):

    W, c = argmin  |X W + c - Y|^2 + ridge |W|^2,      ridge = RIDGE mean diag(X'X),

by streaming normal equations: X'X and X'Y are summed over batches, so that memory does not grow
with the images. The constant c goes into the bias, or into the mean of the BatchNorm behind the
layer, whose other statistics stay those of the dense network: that is what the fitted outputs
imitate. (Re-estimating them afterwards loses accuracy.)

A removed channel that is a linear combination of kept ones, as its consumers read it, is removed
without loss.

Source: Luo et al., ThiNet (ICCV 2017), and He et al., Channel pruning (ICCV 2017), refit a layer's
weights by least squares; both take the dense layer's own inputs or outputs one layer at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from tqdm.auto import tqdm

from dsa_core.channels import ChannelGraph
from dsa_core.channels.stand_ins import standing_in
from dsa_core.errors import SurgeryError
from dsa_core.example import Call
from dsa_core.surgery.linear_form import Fitted, matrix_of, put_matrix, rows_of, targets_of
from dsa_core.training.evaluate import mode
from dsa_core.training.seeds import isolated_rng

RIDGE = 1e-4  # of the mean square of an input, so that it has no unit
Run = Callable[[nn.Module, Any], Any]
KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
KINDS += (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OWN = {kind.forward for kind in KINDS}  # another's forward may be no linear function of its weight


@dataclass(frozen=True)
class Fit:
    """How well one layer imitates the dense one.

    Attributes:
        name: of the layer.
        before, after: |X W + c - Y|^2 / |Y - mean Y|^2 of the cut weights and of the fitted ones,
            on the images of the fit.
    """

    name: str
    before: float
    after: float


class Reached(Exception):  # noqa: N818 - a signal, not an error
    """The layer that was waited for has run; the rest of the network need not."""


@torch.no_grad()
def reconstruct(
    pruned: nn.Module,
    dense: nn.Module,
    graph: ChannelGraph,
    keep: Tensor,
    batches: Iterable[Any],
    *,
    run: Run | None = None,
    ridge: float = RIDGE,
    progress: bool = True,
) -> list[Fit]:
    """Refit a pruned network in place so that its layers compute what the dense ones do.

    Args:
        pruned: as `prune(dense, graph, keep)` returned it.
        dense: the network it was cut from; not changed.
        graph: of the dense network.
        keep: which channels stay, bool, shape (n,).
        batches: what the network is called with, in any form that `trace` takes, a few hundred
            examples in all, on the network's device; gone through once for every layer.
        run: how a network is run on a batch, where that is more than its call.
        ridge: of the mean square of an input, >= 0.
        progress: show a bar.

    Returns:
        How well each fitted layer imitates the dense one, in order. A layer that is not listed has
        kept its weights: its inputs are the dense one's, it runs more than once, it shares its
        weight with another module or computes it from others (`weight_norm`), or it is no module
        of a convolution (of any kind) or a linear layer.

    Raises:
        SurgeryError: there are no batches.
    """
    inputs, run = list(batches), run or called
    if not inputs:
        raise SurgeryError("reconstruct: wanted some batches of inputs, got none")
    always = torch.cat([keep.cpu(), torch.ones(1, dtype=torch.bool)])  # place -1: stays
    fits = []
    with (
        mode(pruned, training=False),
        mode(dense, training=False),
        standing_in(pruned),
        standing_in(dense),
    ):
        norms = norms_behind(pruned, inputs[0], run)
        for layer in tqdm(graph.layers, desc="reconstruct", unit="layer", disable=not progress):
            name = layer.weight.rpartition(".")[0]
            module = pruned.get_submodule(name)
            if isinstance(module, Fitted) and module in norms:
                kept, theirs = always[layer.out_channels], (dense, dense.get_submodule(name))
                total = gather((pruned, module), theirs, kept, inputs, run)
                if total is not None:
                    fits.append(total.fit(name, module, norms[module], ridge))
    return fits


def gather(
    mine: tuple[nn.Module, Fitted],
    theirs: tuple[nn.Module, nn.Module],
    kept: Tensor,
    inputs: list[Any],
    run: Run,
) -> "Equations | None":
    """The normal equations of a layer of one network against that of another.

    None where both see the same inputs: nothing was cut before it.
    """
    total, device = None, mine[1].weight.device
    for i, x in enumerate(inputs):
        with isolated_rng(device, i):  # where a run draws, both networks get the same draws
            my_input, my_output = at_layer(*mine, x, run)
        with isolated_rng(device, i):
            their_input, outputs = at_layer(*theirs, x, run)
        if total is None and my_input.shape == their_input.shape and my_input.equal(their_input):
            return None
        rows = rows_of(mine[1], my_input, my_output)
        wanted = targets_of(mine[1], outputs, kept)
        part = Equations.of(rows, wanted)
        total = part if total is None else total.plus(part)
    return total


@dataclass(frozen=True)
class Equations:
    """The normal equations of one layer with g groups, d inputs and o outputs of a group, float64.

    Attributes:
        xx: X'X, X having a last column of ones, shape (g, d + 1, d + 1).
        xy: X'Y, shape (g, d + 1, o).
        yy: the sum of Y^2, shape (g, o).
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor

    @staticmethod
    def of(x: Tensor, y: Tensor) -> "Equations":
        """From rows x (g, N, d) and y (g, N, o); products are at least of float32."""
        x, y = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (x, y))
        x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
        products = x.mT @ x, x.mT @ y, y.square().sum(1)
        return Equations(*(p.double() for p in products))

    def plus(self, other: "Equations") -> "Equations":
        """Those of both together."""
        return Equations(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    def fit(self, name: str, layer: Fitted, norm: nn.Module | None, ridge: float) -> Fit:
        """Solve, and put the weights into the layer if they are better than its own."""
        constant = layer.bias is not None or norm is not None
        new = self.solve(ridge=ridge, constant=constant)
        before, after = self.error(matrix_of(layer)), self.error(new)
        if after < before:
            put_matrix(layer, new, norm)
        return Fit(name, before, min(before, after))

    def solve(self, *, ridge: float, constant: bool) -> Tensor:
        """The best weights and, as their last row, constants (0 where none is wanted).

        Shape (g, d + 1, o).
        """
        d = self.xx.shape[1] - 1
        size = d + 1 if constant else d
        weight = ridge * self.xx.diagonal(dim1=1, dim2=2)[:, :d].mean(1).clamp_min(1e-30)
        penalty = torch.ones(size, dtype=self.xx.dtype, device=self.xx.device)
        penalty[d:] = 0  # the constant is free
        system = self.xx[:, :size, :size] + weight.view(-1, 1, 1) * penalty.diag()
        found = torch.linalg.solve(system, self.xy[:, :size])
        return nn.functional.pad(found, (0, 0, 0, d + 1 - size))

    def error(self, w: Tensor) -> float:
        """|X w - Y|^2 / |Y - mean Y|^2 of weights with their constants, (g, d + 1, o)."""
        rows = self.xx[:, -1:, -1]
        left = (w * (self.xx @ w)).sum() - 2 * (w * self.xy).sum() + self.yy.sum()
        spread = (self.yy - self.xy[:, -1].square() / rows).sum()
        return float(left / spread.clamp_min(1e-30))


def called(network: nn.Module, batch: Any) -> Any:
    """Run a network on its inputs."""
    return Call.of(batch)(network)


def copied(x: Any) -> Any:
    """A batch that a forward may change in place."""
    return tree_map_only(Tensor, torch.clone, x)


def at_layer(
    network: nn.Module, layer: nn.Module, x: Any, run: Run = called
) -> tuple[Tensor, Tensor]:
    """What goes into a layer and what comes out of it when a network runs on x."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        seen.extend((first_input(args, kwargs), output))
        raise Reached

    hook = layer.register_forward_hook(stop, with_kwargs=True)
    try:
        run(network, copied(x))
    except Reached:
        pass
    finally:
        hook.remove()
    return seen[0], seen[1]


def norms_behind(network: nn.Module, x: Any, run: Run) -> dict[Fitted, nn.Module | None]:
    """Of every layer that can be fitted, the BatchNorm that alone reads its output, or None.

    A layer can be fitted if it runs exactly once, as torch's do, and its weight and bias are
    parameters that are its own: in no other module, and read by no other operator.
    """
    holders = Counter(id(p) for m in network.modules() for p in m._parameters.values())
    layers = [m for m in network.modules() if isinstance(m, Fitted)]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    with Readers(layers, norms) as found:
        run(network, copied(x))
    fitted = {}
    for layer in layers:
        held = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        own = all(holders[id(p)] == found.reads[id(p)] == 1 for p in held)  # 0: it is computed
        if own and type(layer).forward in OWN and found.runs[layer] == 1:
            norm = found.norm.get(layer)
            alone = norm is not None and found.runs[norm] == 1 and found.others[layer] == 0
            fitted[layer] = norm if alone else None
    return fitted


class Readers(TorchDispatchMode):
    """Watches who reads the outputs of some layers while a network runs.

    Attributes:
        runs: of each layer and each norm.
        norm: the norm that read a layer's output last; those without a running mean do not count.
        others: how many operators outside of such norms read a layer's output.
        reads: how many operators read a tensor, by its `id`.
    """

    def __init__(self, layers: Iterable[Fitted], norms: Iterable[_BatchNorm]) -> None:
        super().__init__()
        self.runs: Counter[nn.Module] = Counter()
        self.others: Counter[nn.Module] = Counter()
        self.reads: Counter[int] = Counter()
        self.norm: dict[nn.Module, nn.Module] = {}
        self.outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # alive: no id is given twice
        self.inside = False  # a norm
        self.hooks = [layer.register_forward_hook(self.ran) for layer in layers]
        for norm in norms:
            self.hooks.append(norm.register_forward_pre_hook(self.opened, with_kwargs=True))
            self.hooks.append(norm.register_forward_hook(self.closed, always_call=True))

    def __exit__(self, *raised: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*raised)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for x in tree_leaves((args, kwargs)):
            self.reads[id(x)] += isinstance(x, nn.Parameter)
            if id(x) in self.outputs and not self.inside:
                self.others[self.outputs[id(x)][0]] += 1
        return operator(*args, **(kwargs or {}))

    def ran(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        """After a layer."""
        self.runs[layer] += 1
        self.outputs[id(output)] = layer, output

    def opened(self, norm: _BatchNorm, args: Any, kwargs: Any) -> None:
        """Before a norm."""
        self.runs[norm] += 1
        layer, _ = self.outputs.get(id(first_input(args, kwargs)), (None, None))
        if layer is not None and isinstance(norm.running_mean, Tensor):
            self.norm[layer], self.inside = norm, True

    def closed(self, *_: Any) -> None:
        """After a norm."""
        self.inside = False


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer or norm of torch is called with."""
    return args[0] if args else kwargs["input"]
