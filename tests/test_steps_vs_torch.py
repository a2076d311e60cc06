"""The timing of training steps beside PyTorch: its nets, its figures, and how it takes a process that cannot go on."""

import argparse
import pathlib
import sys

import numpy as np
import pytest

from vidjax import models

sys.path.insert(0, str(pathlib.Path(__file__).with_name("bench")))

import steps_sides  # noqa: E402
import steps_vs_torch as timing  # noqa: E402


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", timing.NETS)
def test_nets_are_references_with_the_pixels_they_expect(name, small):
    row = steps_sides.net_of(name, small)
    known = models.reference(row["source"], row["arch"])
    for key in ("mean", "std"):
        np.testing.assert_allclose(row[key], np.broadcast_to(known["preprocess"][key], 3), rtol=1e-6)  # float rounding
    assert row["batch"] <= 2 if small else row["batch"] >= 64
    (video, label), *_ = steps_sides.pool(row, 1)
    assert (video.shape, video.dtype, label.shape) == ((1, row["clip"][0], *row["clip"][1:] * 2, 3), np.uint8, (1,))


def test_a_table_from_seconds():
    def side(versions, seconds, macs=0):
        rounds = [{"seconds": s, "waited": s / 4, "loss": 6.0, "peak": 5e9} for s in seconds]
        return {"versions": versions, "macs": macs, "rounds": rounds}

    found = {
        "jax": side(["jax", "NVIDIA H200"], [1.0, 2.0, 3.0], macs=989e9),
        "torch": side(["torch", "NVIDIA H200"], [2.0, 4.0, 6.0]),
    }
    ours, theirs = timing.rows_of("net", found, batch=10, steps=20)
    # 20 steps in 2 s; 6 x 989e9 x 10 clips x 10 steps a second of 989e12
    assert ours == ["net", "vidjax", "10", "10", "100", "60.0%", "5.0", "25.0%", "0.50 (0.50-0.50)"]
    assert theirs == ["net", "PyTorch", "10", "5", "50", "30.0%", "5.0", "25.0%", ""]


def test_the_interval_holds_the_median():
    ratios = np.random.default_rng(0).normal(1.0, 0.1, 99)
    low, middle, high = timing.interval(list(ratios))
    assert ratios.min() < low < middle < high < ratios.max()
    assert middle == np.median(ratios)
    assert timing.interval([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("answer", "error"), [("full", MemoryError), ("missing", ImportError), ("failed", RuntimeError), ("", RuntimeError)]
)
def test_a_process_that_cannot_go_on_says_why(tmp_path, answer, error):
    python = tmp_path / "python"
    line = f'{{"{answer}": "yes"}}' if answer else ""
    python.write_text(f"#!/bin/sh\necho '{line}'\n" if answer else "#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    args = argparse.Namespace(compile="none", small=True, path="")
    with pytest.raises(error):
        timing.Worker("torch", str(python), args, "x3d_m", 1, str(tmp_path))
