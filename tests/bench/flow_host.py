"""Host flow, stored flow and hand-made features on real clips: milliseconds, bytes, errors, beside the usual way.

    python tests/bench/flow_host.py [VIDEO ...]

The rivals, measured in turns with ours in one run: OpenCV called on frames that are grey already, and flow kept as two
JPEG files a field, as the field's tools write it.
"""

import os
import pathlib
import sys
import tempfile
import time

import cv2
import numpy as np

from vidjax.data import flow, flow_store, handmade, stacking, video

CLIPS = pathlib.Path(os.environ.get("VIDJAX_GOLDEN", "../shared/golden")) / "video" / "clips"
FRAMES, ROUNDS, STACK = 49, 5, 10


def milliseconds(functions, rounds=ROUNDS):
    """The median time of each function, called in turns."""
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(taken)) for taken in times]


def estimators(clip):
    """Milliseconds a pair, ours and OpenCV alone."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    for name, options in (("dis", {"preset": key}) for key in flow.PRESETS):
        algorithm = cv2.DISOpticalFlow_create(flow.PRESETS[options["preset"]])
        ours, theirs = milliseconds(
            [
                lambda options=options: flow.estimate(clip, "dis", **options),
                lambda algorithm=algorithm: [algorithm.calc(*pair, None) for pair in zip(grey, grey[1:], strict=False)],
            ]
        )
        show(f"{name} {options['preset']}", ours / (len(clip) - 1), theirs / (len(clip) - 1), "ms a pair")
    ours = milliseconds([lambda: flow.estimate(clip, "farneback")], 1)[0]
    print(f"  farneback                 {ours / (len(clip) - 1):8.2f} ms a pair")


def stores(path, count, folder):
    """Bytes and reading time of a stack of STACK fields at random, each encoding beside JPEG files."""
    record = {"id": "clip", "path": str(path), "num_frames": count, "error": ""}
    truth = flow.quantise(flow.estimate(video.read(path, range(count), 256)))
    for i, field in enumerate(truth):
        for axis, name in enumerate("xy"):
            cv2.imwrite(f"{folder}/{name}{i:05d}.jpg", field[..., axis])
    theirs_size = sum(file.stat().st_size for file in pathlib.Path(folder).glob("*.jpg")) / len(truth)
    starts = np.random.default_rng(0).integers(0, len(truth) - STACK, 20)

    def from_files():
        for start in starts:
            for i in range(start, start + STACK):
                np.stack([cv2.imread(f"{folder}/{name}{i:05d}.jpg", cv2.IMREAD_GRAYSCALE) for name in "xy"], -1)

    for encoding in ("png", "video", "jpeg"):
        out = f"{folder}/{encoding}"
        manifest = flow_store.build([record], out, flow.estimator(), short_side=256, encoding=encoding)
        store = flow_store.open(out)
        found = flow_store.read(store, "clip", range(len(truth))).astype(int)
        error = np.abs(found - truth)
        size = sum(shard["bytes"] for shard in manifest["shards"]) / len(truth)
        ours, theirs = milliseconds(
            [
                lambda store=store: [flow_store.read(store, "clip", range(s, s + STACK)) for s in starts],
                from_files,
            ]
        )
        show(f"stored as {encoding}", ours / len(starts), theirs / len(starts), f"ms a stack of {STACK}")
        print(
            f"    {size / 1024:6.1f} KB a field (two JPEG files {theirs_size / 1024:.1f}); error in quanta: "
            f"largest {error.max()}, mean {error.mean():.3f}"
        )


def features(clip):
    """Milliseconds a frame of the hand-made features."""
    field = flow.estimate(clip)
    tracks = handmade.trajectories(clip, field)
    steps = {
        "trajectories": lambda: handmade.trajectories(clip, field),
        "descriptors": lambda: handmade.describe(clip, field, tracks),
        "stabilise": lambda: stacking.stabilise(field),
    }
    print(f"  {len(tracks['start'])} tracks")
    for name, taken in zip(steps, milliseconds(list(steps.values()), 1), strict=True):
        print(f"  {name:25s} {taken / len(clip):8.2f} ms a frame")


def show(name, ours, theirs, unit):
    print(f"  {name:25s} {ours:8.2f} {unit}, rival {theirs:8.2f}, ours / rival {ours / theirs:.2f}")


def main(paths):
    for path in paths or sorted(CLIPS.glob("v_Soccer*")) + sorted(CLIPS.glob("carving*")):
        count = min(FRAMES, video.probe(path)["num_frames"])
        clip = video.read(path, range(count), 256)
        print(f"{pathlib.Path(path).name}: {clip.shape}")
        estimators(clip)
        with tempfile.TemporaryDirectory() as folder:
            stores(path, count, folder)
        features(clip)


if __name__ == "__main__":
    main(sys.argv[1:])
