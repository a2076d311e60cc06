"""Percentiles of how long things took, of any number of them in the same memory."""

import math

import numpy as np

LOWEST, STEP, BUCKETS = 1e-5, 1.01, 2000  # seconds; each bucket is 1 % wide, the last beyond an hour


class Latencies:
    """Counts of durations by buckets of 1 %: what it says of them is at most that much too high."""

    def __init__(self):
        self.counts = np.zeros(BUCKETS, np.int64)

    def add(self, seconds):
        """Counts one duration."""
        place = math.ceil(math.log(max(seconds, LOWEST) / LOWEST) / math.log(STEP))
        self.counts[min(place, BUCKETS - 1)] += 1

    def percentile(self, share):
        """The smallest duration, in seconds, that `share` per cent of all do not exceed; 0 of none."""
        total = self.counts.sum()
        if not total:
            return 0.0
        place = np.searchsorted(np.cumsum(self.counts), math.ceil(total * share / 100))
        return LOWEST * STEP ** int(place)

    def describe(self):
        """p50, p95 and p99 in milliseconds, in one line."""
        return ", ".join(f"p{share} {1000 * self.percentile(share):.1f}" for share in (50, 95, 99)) + " ms"
