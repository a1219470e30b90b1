"""Record the operators of one forward pass, on a twin of the network that holds no numbers.

Much faster than `torch.export`, and meant to note the same operators: those that are dispatched
before anything is decomposed. What is not certain ends in an error, and `export` is used instead.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload

from dsa_core.channels.export import returned
from dsa_core.channels.program import Kind, Program, Signature, Value, signature
from dsa_core.channels.quick import ANSWERS
from dsa_core.example import Call

META = torch.device("meta")
TENSORS = (Tensor, list, tuple, type(None))
KINDS = ("state", "constant", "input")


class UnsureError(Exception):
    """The forward pass does something that a recording might miss."""


class Recorded(Tensor):
    """A tensor of the meta device that reports the device of the network as its own."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    is_meta = False


@cache
def recorded_on(device: torch.device) -> type[Recorded]:
    """The class of recorded tensors for a device."""
    places = {"device": device, "is_cuda": device.type == "cuda", "is_cpu": device.type == "cpu"}
    return type("Recorded", (Recorded,), places)


@dataclass(slots=True)
class Track:
    """What stands for one tensor of the forward pass.

    Attributes:
        seen: what the network sees.
        plain: on the meta device, for operators to run on.
        value: as it is noted.
    """

    seen: Tensor
    plain: Tensor
    value: Value


class Recorder:
    """Notes every operator before it is taken apart, and runs it on the meta device.

    Attributes:
        tracks: by the id of `seen`, of `plain`, and of real tensors.
        made: new tensors (zeros, arange) by their storage: torch hands out a copy of what is seen.
        real: tensors that are held, so that nothing else gets their id.
        modules: paths of the modules that run, innermost last.
        failed: whether an operator raised an error.
        level: at which torch hands operators over.
    """

    def __init__(self, device: torch.device) -> None:
        self.kind, self.failed = recorded_on(device), False
        self.level = torch._C.DispatchKeySet(torch._C.DispatchKey.PreDispatch)
        self.program, self.modules = Program(), [""]
        self.tracks: dict[int, Track] = {}
        self.made: dict[int, Track] = {}
        self.real: list[Tensor] = []

    def give(self, tensor: Tensor, kind: Kind, name: str = "") -> Track:
        """Let something stand for a real tensor that the network is given."""
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.is_meta:
            raise UnsureError(f"a {type(tensor).__name__} on {tensor.device}")
        plain = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        track = self.track(plain, self.program.give(plain, kind, name), tensor.requires_grad)
        track.seen._is_param = isinstance(tensor, nn.Parameter)
        self.tracks[id(tensor)] = track
        self.real.append(tensor)
        return track

    def track(self, plain: Tensor, value: Value, requires_grad: bool = False) -> Track:
        """Let a tensor stand for a value."""
        found = Track(torch.Tensor._make_subclass(self.kind, plain, requires_grad), plain, value)
        self.tracks[id(found.seen)] = self.tracks[id(plain)] = found
        return found

    def find(self, tensor: Tensor) -> Track:
        """What stands for a tensor; for a real one that was not seen before, a constant."""
        found = self.tracks.get(id(tensor))
        if found is None and tensor.is_meta:
            found = self.made.get(tensor.untyped_storage()._cdata)
            if found is not None and found.plain.shape == tensor.shape:
                self.tracks[id(tensor)] = found
                self.real.append(tensor)
        return found or self.give(tensor, "constant")

    def both(self, argument: Any) -> tuple[Any, Any]:
        """An argument as it can be run, and as it is noted."""
        if isinstance(argument, Tensor):
            track = self.find(argument)
            return track.plain, track.value
        if isinstance(argument, list | tuple):
            pairs = [self.both(a) for a in argument]
            return [plain for plain, _ in pairs], [value for _, value in pairs]
        return (META if isinstance(argument, torch.device) else argument), argument

    def call(self, func: OpOverload, *args: Any, **kwargs: Any) -> Any:
        """Run an operator without numbers, and note it."""
        try:
            with (
                torch._C._ExcludeDispatchKeyGuard(self.level),
                torch._C._DisablePythonDispatcher(),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                return self.run(func, args, kwargs)
        except BaseException:
            self.failed = True
            raise

    def run(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator, and note it; returns what the network sees of the result."""
        known = signature(func)
        noted, plain, named = known.defaults.copy(), [], {}
        for name, argument in zip(known.names, args, strict=False):
            run, noted[name] = self.both(argument)
            plain.append(run)
        for name, argument in kwargs.items():
            named[name], noted[name] = self.both(argument)
        answer = None if kwargs else ANSWERS.get(func)
        output = None if answer is None else answer(*plain)
        if output is None:
            check_types(known, plain)
            if "device" in known.names[len(args) :]:
                named["device"] = META
            output = func(*plain, **named)
            if not isinstance(output, TENSORS):
                return output  # a number that depends on shapes alone; no others occur here
        made = self.program.call(func, noted, output, self.modules[-1])
        if isinstance(output, Tensor):
            return self.see(output, made[0], known)
        return output and [self.see(o, v, known) for o, v in zip(output, made, strict=True)]

    def see(self, output: Any, value: Value | None, known: Signature) -> Any:
        """What the network sees in place of what an operator returned."""
        if value is None:
            return output
        track = self.tracks.get(id(output))  # of a tensor that was given: it was changed in place
        if track is None:
            track = self.track(output, value)
            if "device" in known.names:
                self.made[output.untyped_storage()._cdata] = track
        elif track.seen.shape != output.shape:
            raise UnsureError("a tensor of which the shape was changed in place")
        track.value = value
        return track.seen


def check_types(known: Signature, arguments: Sequence[Any]) -> None:
    """Floating types that are mixed may be an error, of which the meta device knows nothing."""
    floats = {a.dtype for a in arguments if isinstance(a, Tensor) and a.is_floating_point()}
    if len(floats) > 1 and not known.pointwise:
        raise UnsureError(f"{known.op} of {floats}")


def record(model: nn.Module, call: Call) -> Program:
    """Run a twin of the network once, in evaluation mode, and note what it calls.

    The network itself, its buffers and every random state are left alone.

    Raises:
        Exception: of any kind, where the forward pass cannot be recorded: it reads numbers out of
            tensors, or is on several devices, or has a part that cannot be copied.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    (device,) = {t.device for t in [*state.values(), *call.tensors.values()]}
    recorder = Recorder(device)
    for name, tensor in state.items():
        recorder.give(tensor, "state", name)
    given = call.map(lambda tensor: recorder.give(tensor, "input").seen)
    names, running = twin_of(model, recorder)
    running.eval()
    with called_modules(recorder.modules, names), recording(recorder):
        output = given(running)
    tensors = returned(model, output)
    if recorder.failed:
        raise UnsureError("the forward caught an error of an operator")
    recorder.program.returned = [recorder.find(t).value for t in tensors]
    recorder.program.given.sort(key=lambda g: KINDS.index(g.kind))
    return recorder.program


def twin_of(model: nn.Module, recorder: Recorder) -> tuple[dict[nn.Module, str], nn.Module]:
    """A copy of a network on what stands for its tensors: its modules with their paths, and itself.

    Whatever the copy keeps in its attributes does not reach the network.
    """
    seen: dict[int, Any] = {}
    for module in model.modules():
        for held in (vars(module), module._parameters, module._buffers):
            tensors = (value for value in held.values() if isinstance(value, Tensor))
            seen.update({id(tensor): recorder.find(tensor).seen for tensor in tensors})
    twin = copy.deepcopy(model, seen)
    paths = (path for path, _ in model.named_modules())
    return dict(zip(twin.modules(), paths, strict=True)), twin


@contextmanager
def called_modules(stack: list[str], names: dict[nn.Module, str]) -> Iterator[None]:
    """Keep the path of the module that runs, its hooks included, on top of a stack."""
    call: Callable[..., Any] = nn.Module.__call__

    def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack.append(names.get(module, stack[-1]))
        try:
            return call(module, *args, **kwargs)
        finally:
            stack.pop()

    with patch.object(nn.Module, "__call__", noted):
        yield


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Hand every operator to a recorder, at the level at which `torch.export` notes it.

    torch's private parts are looked up here: without one of them `torch.export` is used.
    """
    from torch._export.utils import _compiling_state_context

    above, keys = OpOverload._get_dispatch, torch._C.DispatchKey

    def chosen(func: OpOverload, key: Any) -> Any:
        inside = torch._C._dispatch_tls_is_dispatch_key_excluded(keys.Python)
        if key != keys.PreDispatch or inside:  # inside of torch.tensor, which writes numbers
            return above(func, key)
        return partial(recorder.call, func)

    def refused(called: Any, *_: Any, **__: Any) -> None:
        raise UnsureError(f"{type(called).__name__}")

    with (
        patch.object(OpOverload, "_get_dispatch", chosen),
        patch.object(HigherOrderOperator, "dispatch", refused),  # control flow
        patch.object(torch._C.ScriptFunction, "__call__", refused),  # a crash otherwise
        patch.object(torch._C.ScriptMethod, "__call__", refused),
        _compiling_state_context(),
        torch._C._EnablePythonDispatcher(),
        torch._C._IncludeDispatchKeyGuard(keys.PreDispatch),
    ):
        yield
