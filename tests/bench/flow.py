"""Milliseconds per pair of vidjax's optical flow beside OpenCV's on the same two CPU threads, interleaved in one run.

    python tests/bench/flow.py --opencv-python=/work/venv_contrib/bin/python [--rounds 3] [--methods tvl1,farneback]

TV-L1 needs opencv-contrib-python-headless, which must not share an environment with opencv-python-headless: name
another environment's Python, or run where `cv2.optflow` is importable. Farneback needs OpenCV alone. Pairs are
consecutive frames of golden clips, resized; both sides get the same grey pictures; times are the least of the rounds.
On cores shared with other work the ratio of CPU times, and THREADS=1, say more.
With a GPU or TPU (JAX_PLATFORMS unset) it prints frames per second of the device, too, and larger batches.

Measured 2026-11-21, EPYC, jax 0.10.2, two threads, load 1, --rounds 5: ms a pair, OpenCV's, ratio (in CPU time)
  TV-L1      224x224 64, 509, 7.9 x (9.9 x); 256x340 121, 1114, 9.2 x (9.9 x)
             in batches of 16: 53, 345, 6.5 x (7.0 x) and 85, 626, 7.4 x (7.6 x)
  Farneback  224x224 9.7, 9.7, 1.0 x (1.7 x); 256x340 11.8, 18.3, 1.5 x (1.9 x); in batches of 16: 1.6 x (1.1 x)
A quarter of the 16 pairs hardly moves: OpenCV then stops early, and warps and medians are most of our time.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

THREADS = int(os.environ.get("THREADS", "2"))
if hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        os.sched_setaffinity(0, CORES[:THREADS])

import cv2  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from vidjax import flow  # noqa: E402
from vidjax.data import video  # noqa: E402

GOLDEN = pathlib.Path(
    os.environ.get("VIDJAX_GOLDEN", pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden")
)
CLIPS = ("R6llTwEh07w.mp4", "demo.mp4", "ta_chi.mp4", "v_SoccerJuggling_g23_c01.avi")
SIZES = ((224, 224), (256, 340))  # height, width

RIVAL = """
import sys, time, cv2, numpy as np
method, source, target, threads = sys.argv[1:]
cv2.setNumThreads(int(threads))
tvl1 = cv2.optflow.DualTVL1OpticalFlow_create() if method == "tvl1" else None
calls = {
    "tvl1": lambda a, b: tvl1.calc(a, b, None),
    "farneback": lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0),
}
pairs = np.load(source)
calls[method](*pairs[0][:, :64, :64].copy())
wall, cpu = time.perf_counter(), time.process_time()
found = [calls[method](*pair) for pair in pairs]
print(time.perf_counter() - wall, time.process_time() - cpu)
np.save(target, np.stack(found))
"""


def pairs_of(height, width, count):
    """`count` pairs of consecutive grey frames from the clips in turn: uint8 (count, 2, H, W)."""
    found = []
    for i in range(count):
        frames = video.read(str(GOLDEN / "video" / "clips" / CLIPS[i % len(CLIPS)]), [20 + i, 21 + i])
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        found.append([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in grey])
    return np.array(found)


def rival(python, method, pairs):
    """Seconds of wall clock and of CPU for all pairs and their flows, from OpenCV in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = (str(pathlib.Path(folder) / name) for name in ("pairs.npy", "flow.npy"))
        np.save(source, pairs)
        command = [python, "-c", RIVAL, method, source, target, str(THREADS)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [float(seconds) for seconds in printed.split()], np.load(target)


def ours(method, pairs):
    """Seconds of wall clock and of CPU for all pairs, which are one batch, and their flows; compiled before."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(flow.run(pairs, method, ()))
    return [time.perf_counter() - wall, time.process_time() - cpu], np.asarray(found)[:, 0]


def compare(method, size, count, rounds, python):
    """Prints one line: ours, OpenCV's, their ratio and the mean end-point error between them."""
    pairs = pairs_of(*size, count)
    clip = jax.device_put(np.repeat(pairs[..., None], 3, -1))
    ours(method, clip)
    times = []
    for _ in range(rounds):
        mine, found = ours(method, clip)
        theirs, expected = rival(python, method, pairs) if python else ([float("nan")] * 2, found)
        times.append(np.array([mine, theirs]) / count * 1000)
    (mine, mine_cpu), (theirs, theirs_cpu) = np.min(times, 0)
    line = f"{method:12s} {size[0]}x{size[1]} batch {count:3d}: {mine:7.1f} ms/pair, {1000 / mine:7.1f} frames/s"
    if python:
        error = np.linalg.norm(found - expected, axis=-1).mean()
        line += (
            f"; OpenCV {theirs:7.1f} ms/pair: {theirs / mine:4.1f} x in time, {theirs_cpu / mine_cpu:4.1f} x in CPU "
        )
        line += f"time; mean end-point error {error:.4f} px"
    print(line, flush=True)


def python_with_optflow(given):
    """The Python that has `cv2.optflow`: the given one, this one, or none."""
    return given or (sys.executable if hasattr(cv2, "optflow") else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opencv-python", default="", help="a Python with opencv-contrib-python-headless")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default="tvl1,farneback,horn_schunck")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")])
    args = parser.parse_args()
    device = jax.devices()[0]
    batches = args.batches or ([1, 16] if device.platform == "cpu" else [1, 16, 64])
    rivals = {"tvl1": python_with_optflow(args.opencv_python), "farneback": args.opencv_python or sys.executable}
    print(f"{device.device_kind}, jax {jax.__version__}, load {os.getloadavg()[0]:.1f}")
    for method in args.methods.split(","):
        for size in SIZES:
            for count in batches:
                compare(method, size, count, args.rounds, rivals.get(method, ""))


if __name__ == "__main__":
    main()
