"""The network a search starts from: trained here, reused, loaded from a file, or untrained."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from dsa_core.errors import ConfigError
from dsa_core.files import write_atomically
from dsa_core.lab.machine import device_name, git_commit, versions
from dsa_core.lab.models.weights import file_digest, load_weights
from dsa_core.lab.runs.context import RunContext
from dsa_core.lab.runs.folder import one_run_at_a_time
from dsa_core.surgery.files import state_of
from dsa_core.training import FP32, TrainConfig, place_model, train
from dsa_core.training.processes import agreed
from dsa_core.training.stopwatch import total_time

FACTS, WEIGHTS = "dense.json", "model.safetensors"


@dataclass(frozen=True)
class DenseNetwork:
    """The network a search starts from.

    Attributes:
        model: on its device.
        score: on the test set; None if untrained.
        extra: the task's other metrics.
        seconds, processor_seconds, epochs: of its training.
        reused: whether an earlier run trained it.
    """

    model: nn.Module
    score: float | None
    seconds: float
    processor_seconds: float
    epochs: int
    reused: bool
    extra: dict[str, float] = field(default_factory=dict)


def dense_network(context: RunContext, model: nn.Module) -> DenseNetwork:
    """Train the dense network in place, or reuse the one in `out/dense/`.

    Weights given by the user are in the model already (`load_start_weights`): they are copied to
    `out/dense/` and scored. Of several runs at once, one does this and the others wait.
    """
    config, settings = context.config, context.config.preset.dense
    if settings is None and config.weights is None:
        return DenseNetwork(model, None, 0.0, 0.0, 0, reused=False)
    folder = context.out / "dense" / config.dense_folder
    done = folder / FACTS
    if not agreed(done.exists()):
        with one_run_at_a_time(folder):
            if not agreed(done.exists()):
                if config.weights is not None:
                    keep_start_weights(context, model, folder)
                elif settings is not None:
                    train_dense(context, model, settings, folder)
    facts = read_dense(model, folder)
    # a resumed run finds its own; weights from a file were trained by no run
    reused = config.weights is None and facts.get("trained_by") != config.hash
    origin = f"trained before, {folder}" if reused else f"on the test set, {folder}"
    score, extra = facts["score"], facts.get("extra", {})
    context.print(
        f"dense {config.model}: {context.task.show(score)} {context.task.judged_by} ({origin})"
    )
    cost = total_time([facts])
    return DenseNetwork(model, score, **cost, epochs=facts["epochs"], reused=reused, extra=extra)


def data_digests(context: RunContext) -> dict[str, str]:
    """Names the training and the test data by their contents."""
    found = {}
    for name, part in (("data", "train"), ("test data", "test")):
        batches = context.dataset.batches(part, batch_size=1, augment="none", shuffle=False)
        written = json.dumps(batches.fingerprint(), sort_keys=True)
        found[name] = sha256(written.encode()).hexdigest()
    return found


def check_data(context: RunContext) -> None:
    """Refuse an `out/dense/` whose network was trained or scored on other data of that name.

    Raises:
        ConfigError: it was.
    """
    path = context.out / "dense" / context.config.dense_folder / FACTS
    try:
        facts = json.loads(path.read_text())
        then = {name: facts[name] for name in ("data", "test data") if name in facts}
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        return
    if then and not then.items() <= data_digests(context).items():  # an older one has less
        raise ConfigError(
            f"{path.parent} is of other data than {context.config.dataset} is now: give another "
            "--out, or the folder of the data as before"
        )


def read_dense(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Load the weights of a folder into the model, in place; return the facts beside them.

    ConfigError if a file is damaged, or the weights have changed since they were written.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
        content = (folder / WEIGHTS).read_bytes()
        found = sha256(content).hexdigest()
        if facts.get("sha256", found) != found:  # absent in older folders
            raise ValueError(f"{WEIGHTS} was changed after it was written")
        if not {"score", "seconds", "epochs"} <= facts.keys():
            raise ValueError(f"{FACTS} has no score, seconds or epochs")
        model.load_state_dict(load_tensors(content))
    except (AttributeError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: the dense network there cannot be read: {error}. Remove the folder to "
            "train it again"
        ) from error
    return facts


def train_dense(context: RunContext, model: nn.Module, settings: TrainConfig, folder: Path) -> None:
    """Train the dense network in place, and write it to its folder."""
    config = context.config
    part = context.halves()[0] if config.preset.dense_split else None
    context.print(f"dense {config.model}: training {settings.epochs} epochs of {config.dataset}")
    result = train(
        model,
        context.training("dense", settings.batch_size, part),
        context.task,
        settings,
        seed=config.seed,
        checkpoint=folder / "train.pt",
        progress=context.progress,
    )
    place_model(model, FP32)
    measured = context.measure(model)
    facts = {
        "model": config.model,
        "dataset": config.dataset,
        **data_digests(context),
        "seed": config.seed,
        "trained_by": config.hash,
        "score_name": context.task.judged_by,
        "score": measured.score,
        "extra": measured.extra,
        "seconds": result.seconds,
        "processor_seconds": result.processor_seconds,
        "epochs": len(result.history),
        "precision": result.precision,
        "versions": versions(),
        "device": device_name(context.device),
        "git_commit": git_commit(),
        "config": settings.model_dump(),
        "history": result.history,
    }
    keep_dense(model, folder, facts)


def keep_dense(model: nn.Module, folder: Path, facts: dict[str, Any]) -> None:
    """Write a dense network; `dense.json` last, because it marks the folder as complete.

    It holds the SHA-256 of the weights, which `read_dense` checks.
    """
    content = save_tensors(state_of(model))
    write_atomically(folder / WEIGHTS, content)
    facts = facts | {"sha256": sha256(content).hexdigest()}
    write_atomically(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def load_start_weights(context: RunContext, model: nn.Module) -> None:
    """Load the weights of `context.weights` into the model, in place, if the run starts from some.

    Nothing is written yet. If an earlier run left a copy in `out/dense/`, no file is needed.

    Raises:
        ConfigError: the file is missing, is not the one the configuration names, or does not fit
            the network; or the configuration names none.
    """
    wanted, path = context.config.weights, context.weights
    if path is not None and (found := file_digest(path)) != wanted:
        named = f"names weights of SHA-256 {wanted[:10]}..." if wanted else "names no weights"
        raise ConfigError(
            f"the configuration {named}, {path} has {found[:10]}...: pass the file to "
            "configure as well, configure(..., weights=PATH)"
        )
    if wanted is None or (context.out / "dense" / context.config.dense_folder / FACTS).exists():
        return
    if path is None:
        raise ConfigError(
            f"this configuration starts from weights (SHA-256 {wanted[:10]}...), and {context.out} "
            "holds no copy of them: pass the file, run(..., weights=PATH)"
        )
    load_weights(model, path)


def keep_start_weights(context: RunContext, model: nn.Module, folder: Path) -> None:
    """Measure the network with the loaded weights, and write it to its folder."""
    context.print(f"dense {context.config.model}: weights of {context.weights}")
    measured = context.measure(model)
    facts = {"weights": context.config.weights, "score": measured.score, "extra": measured.extra}
    facts |= {**data_digests(context), "seconds": 0.0, "epochs": 0}
    keep_dense(model, folder, facts)
