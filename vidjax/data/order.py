"""In which order examples come: endless, random-access, pure functions of (seed, position).

`order[position]` is an index into a source for any position >= 0, the same in every process and worker; `len(order)`
is the number of positions in one epoch. Orders pickle, and are not iterable: that would never end.
"""

import bisect
import dataclasses
import fractions
import functools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Every one of `n` examples once an epoch, in a new order each. `stream` gives other orders of the same seed."""

    n: int
    seed: int
    stream: int = 0
    __iter__ = None

    def __post_init__(self):
        _check(n=self.n)

    def __len__(self):
        return self.n

    def __getitem__(self, position):
        epoch, i = _epoch(position, self.n)
        return int(permutation(self.n, self.seed, self.stream, epoch)[i])


@dataclasses.dataclass(frozen=True)
class Balanced:
    """All classes equally often, whatever their sizes; `labels` are ints, or tuples of them in a multi-label set.

    Each run of K positions has every one of the K classes that occur once, in a new order. The videos of a class come
    in shuffled rounds, all of them before any comes again. An epoch is as long as the largest class needs.
    """

    labels: tuple
    seed: int
    __iter__ = None

    def __post_init__(self):
        if not self.members:
            raise ValueError("a balanced order needs at least one labelled example")

    @functools.cached_property
    def members(self):
        """The examples of every class that occurs, classes in order: a list of int64 arrays."""
        rows = [label if isinstance(label, tuple | list) else (label,) for label in self.labels]
        pairs = [(int(label), i) for i, row in enumerate(rows) for label in row]
        classes, indices = np.array(pairs, np.int64).reshape(-1, 2).T
        by_class = np.argsort(classes, kind="stable")
        return np.split(indices[by_class], np.flatnonzero(np.diff(classes[by_class])) + 1) if pairs else []

    def __len__(self):
        return len(self.members) * max(map(len, self.members))

    def __getitem__(self, position):
        turn, i = _epoch(position, len(self.members))
        k = int(permutation(len(self.members), self.seed, 0, turn)[i])
        videos = self.members[k]
        rounds, j = divmod(turn, len(videos))
        return int(videos[permutation(len(videos), self.seed, k + 1, rounds)[j]])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples of several data sets in exact proportions: `mixture[position]` is (which set, index into it).

    `parts` are orders, or lengths for shuffled ones. The first set takes floor(share * p) of the first p positions,
    which says whose turn position p is and how many turns the set had before; the other sets share the positions left
    in the same way. So of any first p positions a set of share s has s * p, to within the number of sets, for ever.
    An epoch ends when every set has been through once.
    """

    parts: tuple
    weights: tuple
    seed: int
    __iter__ = None

    def __post_init__(self):
        if len(self.parts) != len(self.weights) or not self.parts or min(self.weights) <= 0:
            raise ValueError(f"a mixture needs one weight above 0 for each data set, got {self.weights}")

    @functools.cached_property
    def orders(self):
        """An order for each data set."""
        parts = enumerate(self.parts)
        return [Shuffled(part, self.seed, d + 1) if isinstance(part, int | np.integer) else part for d, part in parts]

    @functools.cached_property
    def shares(self):
        """Of the positions that the sets before it leave, the share of each set; the last set's is 1."""
        weights = [fractions.Fraction(str(weight)) for weight in self.weights]
        return [weight / sum(weights[d:]) for d, weight in enumerate(weights)]

    def counts(self, positions):
        """How many of the first `positions` each data set has."""
        counts = []
        for share in self.shares:
            counts.append(math.floor(share * positions))
            positions -= counts[-1]
        return counts

    def __len__(self):
        def whole(positions):
            return all(count >= len(order) for count, order in zip(self.counts(positions), self.orders, strict=True))

        enough = 1
        while not whole(enough):
            enough *= 2
        return bisect.bisect_left(range(enough), True, key=whole)

    def __getitem__(self, position):
        before, after = self.counts(_checked(position)), self.counts(int(position) + 1)
        d = next(d for d, count in enumerate(after) if count > before[d])
        return d, self.orders[d][before[d]]


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """Batches of examples of like length: each `batch_size` positions share a bucket, `bucket(position)`.

    An example goes to the smallest of `buckets` that holds its length, or to the largest. Every epoch has all
    examples, each bucket's in a new order; its last batch is filled with its first examples, and batches are shuffled.
    """

    lengths: tuple
    buckets: tuple
    batch_size: int
    seed: int
    __iter__ = None

    def __post_init__(self):
        _check(examples=len(self.lengths), buckets=len(self.buckets), batch_size=self.batch_size)

    @functools.cached_property
    def members(self):
        """The examples of every bucket that has any: [(bucket, int64 array)]."""
        buckets = np.unique(self.buckets)
        which = np.minimum(np.searchsorted(buckets, self.lengths), len(buckets) - 1)
        return [(int(buckets[k]), np.flatnonzero(which == k)) for k in np.unique(which)]

    @functools.cached_property
    def ends(self):
        """The number of batches in an epoch up to and with each bucket."""
        return np.cumsum([-(-len(indices) // self.batch_size) for _, indices in self.members]).tolist()

    def __len__(self):
        return self.ends[-1] * self.batch_size

    def __getitem__(self, position):
        epoch, k, i = self._place(position)
        indices = self.members[k][1]
        return int(indices[permutation(len(indices), self.seed, k + 1, epoch)[i % len(indices)]])

    def bucket(self, position):
        """The padded length of the batch that has a position."""
        return self.members[self._place(position)[1]][0]

    def _place(self, position):
        """A position's epoch, its bucket's number and its place among that bucket's examples."""
        epoch, i = _epoch(position, len(self))
        turn, slot = divmod(i, self.batch_size)
        batch = int(permutation(self.ends[-1], self.seed, 0, epoch)[turn])
        k = bisect.bisect_right(self.ends, batch)
        first = self.ends[k - 1] if k else 0
        return epoch, k, (batch - first) * self.batch_size + slot


@functools.lru_cache(maxsize=16)  # of 500,000 examples: 2 MB each and 10 ms to make
def permutation(n, seed, *key):
    """The numbers 0 to n - 1 in an order drawn with (seed, key): -> int32 (n,), not to be written to."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    numbers = np.arange(n, dtype=np.int32)
    rng.shuffle(numbers)
    numbers.flags.writeable = False
    return numbers


def _epoch(position, length):
    return divmod(_checked(position), length)


def _checked(position):
    if position < 0:
        raise IndexError(f"an order's positions start at 0, got {position}")
    return int(position)


def _check(**counts):
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
