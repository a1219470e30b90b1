"""Compare a learner's function with a reference, and say what differs in words that help.

A module of exercises, one for each notebook, is built like this:

    def solution_double(x: Tensor) -> Tensor:
        return 2 * x

    def check_double(learner: Callable[[Tensor], Tensor]) -> None:
        inputs = [(torch.randn(4),) for _ in range(5)]
        grade("double", learner, solution_double, inputs, hint="twice x, not x squared")

and the notebook says `try_it(check_double, double)`. An exercise that is an experiment says
`predict("", measure, "more", "fewer")`: the learner writes a guess, then runs.
"""

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-6  # wide enough for float32 and for another order of summation


def grade(
    name: str,
    learner: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Sequence[tuple[Any, ...]],
    *,
    hint: str,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> None:
    """Call both functions on every input and compare what they return.

    Numbers and tensors are compared within |wanted - got| <= atol + rtol |wanted|; tuples, lists
    and dicts entry by entry; everything else by ==. Each call gets a copy of the input.

    Args:
        name: of the exercise, for the message.
        learner: the function to judge.
        reference: the right answer.
        inputs: the arguments of each call.
        hint: what to think about when the answer is wrong.
        rtol: relative tolerance.
        atol: absolute tolerance, in the unit of the answer.

    Raises:
        AssertionError: an answer differs; the message says on which input, what was wanted, what
            came, and the hint.
        NotImplementedError: the learner has not begun yet.
    """
    if not inputs:
        raise ValueError(f"exercise {name!r} has no inputs: nothing would be compared")
    for number, arguments in enumerate(inputs, start=1):
        wanted = reference(*copy.deepcopy(arguments))
        given = copy.deepcopy(arguments)
        got = call(name, learner, given, hint)
        problem = difference(wanted, got, rtol, atol) or changed(arguments, given)
        if problem:
            raise AssertionError(
                f"{name}: not yet right, on input {number} of {len(inputs)}\n"
                f"  input:  {', '.join(brief(a) for a in arguments)}\n"
                f"  wanted: {brief(wanted)}\n"
                f"  got:    {brief(got)}\n"
                f"  {problem}\n"
                f"  hint: {hint}"
            )
    print(f"{name}: right on all {len(inputs)} inputs")


def try_it(check: Callable[[Callable[..., Any]], None], learner: Callable[..., Any]) -> None:
    """Run a check and print what it says; an exercise that was not begun is no error.

    Raises:
        AssertionError: the learner's answer is wrong, and pytest is running.
    """
    try:
        check(learner)
    except NotImplementedError:
        print(f"{learner.__name__}: not done yet; replace `raise NotImplementedError`")
    except AssertionError as problem:
        if "PYTEST_CURRENT_TEST" in os.environ:
            raise
        print(problem)


def predict(guess: str, measure: Callable[[], str], *choices: str) -> None:
    """Run an experiment once the learner has said what it will show, and print both.

    Args:
        guess: one of the choices; anything else runs nothing.
        measure: the experiment; returns one of the choices.
        choices: the possible answers.
    """
    if guess not in choices:
        wanted = " or ".join(map(repr, choices))
        print(f"{measure.__name__}: not done yet; write {wanted} before you run")
        return
    found = measure()
    verdict = "as you said" if found == guess else f"you said {guess}: what did you overlook?"
    print(f"{measure.__name__}: {found}; {verdict}")


def call(name: str, learner: Callable[..., Any], arguments: tuple[Any, ...], hint: str) -> Any:
    """The learner's answer; whatever it raises becomes an AssertionError that shows the input."""
    try:
        return learner(*arguments)
    except NotImplementedError:
        raise
    except Exception as error:
        shown = ", ".join(brief(a) for a in arguments)
        raise AssertionError(
            f"{name}: your function raised {type(error).__name__}: {error}\n"
            f"  input: {shown}\n  hint: {hint}"
        ) from error


def difference(wanted: Any, got: Any, rtol: float, atol: float) -> str:
    """What differs between two answers, in words; empty if nothing does."""
    if got is None and wanted is not None:
        return "your function returned None: is the `return` missing?"
    if isinstance(wanted, Tensor):
        return tensor_difference(wanted, got, rtol, atol)
    if isinstance(wanted, bool | str) or wanted is None:
        return "" if wanted == got else "the answers differ"
    if isinstance(wanted, int | float):
        return number_difference(wanted, got, rtol, atol)
    if isinstance(wanted, Mapping):
        return mapping_difference(wanted, got, rtol, atol)
    if isinstance(wanted, tuple | list):
        return sequence_difference(wanted, got, rtol, atol)
    return "" if wanted == got else "the answers differ"


def tensor_difference(wanted: Tensor, got: Any, rtol: float, atol: float) -> str:
    """Compare with a tensor, or with anything that converts to one."""
    if not isinstance(got, Tensor):
        try:
            got = torch.as_tensor(got)
        except (TypeError, ValueError, RuntimeError):
            return f"wanted is a tensor, your function returned a {type(got).__name__}"
    if got.shape != wanted.shape:
        return f"the shapes differ: wanted {tuple(wanted.shape)}, got {tuple(got.shape)}"
    a, b = wanted.detach().double(), got.detach().to(wanted.device).double()
    if bool(b.isnan().any()) and not bool(a.isnan().any()):
        return "your answer holds nan: was something divided by 0, or the logarithm of 0 taken?"
    bad = ~torch.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
    if not bool(bad.any()):
        return ""
    worst = float((a - b).abs()[bad].max())
    return f"{int(bad.sum())} of {bad.numel()} entries differ, by up to {worst:.3g}{slip(a, b)}"


def number_difference(wanted: float, got: Any, rtol: float, atol: float) -> str:
    """Compare with a number, or with a tensor that holds one."""
    try:
        value = float(got)
    except (TypeError, ValueError, RuntimeError):
        return f"wanted is one number, your function returned a {type(got).__name__}"
    if math.isclose(value, wanted, rel_tol=rtol, abs_tol=atol):
        return ""
    a, b = torch.tensor([wanted]).double(), torch.tensor([value]).double()
    count = isinstance(wanted, int) and abs(wanted) < 100  # of an id or a few, factors say nothing
    return f"the numbers differ by {abs(value - wanted):.3g}{'' if count else slip(a, b)}"


def slip(wanted: Tensor, got: Tensor) -> str:
    """The likely mistake behind a wrong answer: its sign, or one factor; else nothing."""
    if torch.allclose(got, -wanted, rtol=RTOL, atol=ATOL):
        return ": is the sign the wrong way round?"
    size = float((got * got).sum())
    factor = float((wanted * got).sum()) / size if size else 0.0
    if not factor or not torch.allclose(factor * got, wanted, rtol=RTOL, atol=ATOL):
        return ""
    whole = max(abs(factor), abs(1 / factor))  # any single number is some factor off
    telling = wanted.numel() > 1 or math.isclose(whole, round(whole), rel_tol=RTOL)
    return f": {factor:.4g} times yours would be right" if telling else ""


def mapping_difference(wanted: Mapping[Any, Any], got: Any, rtol: float, atol: float) -> str:
    """Compare with a dict of the same keys, in any order."""
    if not isinstance(got, Mapping) or set(got) != set(wanted):
        return f"wanted is a dict with the keys {', '.join(map(repr, wanted))}"
    found = ((key, difference(value, got[key], rtol, atol)) for key, value in wanted.items())
    return next((f"at key {key!r}: {text}" for key, text in found if text), "")


def sequence_difference(wanted: Sequence[Any], got: Any, rtol: float, atol: float) -> str:
    """Compare with a tuple or list of the same length."""
    if not isinstance(got, tuple | list):
        return f"wanted are {len(wanted)} values, your function returned a {type(got).__name__}"
    if len(got) != len(wanted):
        return f"wanted are {len(wanted)} values, your function returned {len(got)}"
    found = (difference(w, g, rtol, atol) for w, g in zip(wanted, got, strict=True))
    return next((f"at place {i}: {text}" for i, text in enumerate(found) if text), "")


def changed(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    """Whether the learner changed a tensor that it was given."""
    pairs = zip(before, after, strict=True)
    same = all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
    return "" if same else "your function changes its argument: work on a copy"


def brief(value: Any, most: int = 300) -> str:
    """A value in few characters, on one line."""
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().flatten()
        shown = ", ".join(f"{x:.4g}" for x in numbers[:8].tolist())
        more = f", ... {value.numel()} in all" if value.numel() > 8 else ""
        return f"tensor of shape {tuple(value.shape)}: [{shown}{more}]"
    if isinstance(value, tuple) and any(isinstance(entry, Tensor) for entry in value):
        return "; ".join(map(brief, value))
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(repr(value).split())
    text = getattr(value, "__name__", text)  # of a function
    return text if len(text) <= most else text[: most - 4] + " ..."
