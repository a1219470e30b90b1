"""The check of notebook 10 passes the answer, and fails what learners write at first."""

import torch
from course.exercises import n10
from graders import graded

WRONG = {
    n10.check_shrink: [
        (lambda a, h, lam: a.sign() * (a.abs() - lam / h[:, None]).relu(), "length"),
        (lambda a, h, lam: a * (1 - lam / (h * a.norm(dim=1)))[:, None], "negative"),
        (lambda a, h, lam: a * (1 - lam / a.norm(dim=1)).relu()[:, None], "length"),
        (lambda a, h, lam: a * (h / (h + lam))[:, None], "length"),
    ]
}

test_answers_pass, test_typical_slips_do_not = graded(n10, WRONG)


def test_the_shrunk_weights_are_a_minimum() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    a[2] *= 0.05  # too short to stay
    h = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def value(w: torch.Tensor) -> float:
        return float((h * (w - a).square().sum(1) / 2 + 0.3 * w.norm(dim=1)).sum())

    w = n10.solution_shrink(a, h, 0.3)
    assert bool((w[2] == 0).all())
    assert bool((w[:2] != 0).all())
    for _ in range(200):
        assert value(w + 1e-3 * torch.randn(3, 4, generator=draw, dtype=torch.float64)) > value(w)
