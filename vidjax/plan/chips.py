"""Chips by name: published memory, arithmetic and bandwidths, and how a topology such as v5e:4x4 is written.

Figures are of one chip, in bytes, FLOP/s of bf16 and bytes/s. Sources, read 2026-11-22: pages v5e, v5p and v6e of
docs.cloud.google.com/tpu/docs; for H200 NVIDIA's data sheet (141 GB, 4.8 TB/s, 989 TFLOP/s without sparsity, NVLink 900
GB/s both ways). `inside` is the bandwidth one way within a pod (half of the published bidirectional one) or an NVLink
node, `outside` that of the network beyond: a TPU chip's share of its pod's published data center network, for a GPU one
adapter of 400 Gbit/s, an assumption about the cluster. A TPU's published gigabytes are binary, as libtpu
says. So are the latencies: 1 us a hop of a torus, 10 us for NVLink,
50 us for a network. A v5p slice is at most 6,144 chips.
"""

import dataclasses
import math
import re

LATENCY = {"hop": 1e-6, "nvlink": 10e-6, "network": 50e-6}  # seconds; assumptions


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip; `pod` is how many share the fast links, `sides` the dimensions of their torus (0: a switch)."""

    backend: str
    memory: float
    flops: float
    bandwidth: float
    inside: float
    outside: float
    pod: int
    sides: int
    wraps: int = 1  # chips from which a slice's torus is closed; before, a ring has half the bandwidth


CHIPS = {
    "v5e": Chip("tpu", 16 * 2**30, 197e12, 819e9, 200e9, 3.125e9, 256, 2, 256),
    "v5p": Chip("tpu", 95 * 2**30, 459e12, 2765e9, 600e9, 6.25e9, 6144, 3, 64),
    "v6e": Chip("tpu", 32 * 2**30, 918e12, 1638e9, 400e9, 12.5e9, 256, 2, 256),
    "h200": Chip("gpu", 141e9, 989e12, 4.8e12, 450e9, 50e9, 8, 0),
    "cpu": Chip("cpu", 0, 0, 0, 0, 0, 1, 0),  # a stand-in, for what a mesh of so many devices does
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of a kind: `text` as it was written, `shape` (4, 4), or (8,) for eight of them."""

    text: str
    name: str
    shape: tuple

    @property
    def chip(self):
        return CHIPS[self.name]

    @property
    def count(self):
        return math.prod(self.shape)


def topology(text):
    """v5e:4x4, v5p:2x2x4, v6e:4x4, h200:8 or cpu:8 -> Topology; ValueError says what is wrong and what there is."""
    name, _, shape = text.lower().partition(":")
    if name not in CHIPS:
        raise ValueError(f"--topology={text}: there is no chip '{name}'; choose one of {', '.join(CHIPS)}, as v5e:4x4.")
    sides = CHIPS[name].sides or 1
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") + 1 != sides:
        example = {1: "8", 2: "4x4", 3: "2x2x4"}[sides]
        raise ValueError(f"--topology={text}: a number of chips is written {name}:{example}.")
    return Topology(text.lower(), name, tuple(int(side) for side in shape.split("x")))


def collective_seconds(chip, chips, kind, size, count=1, group=None):
    """Seconds of `count` collectives of `size` bytes in all, over `group` of `chips` (by default all of them).

    Bandwidth-optimal rings: an all-reduce moves its bytes twice, others once. Beyond one pod or node each chip reduces
    its own part of the sum over the network, then the parts are gathered inside.
    """
    group = min(group or chips, chips)
    if group == 1:
        return 0.0
    inside = min(group, chip.pod)
    ways = 2 if kind == "all-reduce" else 1
    bandwidth = chip.inside / (1 if chip.sides == 0 or chips >= chip.wraps else 2)
    seconds = ways * size * (inside - 1) / inside / bandwidth + count * ways * _latency(chip, inside)
    if (outside := group / inside) > 1:
        share = size / inside
        seconds += ways * share * (outside - 1) / outside / chip.outside + count * ways * LATENCY["network"]
    return seconds


def _latency(chip, group):
    """Seconds until a byte has gone round a ring of both directions along each side of a torus, or through a switch."""
    if group == 1:
        return 0.0
    return chip.sides * max(group ** (1 / chip.sides) / 2, 1) * LATENCY["hop"] if chip.sides else LATENCY["nvlink"]
