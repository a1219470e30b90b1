"""What a network may be called with: every form is read, described and made again; or refused."""

import json
from collections import UserDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsa_core.errors import TraceError
from dsa_core.example import Call, tensors_in

X, IDS = torch.randn(2, 3, 4, 4), torch.ones(2, 5, dtype=torch.int64)


class Told(nn.Module):
    """Returns what it was called with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


FORMS = {
    "tensor": (X, (X,), {}),
    "tuple": ((X, None, 2.0), (X, None, 2.0), {}),
    "one list": (([X, IDS],), ([X, IDS],), {}),
    "one dict": (({"img": X, 3: IDS},), ({"img": X, 3: IDS},), {}),
    "keywords": ({"ids": IDS, "mode": "a"}, (), {"ids": IDS, "mode": "a"}),
    "pair": (((X,), {"flag": True}), (X,), {"flag": True}),
    "mapping": (UserDict(ids=IDS), (), {"ids": IDS}),
    "nested": (((X, (IDS, None)),), ((X, (IDS, None)),), {}),
    "a tuple, then a dict": (((X, IDS), {"m": X}, 1), ((X, IDS), {"m": X}, 1), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_and_passed_on(form: str) -> None:
    example, args, kwargs = FORMS[form]
    call = Call.of(example)
    assert repr(call(Told())) == repr((args, kwargs))
    assert Call.of(call) is call
    turned = call.map(torch.neg).tensors
    assert list(turned) == list(call.tensors)
    assert all(torch.equal(turned[name], -t) for name, t in call.tensors.items())


@pytest.mark.parametrize("form", FORMS)
def test_a_description_survives_json_and_makes_zeros_of_the_same_form(form: str) -> None:
    call = Call.of(FORMS[form][0])
    model = nn.Linear(2, 2).double()
    again = Call.zeros(json.loads(json.dumps(call.describe())), model)
    wanted, found = dict(call.leaves()), dict(again.leaves())
    assert list(wanted) == list(found)
    for name, value in wanted.items():
        if isinstance(value, Tensor):
            dtype = torch.float64 if value.is_floating_point() else value.dtype
            torch.testing.assert_close(found[name], torch.zeros(value.shape, dtype=dtype))
        else:
            assert (type(found[name]), found[name]) == (type(value), value)
    kinds = [type(a) for a in (*call.args, *call.kwargs.values())]
    assert [type(a) for a in (*again.args, *again.kwargs.values())] == kinds


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((1, 3, 32, 32), r"is a shape, \(1, 3, 32, 32\).*torch\.zeros\(1, 3, 32, 32\)"),
        (torch.Size([1, 3]), r"torch\.zeros\(1, 3\)"),
        ([1, 3], r"torch\.zeros\(1, 3\)"),
        ([X], r"of type list: pass a tensor, a tuple.*tuple\(example\)"),
        (np.zeros((1, 3)), r"of type numpy\.ndarray and shape \(1, 3\).*torch\.from_numpy"),
        (({"a": np.zeros(2)},), r"args\[0\]\['a'\] is of type numpy\.ndarray"),
        ({"x": X, "t": torch.float32}, r"t is of type torch\.dtype"),
        ((X, object()), r"args\[1\] is of type object"),
        ((X, deque([X])), r"args\[1\] is of type collections\.deque"),
        ((), "holds no tensor"),
        ({}, "holds no tensor"),
        ((None, 2.0), "holds no tensor"),
        (None, "of type NoneType: pass a tensor"),
        (3.0, "of type float: pass a tensor"),
        ({1: X}, "named by a string, not by 1"),
    ],
)  # fmt: skip
def test_what_is_no_example_is_refused_in_words(example: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        Call.of(example)


def test_the_batch_is_that_of_the_first_tensor_with_two_axes() -> None:
    assert Call.of((torch.tensor(3.0), torch.zeros(4), torch.zeros(4, 2))).batch == 4
    assert Call.of({"x": X, "ids": IDS}).batch == 2
    assert Call.of((X[:1], torch.zeros(7, 7))).batch == 1  # a shared mask, one example
    assert Call.of(torch.zeros(7)).batch == 1
    with pytest.raises(TraceError, match=r"first axis of x is 2 long, that of mask\[0\] 7"):
        _ = Call.of({"x": X, "mask": [torch.zeros(7, 7)]}).batch


@dataclass(slots=True)
class Output:
    logits: Tensor
    more: Any = None


class Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.inside, self.me = [tensor], self


def test_tensors_are_found_in_outputs_of_any_class() -> None:
    a, b, c = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    found = tensors_in(Output(a, {"x": [b, None, 3], "y": Opaque(c)}))
    assert [id(t) for t in found] == [id(a), id(b), id(c)]
    assert tensors_in((None, "a", nn.Linear(2, 2))) == []
