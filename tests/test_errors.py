"""Hints in error messages."""

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from dsa_core.errors import closest, first_problem, nearest

KNOWN = ["macs", "params", "Latency", "VOC"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("macs", "macs"),
        ("voc", "VOC"),
        ("MACS", "macs"),
        ("latncy", "Latency"),
        ("LATENCY", "Latency"),
        ("zz", None),
    ],
)
def test_the_closest_name_in_whatever_case(name, near):
    assert closest(name, KNOWN) == near


def test_the_end_of_a_message():
    assert nearest("Params", KNOWN) == ": did you mean 'params'?"
    assert nearest("zz", KNOWN) == ". Known are Latency, VOC, macs, params"
    assert nearest("zz", KNOWN, otherwise="See there") == ". See there"
    assert nearest("zz", []) == ". Known are "


class Inner(BaseModel):
    n: int = Field(ge=1)


class Outer(BaseModel):
    inner: list[Inner]

    @model_validator(mode="after")
    def _few(self) -> "Outer":
        if len(self.inner) > 1:
            raise ValueError("inner has more than one")
        return self


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"inner": [{"n": 0}]}, "inner.0.n: Input should be greater than or equal to 1, got 0"),
        ({"inner": [{"n": 1}, {"n": 2}]}, "inner has more than one"),
        ({"inner": "a" * 500}, f"inner: Input should be a valid list, got '{'a' * 79}..."),
    ],
)
def test_the_first_problem_in_a_line(given, told):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(given)
    assert first_problem(caught.value) == told
