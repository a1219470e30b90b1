"""What runs on the device for `soft_topk`: one program per segment, of any length.

Scores minus threshold are taken in float64, for only their difference has the digits that count at
a sharp temperature; all that is done per channel with it is float32. `triton.py` launches these.
"""
# mypy: disable-error-code="no-untyped-def"
# (arguments are what Triton makes of them: pointers, blocks and scalars)

import triton
import triton.language as tl

_RESOLVED = tl.constexpr(1e-6)  # |log(A/B)| that float32 sums of thousands of terms resolve
_FAR = tl.constexpr(1e300)  # an empty side has no edge; infinities would meet in inf - inf


@triton.jit
def load_scores(scores, begin, end, BLOCK: tl.constexpr):
    """Scores as float64, and which of them are channels of the segment."""
    index = begin + tl.arange(0, BLOCK)
    free = index < end
    s = tl.load(scores + index, mask=free, other=0.0).to(tl.float64)
    return s, free


@triton.jit
def _extremes(scores, start, end, BLOCK: tl.constexpr):
    """Number of free channels, their smallest and largest score."""
    count = tl.zeros([BLOCK], dtype=tl.float32)
    low = tl.full([BLOCK], _FAR, dtype=tl.float64)
    high = tl.full([BLOCK], -_FAR, dtype=tl.float64)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        count += tl.where(free, 1.0, 0.0)
        low = tl.minimum(low, tl.where(free, s, _FAR))
        high = tl.maximum(high, tl.where(free, s, -_FAR))
    return tl.sum(count).to(tl.float64), tl.min(low), tl.max(high)


@triton.jit
def _log_add(a, b):
    """log(exp(a) + exp(b)) of float64 scalars, at least one finite."""
    top = tl.maximum(a, b)
    return top + tl.log(1.0 + tl.exp(tl.minimum(a, b) - top))


@triton.jit
def _imbalance(scores, start, end, t, sharpness, k, BLOCK: tl.constexpr):
    """phi = log A - log B at threshold t, and its derivative in units of 1 / T.

    As `fast._imbalance`, but split at t itself and not at the m-th largest, which would need
    a sort: with m = #{s_i > t} and r = k - m,  A := sum_top (1 - p_i) + max(r, 0)  and
    B := sum_rest p_i + max(-r, 0)  still have A - B = k - sum p, so the sign and the zero of phi
    are right; it jumps where t passes a score. Sums are relative to their side's largest term.
    """
    count = tl.zeros([BLOCK], dtype=tl.float32)
    near_a = tl.full([BLOCK], _FAR, dtype=tl.float64)
    near_b = tl.full([BLOCK], _FAR, dtype=tl.float64)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        z = (s - t) * sharpness
        top = free & (z > 0)
        count += tl.where(top, 1.0, 0.0)
        near_a = tl.minimum(near_a, tl.where(top, z, _FAR))
        near_b = tl.minimum(near_b, tl.where(free & (z <= 0), -z, _FAR))
    edge_a, edge_b = tl.min(near_a), tl.min(near_b)

    mass_a = tl.zeros([BLOCK], dtype=tl.float32)
    mass_b = tl.zeros([BLOCK], dtype=tl.float32)
    slope_a = tl.zeros([BLOCK], dtype=tl.float32)
    slope_b = tl.zeros([BLOCK], dtype=tl.float32)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        z = (s - t) * sharpness
        top = free & (z > 0)
        rest = free & (z <= 0)
        away = tl.where(top, z - edge_a, -z - edge_b)
        right = 1.0 / (1.0 + tl.exp(-tl.minimum(tl.abs(z), 100.0).to(tl.float32)))
        wrong = tl.exp(-tl.minimum(tl.maximum(away, 0.0), 200.0).to(tl.float32)) * right
        mass_a += tl.where(top, wrong, 0.0)
        mass_b += tl.where(rest, wrong, 0.0)
        slope_a += tl.where(top, wrong * right, 0.0)
        slope_b += tl.where(rest, wrong * right, 0.0)

    r = k - tl.sum(count).to(tl.float64)
    sum_a, sum_b = tl.sum(mass_a).to(tl.float64), tl.sum(mass_b).to(tl.float64)
    log_a = tl.where(sum_a > 0, tl.log(tl.maximum(sum_a, 1e-300)) - edge_a, -_FAR)
    log_b = tl.where(sum_b > 0, tl.log(tl.maximum(sum_b, 1e-300)) - edge_b, -_FAR)
    carry_a = tl.where(r > 0, tl.log(tl.maximum(r, 1e-300)), -_FAR)
    carry_b = tl.where(r < 0, tl.log(tl.maximum(-r, 1e-300)), -_FAR)
    share_a = tl.sum(slope_a).to(tl.float64) / tl.maximum(sum_a, 1e-300)
    share_b = tl.sum(slope_b).to(tl.float64) / tl.maximum(sum_b, 1e-300)
    total_a, total_b = _log_add(log_a, carry_a), _log_add(log_b, carry_b)
    derivative = share_a * tl.exp(log_a - total_a) + share_b * tl.exp(log_b - total_b)
    return total_a - total_b, derivative


@triton.jit
def _solve(
    scores, start, end, low, high, temperature, k, n,
    MAX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Newton inside a bracket that every evaluation shrinks; every fourth step halves it.

    The bracket: at t = min s - T logit(k / n) every p_i is at least k / n, and at max s instead of
    min s at most that. Far from the root (|phi| > 1) every second step halves it.
    """
    sharpness = 1.0 / temperature
    shift = temperature * (tl.log(k) - tl.log(n - k))
    slack = 1e-9 * (temperature + tl.abs(shift) + tl.abs(low) + tl.abs(high))
    lower, upper = low - shift - slack, high - shift + slack
    t = 0.5 * (lower + upper)
    evaluations = 0
    searching = 1
    while (evaluations < MAX) & (searching > 0):
        phi, derivative = _imbalance(scores, start, end, t, sharpness, k, BLOCK)
        lower = tl.where(phi < 0, t, lower)
        upper = tl.where(phi > 0, t, upper)
        newton = t - temperature * phi / tl.maximum(derivative, 1e-30)
        halve = (evaluations % 4 == 3) | ((evaluations % 2 == 1) & (tl.abs(phi) > 1.0))
        inside = (newton > lower) & (newton < upper)
        done = (tl.abs(phi) <= _RESOLVED) | (
            upper - lower <= 4e-16 * (tl.abs(lower) + tl.abs(upper))
        )
        # the last step is Newton's, and is not evaluated: it squares phi
        middle = tl.where(done, t, 0.5 * (lower + upper))
        t = tl.where(inside & (done | (not halve)), newton, middle)
        searching = tl.where(done, 0, 1)
        evaluations += 1
    return t


@triton.jit
def forward_kernel(
    scores, k, offsets, temperature, p, threshold,
    MAX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Solve segment g, and write its p and threshold."""
    g = tl.program_id(0)
    start, end = tl.load(offsets + g), tl.load(offsets + g + 1)
    T = tl.load(temperature + g).to(tl.float64)
    n, low, high = _extremes(scores, start, end, BLOCK)
    kept = tl.load(k + g).to(tl.float64)
    t = -float("inf") + T  # where all is kept
    if kept < n:
        t = _solve(scores, start, end, low, high, T, kept, n, MAX, BLOCK)
    tl.store(threshold + g, t)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        index = begin + tl.arange(0, BLOCK)
        z = tl.minimum(tl.maximum((s - t) / T, -150.0), 150.0).to(tl.float32)
        e = tl.exp(-tl.abs(z))
        keep = tl.where(z > 0, 1.0 / (1.0 + e), e / (1.0 + e))
        keep = tl.where(free, tl.where(kept < n, keep, 1.0), 1.0)
        tl.store(p + index, keep.to(p.dtype.element_ty), mask=index < end)


@triton.jit
def _nearness(s, free, t, low, T, is_open):
    """-log w up to what all channels share, float64: |z|, or s / T where all is kept."""
    return tl.where(free, tl.where(is_open, tl.abs((s - t) / T), (s - low) / T), _FAR)


@triton.jit
def backward_kernel(
    grad, scores, offsets, temperature, threshold, grad_scores, grad_k,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of segment g: grad_k = sum share g,  grad_s = w (g - grad_k) / T."""
    g = tl.program_id(0)
    start, end = tl.load(offsets + g), tl.load(offsets + g + 1)
    T = tl.load(temperature + g).to(tl.float64)
    t = tl.load(threshold + g)
    is_open = t > -_FAR
    t = tl.where(is_open, t, 0.0)
    _, low, _ = _extremes(scores, start, end, BLOCK)
    nearest = tl.full([BLOCK], _FAR, dtype=tl.float64)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        nearest = tl.minimum(nearest, _nearness(s, free, t, low, T, is_open))
    edge = tl.min(nearest)

    total = tl.zeros([BLOCK], dtype=tl.float32)
    weighted = tl.zeros([BLOCK], dtype=tl.float32)
    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        index = begin + tl.arange(0, BLOCK)
        away = _nearness(s, free, t, low, T, is_open)
        share = tl.exp(-tl.minimum(away - edge, 200.0).to(tl.float32))
        right = 1.0 / (1.0 + tl.exp(-tl.minimum(away, 100.0).to(tl.float32)))
        share = tl.where(free, tl.where(is_open, share * right * right, share), 0.0)
        total += share
        weighted += share * tl.load(grad + index, mask=index < end, other=0.0).to(tl.float32)
    mean = tl.sum(weighted) / tl.maximum(tl.sum(total), 1e-30)
    tl.store(grad_k + g, mean.to(grad_k.dtype.element_ty))

    for begin in range(start, end, BLOCK):
        s, free = load_scores(scores, begin, end, BLOCK)
        index = begin + tl.arange(0, BLOCK)
        e = tl.exp(-tl.minimum(tl.abs((s - t) / T), 100.0).to(tl.float32))
        w = tl.where(free, tl.where(is_open, e / ((1.0 + e) * (1.0 + e)), 0.0), 0.0)
        upstream = tl.load(grad + index, mask=index < end, other=0.0).to(tl.float32)
        value = w * (upstream - mean) / T.to(tl.float32)
        tl.store(grad_scores + index, value.to(grad_scores.dtype.element_ty), mask=index < end)
