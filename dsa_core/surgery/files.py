"""Save and load a pruned network: what was kept as JSON, the numbers as safetensors, no code."""

import hashlib
import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dsa_core.channels import ChannelGraph, follow
from dsa_core.errors import ConfigError, SurgeryError, TraceError, first_problem
from dsa_core.example import Call
from dsa_core.files import write_atomically
from dsa_core.surgery.cut import check_keep, cut_made, cuts_of, prune
from dsa_core.surgery.schema import Architecture, Cut, Facts, KeptGroup, TensorFacts
from dsa_core.training.evaluate import state_tensors

FORMAT = 1
ARCHITECTURE, WEIGHTS = "architecture.json", "model.safetensors"
EXTRA = "_extra_state"  # torch's name for what get_extra_state returns
MAX_CLASSES = 100_000  # outputs of a network that a file names; ImageNet-21k has 21,841
F = TypeVar("F", bound=Facts)


def save(
    folder: str | Path, model: nn.Module, graph: ChannelGraph, keep: Tensor, *, name: str
) -> Path:
    """Write a pruned network: `architecture.json` (what was kept, no code), `model.safetensors`.

    Args:
        folder: made if needed; each file is written whole or not at all.
        model: the pruned network, as `prune` returned it.
        graph: of the dense network.
        keep: as it was given to `prune`.
        name: of the dense network, as `models.build_known` knows it, or any label for your own.

    Raises:
        SurgeryError: `keep` does not fit the graph, or they are not what the network was last cut
            by, or the network is too large to be loaded again; names the entry.
    """
    check_keep(graph, keep)
    given, made = cut_made(graph, keep), cuts_of(model)
    if made and made[-1]["groups"] != given["groups"]:
        raise SurgeryError(
            "graph and keep are not those that the network was last pruned by: pass what the last "
            "prune(model, graph, keep) was given"
        )
    files, own = (Path(folder, ARCHITECTURE), Path(folder, WEIGHTS)), {"earlier": made[:-1]}
    return write(files, Architecture, name, graph, given | own, state_of(model))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict on the CPU, without what modules add by `get_extra_state`."""
    if extra := [name for name in model.state_dict() if name.endswith(EXTRA)]:
        warnings.warn(
            f"{extra[0]} is not written ({len(extra)} of its kind): what modules keep by "
            "get_extra_state stays as the network has it that is loaded into",
            stacklevel=3,
        )
    found = state_tensors(model).items()
    return {k: v.cpu().contiguous().clone() for k, v in found if not k.endswith(EXTRA)}


def write(
    files: tuple[Path, Path],
    schema: type[Facts],
    name: str,
    graph: ChannelGraph,
    own: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Path:
    """Write a file of facts, with a digest of each entry, and the tensors; gives the folder."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "model": name,
        "num_classes": graph.outputs,
        "input_shape": list(graph.input_shape),
        **own,
        "tensors": {k: describe(v) for k, v in tensors.items()},
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    digests = {entry: digest(value) for entry, value in facts.items()}
    text = json.dumps(facts | {"sha256": digests}, indent=1)
    try:
        schema.model_validate_json(text)
    except ValidationError as error:
        raise SurgeryError(
            f"{files[0]}: entry {first_problem(error)}: it could not be loaded again, so "
            "nothing was written. Save model.state_dict() instead"
        ) from None
    write_atomically(files[1], save_tensors(tensors))
    write_atomically(files[0], text)
    return files[0].parent


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
        model: the dense network, for one that `models.build_known` does not know; not changed.

    Returns:
        The pruned network in evaluation mode, on the CPU, bit for bit as it was saved.

    Raises:
        SurgeryError: a file is missing, damaged or does not fit; names the entry.
    """
    folder = Path(folder)
    architecture = read_facts(folder / ARCHITECTURE, Architecture)
    tensors = read_weights(folder / WEIGHTS, architecture.tensors)
    pruned = by_name(architecture) if model is None else model
    for cut in (*architecture.earlier, architecture):
        pruned = replay(pruned, cut)
    check_fit(pruned, tensors, folder / WEIGHTS)
    return filled(pruned, tensors)


def entries(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, themselves."""
    state = model.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and not k.endswith(EXTRA)}


def filled(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The network with these values, in their precision, in evaluation mode."""
    own = entries(model)
    for key, tensor in tensors.items():  # load_state_dict asks each module for every key: quadratic
        own[key].data = tensor
    return model.eval()


def check_fit(model: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not of the shapes and kinds that a network needs, by name."""
    own = entries(model)
    for key in sorted(own.keys() | found.keys()):
        wanted, got = (form(state[key]) if key in state else "nothing" for state in (own, found))
        if wanted != got:
            raise SurgeryError(f"{path}: entry {key!r}: the network needs {wanted}, found {got}")


def form(tensor: Tensor) -> str:
    """Shape and kind of a tensor; numbers of any precision are of one kind."""
    real = "real" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{tuple(tensor.shape)} {real}"


def replay(model: nn.Module, cut: Cut) -> nn.Module:
    """Cut a network as it was cut before it was saved."""
    try:
        graph = follow(model, Call.zeros(vars(cut.example), model), cut.remedies)
    except TraceError as error:
        raise SurgeryError(
            f"entry 'example': the network that was given cannot be called as the saved one was; "
            f"is it the dense one that was pruned? {error}"
        ) from error
    return prune(model, graph, kept_channels(graph, cut.groups))


def by_name(facts: Facts) -> nn.Module:
    """Build the dense network that a file names; the lab knows the names, where it is installed.

    Ours and torchvision's only: a file must not name code to be run.
    """
    try:
        lab = import_module("dsa_core.lab.models")
    except ImportError as error:
        raise SurgeryError(
            f"the file names the network {facts.model!r}, which the extra `lab` would build "
            f"({error}): pip install 'dsa_core[lab]', or pass the dense network as model="
        ) from error
    if facts.num_classes > MAX_CLASSES:
        raise SurgeryError(
            f"entry 'num_classes': {facts.num_classes}, built by name are at most {MAX_CLASSES}. "
            "Pass the dense network as model="
        )
    try:
        model: nn.Module = lab.build_known(facts.model, num_classes=facts.num_classes)
    except ConfigError as error:
        raise SurgeryError(
            f"the file names the network {facts.model!r}, which cannot be built by that name: "
            f"{error}. Pass the dense network as model="
        ) from error
    return model


def read_facts(path: Path, schema: type[F]) -> F:
    """Read a file of facts, and check each entry by the schema and by its digest."""
    try:
        found = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise SurgeryError(
            f"{path}: entry 'format' is {found['format']!r}, this version reads {FORMAT}"
        )
    try:
        facts = schema.model_validate(found)
    except ValidationError as error:
        raise SurgeryError(
            f"{path}: entry {first_problem(error)}: the file is damaged or forged; save the "
            "network again"
        ) from None
    entries = {entry: digest(found[entry]) for entry in schema.model_fields if entry in found}
    entries.pop("sha256")
    for entry in sorted(entries.keys() | facts.sha256.keys()):
        if entries.get(entry) != facts.sha256.get(entry):
            raise SurgeryError(f"{path}: entry {entry!r} was changed after it was written")
    return facts


def read_weights(
    path: Path, described: dict[str, TensorFacts], facts: str = ARCHITECTURE
) -> dict[str, Tensor]:
    """Read the tensors, and compare each with its description in the file of facts."""
    try:
        tensors = load_tensors(path.read_bytes())
    except Exception as error:  # safetensors' own error class derives from Exception only
        raise SurgeryError(f"{path}: cannot be read: {error}") from error
    for key in sorted(described.keys() | tensors.keys()):
        if key not in tensors or key not in described:
            raise SurgeryError(f"{path}: entry {key!r} is in only one of {path.name} and {facts}")
        if describe(tensors[key]) != vars(described[key]):
            raise SurgeryError(f"{path}: entry {key!r} does not match its description in {facts}")
    return tensors


def kept_channels(graph: ChannelGraph, groups: dict[str, KeptGroup]) -> Tensor:
    """The flat mask of kept channels that a file describes."""
    keep = torch.zeros(graph.n_channels, dtype=torch.bool)
    names = {g.name for g in graph.prunable}
    if names != set(groups):
        raise SurgeryError(
            f"entry 'groups': network and file differ in {sorted(names ^ set(groups))}"
        )
    for group in graph.prunable:
        entry = groups[group.name]
        if entry.size != group.size:
            raise SurgeryError(
                f"entry 'groups': {group.name!r} has {group.size} channels, the file keeps "
                f"{entry.kept} of {entry.size}"
            )
        keep[group.start + torch.tensor(entry.kept)] = True
    return keep
