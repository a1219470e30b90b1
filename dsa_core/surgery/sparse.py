"""Single weights: set to zero, held at zero in a training, saved as indices and values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph
from dsa_core.errors import SurgeryError
from dsa_core.surgery.cut import duplicate
from dsa_core.surgery.files import (
    by_name,
    check_fit,
    filled,
    read_facts,
    read_weights,
    state_of,
    write,
)
from dsa_core.surgery.schema import Sparse

FACTS, TENSORS = "sparse.json", "sparse.safetensors"
INDICES, VALUES = ".indices", ".values"


def zero_weights(model: nn.Module, weight_mask: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network with single weights set to zero; the given one is not touched.

    Args:
        model: the network.
        weight_mask: weight -> which entries stay, bool, in the shape of the weight.

    Raises:
        SurgeryError: a mask does not fit the network, or leaves nothing of a weight.
    """
    check_mask(model, weight_mask)
    sparse = duplicate(model)
    parameters = dict(sparse.named_parameters())
    with torch.no_grad():
        for name, mask in weight_mask.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)
    return sparse


def check_mask(model: nn.Module, weight_mask: Mapping[str, Tensor]) -> None:
    """Refuse masks that do not fit a network."""
    parameters = dict(model.named_parameters())
    for name, mask in weight_mask.items():
        found = tuple(parameters[name].shape) if name in parameters else "no such parameter"
        if mask.dtype != torch.bool or tuple(mask.shape) != found:
            raise SurgeryError(
                f"weight_mask[{name!r}]: {mask.dtype} of shape {tuple(mask.shape)}; the network "
                f"has {found}, and a mask is bool: True stays"
            )
        if not mask.any():
            raise SurgeryError(f"{name} would keep none of its {mask.numel()} weights: keep one")


@contextmanager
def held_zeros(model: nn.Module, weight_mask: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """A network whose dropped weights get no gradient for the length of a block.

    Under SGD a weight that is zero, with no gradient, stays zero: momentum and weight decay of zero
    are zero.
    """
    check_mask(model, weight_mask)
    parameters = dict(model.named_parameters())
    hooks = []
    for name, mask in weight_mask.items():
        dropped = (~mask).to(parameters[name].device)
        hooks.append(parameters[name].register_hook(lambda g, d=dropped: g.masked_fill(d, 0.0)))
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def save_sparse(
    folder: str | Path,
    model: nn.Module,
    graph: ChannelGraph,
    weight_mask: Mapping[str, Tensor],
    *,
    name: str,
) -> Path:
    """Write a network with single weights removed: `sparse.json`, `sparse.safetensors`.

    A weight with a mask is written as two tensors, `<weight>.indices`, int32, the places of the
    kept entries in the flattened weight, rising, and `<weight>.values`. All else is written whole.
    An index costs as much as a value: below half of the weights the file is smaller than the dense
    one, above it is larger.

    Args:
        folder: made if needed; each file is written whole or not at all.
        model: the network, its dropped weights zero.
        graph: of the network.
        weight_mask: weight -> which entries stay.
        name: of the network, as `models.build_known` knows it, or any label for one of your own.

    Raises:
        SurgeryError: a mask does not fit, or a dropped weight is not zero.
    """
    check_mask(model, weight_mask)
    tensors: dict[str, Tensor] = {}
    for key, value in state_of(model).items():
        mask = weight_mask.get(key)
        tensors |= {key: value} if mask is None else packed(key, value, mask.cpu())
    shapes = {key: list(mask.shape) for key, mask in weight_mask.items()}
    files = Path(folder, FACTS), Path(folder, TENSORS)
    return write(files, Sparse, name, graph, {"shapes": shapes}, tensors)


def packed(key: str, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Kept entries of one weight, as indices and values."""
    if bool((value[~mask] != 0).any()):
        raise SurgeryError(
            f"{key}: {int((value[~mask] != 0).sum())} dropped weights are not zero: set them by "
            "`zero_weights`, and train under `held_zeros`"
        )
    flat = mask.flatten().nonzero()[:, 0]
    return {key + INDICES: flat.int(), key + VALUES: value.flatten()[flat]}


def load_sparse(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a network with single weights removed. Nothing is unpickled and no code is read.

    Args:
        folder: as `save_sparse` wrote it.
        model: the network, for one that `models.build_known` does not know; not changed.

    Returns:
        The network in evaluation mode, on the CPU, with zeros where nothing was kept; bit for bit
        as it was saved, but that a zero has no sign.

    Raises:
        SurgeryError: a file is missing, damaged or does not fit; names the entry.
    """
    folder = Path(folder)
    facts = read_facts(folder / FACTS, Sparse)
    tensors = read_weights(folder / TENSORS, facts.tensors, FACTS)
    sparse = duplicate(by_name(facts) if model is None else model).cpu()
    ours = {key + end for key in facts.shapes for end in (INDICES, VALUES)}
    state = {k: v for k, v in tensors.items() if k not in ours}
    parts = {key: parts_of(key, tensors, folder / TENSORS) for key in facts.shapes}
    shapes = {
        key: values.new_empty(facts.shapes[key], device="meta")
        for key, (_, values) in parts.items()
    }
    check_fit(sparse, state | shapes, folder / TENSORS)  # before memory is taken
    state |= {key: unpacked(key, *parts[key], shapes[key], folder / TENSORS) for key in parts}
    return filled(sparse, state)


def parts_of(key: str, tensors: Mapping[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Indices and values of one weight."""
    for name in (key + INDICES, key + VALUES):
        if name not in tensors or tensors[name].ndim != 1:
            raise SurgeryError(f"{path}: entry {name!r} is missing or not of one axis")
    return tensors[key + INDICES], tensors[key + VALUES]


def unpacked(key: str, indices: Tensor, values: Tensor, like: Tensor, path: Path) -> Tensor:
    """One weight from its indices and values, in the shape of `like`."""
    size, indices = like.numel(), indices.long()
    inside = len(indices) == 0 or (int(indices[0]) >= 0 and int(indices[-1]) < size)
    if len(indices) != len(values) or not inside or bool((indices.diff() <= 0).any()):
        raise SurgeryError(
            f"{path}: entry {key + INDICES!r}: wanted {len(values)} rising places below {size}, "
            "one for each value"
        )
    return values.new_zeros(size).index_put_((indices,), values).reshape(like.shape)
