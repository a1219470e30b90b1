"""Cut channels out of a network, and save and load what is left."""

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dsa_core import models
from dsa_core.channels import ChannelGraph, trace
from dsa_core.channels.export import failing_module
from dsa_core.errors import SurgeryError

FORMAT = 1
ARCHITECTURE, WEIGHTS = "architecture.json", "model.safetensors"


def prune(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> nn.Module:
    """Return a smaller copy of a network, of the same classes; the given one is not touched.

    The pruned network computes what the dense one computes with the dropped channels masked at their
    consumers, to float tolerance.

    Args:
        model: the network that was traced into `graph`.
        keep: which prunable channels stay, bool, shape (graph.n_channels,).

    Raises:
        SurgeryError: a group would lose all its channels, or `keep` or the model does not fit the graph.
    """
    check_keep(graph, keep)
    pruned = copy.deepcopy(model)
    always = torch.cat([keep.cpu(), torch.ones(1, dtype=torch.bool)])  # place -1: stays
    done: dict[int, Tensor] = {}
    for name, by_axis in graph.axes.items():
        owner, _, attribute = name.rpartition(".")
        module = module_at(pruned, owner)
        tensor = getattr(module, attribute)
        if id(tensor) not in done:
            done[id(tensor)] = cut(tensor, by_axis, always, name)
        replace(module, attribute, done[id(tensor)])
    for module in pruned.modules():
        resize(module)
    return pruned


def check_keep(graph: ChannelGraph, keep: Tensor) -> None:
    """Refuse a choice of channels that does not fit the graph."""
    if keep.dtype != torch.bool or keep.shape != (graph.n_channels,):
        raise SurgeryError(
            f"keep must be bool of shape ({graph.n_channels},), one entry for each prunable channel; "
            f"got {keep.dtype} {tuple(keep.shape)}"
        )
    for group in graph.prunable:
        if not keep[group.start : group.start + group.size].any():
            raise SurgeryError(f"group {group.name} would keep none of its {group.size} channels")


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a path, with an error that names it."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SurgeryError(
            f"the model has no module {path!r}: it is not the one that was traced"
        ) from error


def cut(tensor: Tensor, by_axis: dict[int, Tensor], always: Tensor, name: str) -> Tensor:
    """Keep the positions of each axis whose channel stays."""
    result = tensor.detach()
    for axis, channels in by_axis.items():
        if tensor.shape[axis] != len(channels):
            raise SurgeryError(
                f"{name} has {tensor.shape[axis]} positions on axis {axis}, the graph has {len(channels)}: "
                "the model is not the one that was traced"
            )
        index = always[channels].nonzero()[:, 0].to(tensor.device)
        result = result.index_select(axis, index)
    result = result.clone(memory_format=torch.preserve_format)
    return (
        nn.Parameter(result, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result
    )


def replace(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    if attribute in module._parameters:
        module._parameters[attribute] = tensor  # type: ignore[assignment]
    else:
        module._buffers[attribute] = tensor


def resize(module: nn.Module) -> None:
    """Make a module's own numbers agree with the tensors it holds."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        resize_convolution(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def resize_convolution(conv: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    """Channels of a convolution; a depthwise one has as many groups as input channels."""
    depthwise = conv.groups > 1 and weight.shape[1] == 1 and not conv.transposed
    if depthwise:
        multiplier = conv.out_channels // conv.in_channels
        conv.out_channels = weight.shape[0]
        conv.in_channels = conv.groups = weight.shape[0] // multiplier
        return
    rows, columns = weight.shape[0], weight.shape[1] * conv.groups
    if conv.transposed:
        conv.in_channels, conv.out_channels = rows, columns
    else:
        conv.out_channels, conv.in_channels = rows, columns


def try_forward(model: nn.Module, example: Tensor) -> Tensor:
    """Run a pruned network once, without touching its statistics.

    Raises:
        SurgeryError: it cannot run (a width written into some `forward`, say); names the module and the line.
    """
    modes = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad():
            return model.eval()(example)
    except Exception as error:
        where = failing_module(model, error)
        raise SurgeryError(
            f"the pruned network cannot run: {where}: {error}. A width is probably written into that forward: "
            "take it from the tensor's shape, or keep the group by a floor of 1"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def save(
    folder: str | Path, model: nn.Module, graph: ChannelGraph, keep: Tensor, *, name: str
) -> Path:
    """Write a pruned network: `architecture.json` (what was kept, no code) and `model.safetensors`.

    Args:
        folder: made if needed; both files are written whole or not at all.
        name: of the dense network, as `models.build` knows it, or any label for one of your own.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    groups = graph.prunable
    kept = {g.name: keep[g.start : g.start + g.size].nonzero()[:, 0].tolist() for g in groups}
    architecture = {
        "format": FORMAT,
        "model": name,
        "num_classes": output_width(graph),
        "input_shape": list(graph.input_shape),
        "groups": {g.name: {"size": g.size, "kept": kept[g.name]} for g in groups},
        "tensors": {k: describe(v) for k, v in tensors.items()},
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / ARCHITECTURE, json.dumps(architecture, indent=1).encode())
    return folder


def output_width(graph: ChannelGraph) -> int:
    """The width of the last layer."""
    return int(graph.layers[-1].shape[0])


def describe(tensor: Tensor) -> dict[str, Any]:
    """Shape, type and digest of a tensor's bytes."""
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    digest = hashlib.sha256(raw).hexdigest()
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sha256": digest,
    }


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a pruned network. Nothing is unpickled and no code is read.

    Args:
        folder: as `save` wrote it.
        model: the dense network, for one that `models.build` does not know by name; it is not changed.

    Raises:
        SurgeryError: a file is missing, damaged or does not fit; names the entry.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    tensors = read_weights(folder, architecture["tensors"])
    if model is None:
        model = models.build(architecture["model"], num_classes=architecture["num_classes"])
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    graph = trace(model, torch.zeros(architecture["input_shape"], dtype=kind))
    pruned = prune(model, graph, kept_channels(graph, architecture["groups"]))
    own = pruned.state_dict()
    for key in own.keys() | tensors.keys():
        found = tuple(tensors[key].shape) if key in tensors else "nothing"
        wanted = tuple(own[key].shape) if key in own else "nothing"
        if found != wanted:
            raise SurgeryError(
                f"{folder / WEIGHTS}: entry {key!r}: the network needs {wanted}, found {found}"
            )
    own.update(tensors)  # keeps the metadata that some networks ask for
    pruned.load_state_dict(own, assign=True)
    return pruned.eval()


def read_architecture(folder: Path) -> dict[str, Any]:
    """Read and check `architecture.json`."""
    path = folder / ARCHITECTURE
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    wanted = {
        "format": int,
        "model": str,
        "num_classes": int,
        "input_shape": list,
        "groups": dict,
        "tensors": dict,
    }
    for entry, kind in wanted.items():
        if not isinstance(found, dict) or not isinstance(found.get(entry), kind):
            raise SurgeryError(f"{path}: entry {entry!r} is missing or is not a {kind.__name__}")
    if found["format"] != FORMAT:
        raise SurgeryError(
            f"{path}: entry 'format' is {found['format']}, this version reads {FORMAT}"
        )
    return found


def read_weights(folder: Path, described: dict[str, Any]) -> dict[str, Tensor]:
    """Read the tensors, and compare each with its description."""
    path = folder / WEIGHTS
    try:
        tensors = load_tensors(path.read_bytes())
    except Exception as error:  # safetensors has its own error class, not derived from a common one
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    for key in described.keys() | tensors.keys():
        if key not in tensors or key not in described:
            raise SurgeryError(
                f"{path}: entry {key!r} is in only one of {WEIGHTS} and {ARCHITECTURE}"
            )
        if describe(tensors[key]) != described[key]:
            raise SurgeryError(
                f"{path}: entry {key!r} does not match its description in {ARCHITECTURE}"
            )
    return tensors


def kept_channels(graph: ChannelGraph, groups: dict[str, Any]) -> Tensor:
    """The flat mask of kept channels that a file describes."""
    keep = torch.zeros(graph.n_channels, dtype=torch.bool)
    names = {g.name for g in graph.prunable}
    if names != set(groups):
        raise SurgeryError(
            f"entry 'groups': network and file differ in {sorted(names ^ set(groups))}"
        )
    for group in graph.prunable:
        entry = groups[group.name]
        kept = torch.tensor(entry.get("kept", []), dtype=torch.int64)
        if (
            entry.get("size") != group.size
            or not len(kept)
            or kept.min() < 0
            or kept.max() >= group.size
        ):
            raise SurgeryError(
                f"entry 'groups': {group.name!r} has {group.size} channels, the file keeps {kept.tolist()} "
                f"of {entry.get('size')}"
            )
        keep[group.start + kept] = True
    return keep
