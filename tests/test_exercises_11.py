"""Notebook 11: right answers pass, usual mistakes do not."""

import pytest
import torch
from course.exercises import n11
from graders import graded

from dsa_core.kernels import solve_threshold


def plain_newton(scores, k, t):
    """On sum p - k, which is flat where everything is decided."""
    p = torch.sigmoid(scores - t)
    return float(t + (p.sum() - k) / (p * (1 - p)).sum())


def unsorted(scores, k, t):
    p = torch.sigmoid(scores - t)
    w, a, b = p * (1 - p), (1 - p[:k]).sum(), p[k:].sum()
    return float(t - (a / b).log() / (w[:k].sum() / a + w[k:].sum() / b))


def wrong_sign(scores, k, t):
    return float(2 * t - n11.solution_newton_step(scores, k, t))


def without_the_output(batch, n, m, kernel, side):
    macs = batch * side**2 * kernel**2 * n * m
    return macs / 4 / (batch * side**2 * n + kernel**2 * n * m)


def weights_for_each_picture(batch, n, m, kernel, side):
    return n11.solution_intensity(1, n, m, kernel, side)


WRONG = {
    n11.check_intensity: [
        (without_the_output, "three things"),
        (weights_for_each_picture, "only once"),
        (lambda *a: 4 * n11.solution_intensity(*a), "4 bytes"),
    ],
    n11.check_attainable: [
        (lambda intensity, peak, bandwidth: peak, "lower"),
        (lambda intensity, peak, bandwidth: intensity * bandwidth, "lower"),
        (lambda i, peak, bandwidth: max(peak, i * bandwidth), "lower"),
        (lambda i, peak, bandwidth: min(peak, bandwidth / i), "MACs per byte"),
    ],
    n11.check_lanes_used: [
        (lambda width, block: width % block / block, "round the number"),
        (lambda width, block: width / (width // block * block or block), "up"),
        (lambda width, block: width / ((width // block + 1) * block), "up"),
    ],
    n11.check_newton_step: [
        (plain_newton, "log A"),
        (unsorted, "sort"),
        (wrong_sign, "positive"),
    ],
    n11.check_speedup: [
        (lambda share, macs_left: 1 / macs_left, "of the rest all"),
        (lambda share, left: share / left + 1 - share, "add up the times"),
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n11, WRONG)


def test_intensity_counts_the_tensors_of_a_convolution() -> None:
    layer = torch.nn.Conv2d(5, 7, 3, padding=1, bias=False)
    x = torch.zeros(2, 5, 6, 6)
    moved = 4 * (x.numel() + layer(x).numel() + layer.weight.numel())
    macs = layer(x)[:, 0].numel() * layer.weight.numel()  # every output pixel meets all weights
    assert n11.solution_intensity(2, 5, 7, 3, 6) == pytest.approx(macs / moved)


def test_newton_steps_end_at_the_threshold_of_the_library() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.8, -0.2], dtype=torch.float64)
    k, ends = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0, 5])
    wanted = float(solve_threshold(scores, k, ends, temperature=1.0).root)
    t = 4.0
    for _ in range(8):
        t = n11.solution_newton_step(scores, 2, t)
    assert t == pytest.approx(wanted, abs=1e-9)


def test_answers_that_can_be_read_off() -> None:
    assert n11.solution_speedup(1.0, 0.5) == 2.0
    assert n11.solution_speedup(0.8, 0.5) == pytest.approx(1 / 0.6)
    assert n11.solution_attainable(2.0, 80.0, 10.0) == 20.0
    assert n11.solution_attainable(9.0, 80.0, 10.0) == 80.0
    assert [n11.solution_lanes_used(w, 8) for w in (4, 8, 9)] == [0.5, 1.0, 9 / 16]
