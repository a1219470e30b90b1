"""Notebook 00: each check passes its solution and fails typical wrong answers."""

import pytest
import torch
from course.exercises import n00

WRONG = {
    "conv_macs": [
        lambda i, o, k, h, w, s, g: i // g * o * k * (h // s) * (w // s),  # the window is a square
        lambda i, o, k, h, w, s, g: i // g * o * k**2 * (h // s) * (w // s),  # a row is lost
        lambda i, o, k, h, w, s, g: i * o * k**2 * -(-h // s) * -(-w // s),  # groups forgotten
    ],
    "cut_pair": [
        lambda first, second, keep: (first[keep], second[keep]),
        lambda first, second, keep: (first[keep], second),
        lambda first, second, keep: (
            first * keep[:, None, None, None],
            second * keep[None, :, None, None],
        ),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_solution_passes(name, capsys):
    getattr(n00, f"check_{name}")(getattr(n00, f"solution_{name}"))
    assert "right on all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "answer"), [(name, answer) for name, answers in WRONG.items() for answer in answers]
)
def test_wrong_answers_fail_with_a_hint(name, answer):
    with pytest.raises(AssertionError, match="hint"):
        getattr(n00, f"check_{name}")(answer)


def test_a_cut_pair_computes_what_the_masked_one_does():
    first, second = torch.randn(6, 3, 3, 3).double(), torch.randn(2, 6, 3, 3).double()
    keep = torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    x = torch.randn(1, 3, 8, 8).double()
    conv = torch.nn.functional.conv2d
    masked = conv(conv(x, first).relu() * keep[:, None, None], second)
    cut = n00.solution_cut_pair(first, second, keep)
    torch.testing.assert_close(conv(conv(x, cut[0]).relu(), cut[1]), masked)
