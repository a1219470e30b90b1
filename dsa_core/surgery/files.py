"""Save and load a pruned network: what was kept as JSON, the numbers as safetensors, no code."""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph, follow
from dsa_core.channels.remedies import Remedies
from dsa_core.errors import ConfigError, SurgeryError, TraceError
from dsa_core.example import Call
from dsa_core.files import write_atomically
from dsa_core.surgery.cut import check_keep, cut_made, cuts_of, prune
from dsa_core.surgery.schema import check_architecture

FORMAT = 1
ARCHITECTURE, WEIGHTS = "architecture.json", "model.safetensors"
ENTRIES: dict[str, type] = {
    "format": int,
    "model": str,
    "num_classes": int,
    "input_shape": list,
    "groups": dict,
    "tensors": dict,
    "versions": dict,
}
LATER: dict[str, type] = {  # files written before have them not
    "example": dict,
    "earlier": list,
    "remedies": dict,
}


def save(
    folder: str | Path, model: nn.Module, graph: ChannelGraph, keep: Tensor, *, name: str
) -> Path:
    """Write a pruned network: `architecture.json` (what was kept, no code), `model.safetensors`.

    Args:
        folder: made if needed; each file is written whole or not at all.
        model: the pruned network, as `prune` returned it.
        graph: of the dense network.
        keep: as it was given to `prune`.
        name: of the dense network, as `models.build` knows it, or any label for one of your own.

    Returns:
        The folder.

    Raises:
        SurgeryError: `keep` does not fit the graph, or they are not what the network was last cut
            by.
    """
    check_keep(graph, keep)
    *earlier, last = cuts_to_write(model, graph, keep)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    architecture: dict[str, Any] = {
        "format": FORMAT,
        "model": name,
        "num_classes": graph.outputs,
        "input_shape": list(graph.input_shape),
        **last,
        "earlier": earlier,
        "tensors": {k: describe(v) for k, v in tensors.items()},
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    architecture["sha256"] = {entry: digest(architecture[entry]) for entry in {**ENTRIES, **LATER}}
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / ARCHITECTURE, json.dumps(architecture, indent=1).encode())
    return folder


def cuts_to_write(model: nn.Module, graph: ChannelGraph, keep: Tensor) -> list[dict[str, Any]]:
    """Every cut from the dense network to this one, the given one last."""
    given, made = cut_made(graph, keep), cuts_of(model)
    if made and made[-1]["groups"] != given["groups"]:
        raise SurgeryError(
            "graph and keep are not those that the network was last pruned by: pass what the last "
            "prune(model, graph, keep) was given"
        )
    return [*made[:-1], given]


def describe(tensor: Tensor) -> dict[str, Any]:
    """Shape, type and digest of a tensor's bytes."""
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def digest(entry: Any) -> str:
    """Digest of one entry of the architecture."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a pruned network. Nothing is unpickled and no code is read.

    Args:
        folder: as `save` wrote it.
        model: the dense network, for one that `models.build` does not know by name; not changed.

    Returns:
        The pruned network in evaluation mode, on the CPU, bit for bit as it was saved.

    Raises:
        SurgeryError: a file is missing, damaged or does not fit; names the entry.
    """
    folder = Path(folder)
    architecture = read_architecture(folder / ARCHITECTURE)
    tensors = read_weights(folder / WEIGHTS, architecture["tensors"])
    if model is None:
        model = by_name(architecture["model"], num_classes=architecture["num_classes"])
    pruned = model
    for cut in cuts_in(architecture):
        pruned = replay(pruned, cut)
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


def cuts_in(architecture: dict[str, Any]) -> list[dict[str, Any]]:
    """Every cut that a file describes, first to last; one of old knows a single input only."""
    tensor = {"tensor": architecture["input_shape"], "dtype": "float32"}
    example = architecture.get("example", {"args": [tensor], "kwargs": {}})
    last = {entry: architecture.get(entry) for entry in ("groups", "remedies")}
    return [*architecture.get("earlier", []), {"example": example, **last}]


def replay(model: nn.Module, cut: dict[str, Any]) -> nn.Module:
    """Cut a network as it was cut before it was saved."""
    try:
        call = Call.zeros(cut["example"], model)
        graph = follow(model, call, Remedies.of(cut.get("remedies")))
    except TraceError as error:
        raise SurgeryError(
            f"entry 'example': the network that was given cannot be called as the saved one was; "
            f"is it the dense one that was pruned? {error}"
        ) from error
    return prune(model, graph, kept_channels(graph, cut["groups"]))


def by_name(name: str, *, num_classes: int) -> nn.Module:
    """Build a dense network that a file names; the lab knows the names, where it is installed.

    Ours and torchvision's only: a file must not name code to be run.
    """
    try:
        lab = import_module("dsa_core.lab.models")
    except ImportError as error:
        raise SurgeryError(
            f"the file names the network {name!r}, which the extra `lab` would build ({error}): "
            "pip install 'dsa_core[lab]', or pass the dense network as model="
        ) from error
    try:
        model: nn.Module = lab.build_known(name, num_classes=num_classes)
    except ConfigError as error:
        raise SurgeryError(
            f"the file names the network {name!r}, which cannot be built by that name: {error}. "
            "Pass the dense network as model="
        ) from error
    return model


def read_architecture(path: Path, entries: Mapping[str, type] = ENTRIES) -> dict[str, Any]:
    """Read and check `architecture.json`, or another file of facts with these entries."""
    try:
        found = json.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    later = {
        entry: kind
        for entry, kind in LATER.items()
        if isinstance(found, dict) and (entry in found or entry in (found.get("sha256") or ()))
    }
    for entry, kind in {**entries, **later, "sha256": dict}.items():
        if not isinstance(found, dict) or not isinstance(found.get(entry), kind):
            raise SurgeryError(f"{path}: entry {entry!r} is missing or is not a {kind.__name__}")
    if found["format"] != FORMAT:
        raise SurgeryError(
            f"{path}: entry 'format' is {found['format']}, this version reads {FORMAT}"
        )
    for entry in {**entries, **later}:
        if digest(found[entry]) != found["sha256"].get(entry):
            raise SurgeryError(f"{path}: entry {entry!r} was changed after it was written")
    if entries is ENTRIES:
        check_architecture(found, str(path))
    return found


def read_weights(
    path: Path, described: dict[str, Any], facts: str = ARCHITECTURE
) -> dict[str, Tensor]:
    """Read the tensors, and compare each with its description in the file of facts."""
    try:
        tensors = load_tensors(path.read_bytes())
    except Exception as error:  # safetensors' own error class derives from Exception only
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    for key in sorted(described.keys() | tensors.keys()):
        if key not in tensors or key not in described:
            raise SurgeryError(f"{path}: entry {key!r} is in only one of {path.name} and {facts}")
        if describe(tensors[key]) != described[key]:
            raise SurgeryError(f"{path}: entry {key!r} does not match its description in {facts}")
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
        kept = torch.tensor(entry["kept"], dtype=torch.int64)
        fits = len(kept) and int(kept.min()) >= 0 and int(kept.max()) < group.size
        if entry["size"] != group.size or not fits:
            raise SurgeryError(
                f"entry 'groups': {group.name!r} has {group.size} channels, the file keeps "
                f"{kept.tolist()} of {entry['size']}"
            )
        keep[group.start + kept] = True
    return keep
