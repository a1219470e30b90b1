"""How sure a mean of a few runs is: its interval, that of a difference, and what that shows."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import ttest_1samp, ttest_ind

SURE = 0.95  # of all intervals


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and how sure it is.

    Attributes:
        mean: of the runs, or mean minus mean.
        n: runs; of a difference, of the side that has fewer.
        half: half the length of the 95 % interval; None where a side has one run only, or where all
            runs of a side score alike: that is a coarse score, not certainty.
        sd: sample standard deviation of the runs; None for one run and for a difference.
    """

    mean: float
    n: int
    half: float | None = None
    sd: float | None = None

    @property
    def text(self) -> str:
        """Mean, standard deviation if there is one, and n."""
        spread = "" if self.sd is None else f" ± {self.sd:.2f}"
        return f"{self.mean:.2f}{spread} (n = {self.n})"

    @property
    def as_difference(self) -> str:
        """With its sign and its interval."""
        if self.half is None:
            return f"{self.mean:+.2f} (n = {self.n})"
        low, high = self.mean - self.half, self.mean + self.half
        return f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of n values; its 95 % interval is  mean ± t sd / sqrt n,  t Student's with n - 1.

    Args:
        values: at least one.
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(mean, n)
    sd = statistics.stdev(values)
    if sd == 0:
        return Estimate(mean, n, sd=sd)
    low, high = ttest_1samp(values, 0.0).confidence_interval(SURE)
    return Estimate(mean, n, float(high - low) / 2, sd)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of the first minus mean of the second, with Welch's 95 % interval.

    With e = sd^2 / n of each side, the standard error is sqrt(e1 + e2), and Student's t has
    (e1 + e2)^2 / (e1^2 / (n1 - 1) + e2^2 / (n2 - 1)) degrees of freedom. The spreads need not be
    equal. Source: B. L. Welch, Biometrika 34 (1947).

    Args:
        first, second: at least one value each.
    """
    mean = statistics.fmean(first) - statistics.fmean(second)
    n = min(len(first), len(second))
    if n == 1:
        return Estimate(mean, n)
    if all(statistics.variance(side) == 0 for side in (first, second)):
        return Estimate(mean, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one side may be without spread
        low, high = ttest_ind(first, second, equal_var=False).confidence_interval(SURE)
    return Estimate(mean, n, float(high - low) / 2)


def verdict(found: Estimate | None, *, more_than: float = 0.0) -> str:
    """Whether a claim "this is more than that" holds, judged by the 95 % interval alone."""
    if found is None:
        return "no records"
    if found.half is None:
        return "not shown (n = 1)" if found.n == 1 else "not shown (no spread)"
    if found.mean - found.half > more_than:
        return "holds here"
    if found.mean + found.half < more_than:
        return "does not hold"
    return f"not shown (the interval holds {more_than:g})"
