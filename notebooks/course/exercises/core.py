"""Compare a learner's function with a reference, and say what differs in words that help.

A module of exercises, one for each notebook, is built like this:

    def solution_double(x: Tensor) -> Tensor:
        return 2 * x

    INPUTS = [(torch.randn(4),) for _ in range(5)]
    check_double = partial(grade, solution_double, INPUTS, hint="twice x, not x squared")

and the notebook says `try_it(check_double, double)`. An exercise that is an experiment says
`predict("", measure, "more", "fewer")`: the learner writes a guess, then runs.
"""

import copy
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-6  # wide enough for float32 and for another order of summation


def grade(
    reference: Callable[..., Any],
    inputs: Sequence[tuple[Any, ...]],
    learner: Callable[..., Any],
    *,
    hint: str,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> None:
    """Call both functions on every input and compare what they return.

    Answers are None, or numbers: one, a list or tuple of them, or a tensor, compared within
    |wanted - got| <= atol + rtol |wanted|. Each call gets a copy of the input.

    Args:
        reference: the right answer; its name, less `solution_`, is that of the exercise.
        inputs: the arguments of each call, at least one.
        learner: the function to judge.
        hint: what to think about when the answer is wrong.
        rtol: relative tolerance.
        atol: absolute tolerance, in the unit of the answer.

    Raises:
        AssertionError: an answer differs; the message says on which input, what was wanted, what
            came, and the hint.
        NotImplementedError: the learner has not begun yet; it says no more. One with a message,
            as torch raises it, is an error like any other.
    """
    name = reference.__name__.removeprefix("solution_")
    if not inputs:
        raise ValueError(f"exercise {name!r} has no inputs: nothing would be compared")
    for number, arguments in enumerate(inputs, start=1):
        wanted = reference(*copy.deepcopy(arguments))
        given = copy.deepcopy(arguments)
        shown = ", ".join(map(brief, arguments))
        try:
            got = learner(*given)
        except Exception as error:
            if isinstance(error, NotImplementedError) and not error.args:
                raise
            raise AssertionError(
                f"{name}: your function raised {type(error).__name__}: {error}\n"
                f"  input: {shown}\n  hint: {hint}"
            ) from error
        problem = difference(wanted, got, rtol, atol) or changed(arguments, given)
        if problem:
            raise AssertionError(
                f"{name}: not yet right, on input {number} of {len(inputs)}\n"
                f"  input:  {shown}\n"
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


def difference(wanted: Any, got: Any, rtol: float, atol: float) -> str:
    """What differs between two answers, in words; empty if nothing does."""
    if wanted is None:
        return "" if got is None else "the answers differ"
    if got is None:
        return "your function returned None: is the `return` missing?"
    a = numbers(wanted)
    try:
        b = numbers(got)
    except (TypeError, ValueError, RuntimeError):
        return f"wanted: {type(wanted).__name__}, your function returned a {type(got).__name__}"
    if b.shape != a.shape:
        return f"the shapes differ: wanted {tuple(a.shape)}, got {tuple(b.shape)}"
    if bool(b.isnan().any()) and not bool(a.isnan().any()):
        return "your answer holds nan: was something divided by 0, or the logarithm of 0 taken?"
    bad = ~torch.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
    if not bool(bad.any()):
        return ""
    many = f"{int(bad.sum())} of {bad.numel()} entries differ, by up to"
    which = many if bad.numel() > 1 else "the numbers differ by"
    whole = not torch.as_tensor(wanted).is_floating_point()
    few = whole and float(a.abs().max()) < 100  # of an id or a few, factors say nothing
    return f"{which} {float((a - b).abs()[bad].max()):.3g}{'' if few else slip(a, b)}"


def numbers(answer: Any) -> Tensor:
    """A number, a list of numbers or a tensor, as a tensor in float64."""
    return torch.as_tensor(answer, dtype=torch.float64).detach().cpu()


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


def changed(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    """Whether the learner changed a tensor that it was given."""
    pairs = zip(before, after, strict=True)
    same = all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
    return "" if same else "your function changes its argument: work on a copy"


def brief(value: Any, most: int = 300) -> str:
    """A value in few characters, on one line."""
    if isinstance(value, Tensor):
        entries = value.detach().cpu().flatten()
        shown = ", ".join(f"{x:.4g}" for x in entries[:8].tolist())
        more = f", ... {value.numel()} in all" if value.numel() > 8 else ""
        return f"tensor of shape {tuple(value.shape)}: [{shown}{more}]"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(repr(value).split())
    text = getattr(value, "__name__", text)  # of a function
    return text if len(text) <= most else text[: most - 4] + " ..."
