"""Multigrid training: batches of short and small clips, more of them at a time, on the way to full ones.

Wu et al., CVPR 2020, section 3. A batch is a whole number of base batches, so that every batch is worth about the same
number of pixels; which clips are in batch n, and what shape they have, are functions of n alone.
"""

import bisect
import contextlib
import dataclasses
import functools
import itertools
from typing import NamedTuple

LONG = ((0.25, 0.5**0.5), (0.5, 0.5**0.5), (0.5, 1.0), (1.0, 1.0))  # of frames and of size, section 3.2
SHORT = (0.5, 0.5**0.5)  # of the full size; the third of each three steps is the long cycle's own
DEFAULTS = {"long": (), "short": False, "multiple": 1}


class Grid(NamedTuple):
    """The clips of a batch: their frames, their size in pixels, and how many base batches of them there are."""

    frames: int
    size: int
    batches: int


@dataclasses.dataclass(frozen=True)
class Multigrid:
    """The grids of a run whose full clips are `frames` x `size`.

    `long` are the steps from which the next of LONG's four shapes holds: three, and four more for each further cycle;
    or () for full clips all the time. With `short` two of three steps have smaller pictures yet. Sizes are multiples of
    `multiple`, such as a transformer's patches need.
    """

    frames: int
    size: int
    long: tuple = ()
    short: bool = False
    multiple: int = 1

    def __post_init__(self):
        steps = (0, *self.long)
        if len(steps) not in (1, *range(4, len(steps) + 1, 4)) or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"data.multigrid.long are 3, 7, 11, ... growing numbers of steps, not {self.long}.")

    @functools.cached_property
    def phases(self):
        """For each shape of the long cycle the grids that its steps take in turn: ((Grid, ...), ...)."""
        return tuple(
            tuple(self.grid(t, s) for s in (*(SHORT if self.short else ()), spatial))
            for t, spatial in (LONG * (len(self.long) // 4 + 1) if self.long else LONG[-1:])
        )

    def grid(self, temporal, spatial):
        """The grid of clips scaled by these factors."""
        frames = max(1, round(self.frames * temporal))
        size = max(1, round(self.size * spatial / self.multiple)) * self.multiple if spatial < 1 else self.size
        return Grid(frames, size, max(1, round(self.frames * self.size**2 / (frames * size**2))))

    @functools.cached_property
    def firsts(self):
        """The number of base batches before each phase."""
        begins, firsts = (0, *self.long), [0]
        for grids, begin, end in zip(self.phases, begins, begins[1:], strict=False):
            firsts.append(firsts[-1] + _before(grids, end - begin))
        return firsts

    def at(self, step):
        """The grid of batch number `step`."""
        phase = bisect.bisect_right(self.long, step)
        grids = self.phases[phase]
        return grids[(step - (0, *self.long)[phase]) % len(grids)]

    def first(self, step):
        """The number of base batches before batch number `step`."""
        phase = bisect.bisect_right(self.long, step)
        return self.firsts[phase] + _before(self.phases[phase], step - (0, *self.long)[phase])

    def step(self, base):
        """The number of the batch that has a base batch."""
        phase = bisect.bisect_right(self.firsts, base) - 1
        grids = self.phases[phase]
        cycles, rest = divmod(base - self.firsts[phase], sum(grid.batches for grid in grids))
        turn = next(i for i in range(len(grids)) if rest < _before(grids, i + 1))
        return (0, *self.long)[phase] + cycles * len(grids) + turn

    @property
    def times(self):
        """By how much the long cycle's batches are larger than the base batch, and so the learning rate is higher.

        ((from step, factor), ...), empty without a long cycle.
        """
        return (
            tuple(zip((0, *self.long), (grids[-1].batches for grids in self.phases), strict=True)) if self.long else ()
        )

    def lines(self, batch_size):
        """What batches there will be, for a run's log: a line for each phase, none where all batches are alike."""
        if not (self.long or self.short):
            return []
        shown = [", ".join(f"{g.batches * batch_size} of {g.frames}x{g.size}x{g.size}" for g in p) for p in self.phases]
        return [f"from step {step} batches of clips: {text}" for step, text in zip((0, *self.long), shown, strict=True)]


@dataclasses.dataclass(frozen=True)
class Gridded:
    """Records that carry `frames` and `size`, the shape of their clips, which is that of the batch they are in.

    `rows` is the number of records in a base batch.
    """

    records: object
    grids: Multigrid
    rows: int

    def __len__(self):
        return len(self.records)

    def __getitem__(self, position):
        grid = self.grids.at(self.grids.step(position // self.rows))
        return self.records[position] | {"frames": grid.frames, "size": grid.size}


@dataclasses.dataclass(frozen=True)
class Part:
    """The pieces of base batches, in order, of which part `block` of `blocks` of every multigrid batch consists."""

    pieces: object
    grids: Multigrid
    block: int
    blocks: int

    def __len__(self):
        return len(self.pieces) // self.blocks

    def __getitem__(self, base):
        step = self.grids.step(base)
        first, count = self.grids.first(step), self.grids.at(step).batches
        return self.pieces[first * self.blocks + self.block * count + base - first]


def merged(pieces, grids, step, join):
    """Batches of as many pieces as each step from `step` on takes, each what `join` makes of a list of them."""
    with contextlib.closing(pieces):
        while True:
            several = [next(pieces) for _ in range(grids.at(step).batches)]
            yield join(several)
            step += 1


def _before(grids, steps):
    """The base batches of so many steps that take `grids` in turn."""
    cycles, rest = divmod(steps, len(grids))
    return cycles * sum(grid.batches for grid in grids) + sum(grid.batches for grid in grids[:rest])
