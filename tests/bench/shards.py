"""Clips per second and core from files, re-encoded shards and packed shards: 16 frames at stride 4, RGB or I420.

    python tests/bench/shards.py [--rounds 20] [VIDEO ...]

Default videos: the golden 340x256 Kinetics clips. All ways read the same clips of the same videos, one after the other
in each round, so that a busy machine slows them alike; times are CPU times of the process.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np

from vidjax.data import build, clips, records, video
from vidjax.data.builders import Listing

GOLDEN = pathlib.Path(
    os.environ.get("VIDJAX_GOLDEN", pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden")
)
NAMES = ("R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4", "demo.mp4", "ta_chi.mp4")
SETS = {
    "re-encoded, gop 12": {"store": "video"},
    "packed rgb": {"store": "frames"},
    "packed yuv420": {"store": "frames", "pixels": "yuv420"},
}


def make(videos, folder, short_side):
    """Builds one data set for each way: {name: source}, and {name: bytes per video}."""
    rows = [{"id": path.name, "path": str(path), "label": 0, "sides": {"": "train"}} for path in videos]
    listing, sources, sizes = Listing("bench", ("a",), tuple(rows), {}), {}, {}
    for name, how in SETS.items():
        start, out = time.process_time(), pathlib.Path(folder, f"{short_side} {name}")
        manifest = build.build(listing, out, short_side=short_side, **how)
        sources[name] = records.open(out)
        sizes[name] = sum(shard["bytes"] for shard in manifest["shards"]) / len(videos)
        print(f"  built {name:20s}{(time.process_time() - start) / len(videos):6.2f} CPU s a video")
    return sources, sizes | {"original files": sum(path.stat().st_size for path in videos) / len(videos)}


def ways(videos, sources, short_side):
    """{name: function (number of a video, indices) -> frames}; "to" where the clip's format is not the stored one."""

    def file(pixels):
        return lambda i, indices: video.read(videos[i], indices, short_side, pixels)

    def shard(name, pixels):
        return lambda i, indices: records.read(sources[name][i], indices, short_side, pixels)

    return {
        "original files": file("rgb"),
        "original files to yuv420": file("yuv420"),
        "re-encoded, gop 12": shard("re-encoded, gop 12", "rgb"),
        "re-encoded, gop 12 to yuv420": shard("re-encoded, gop 12", "yuv420"),
        "packed rgb": shard("packed rgb", "rgb"),
        "packed yuv420": shard("packed yuv420", "yuv420"),
        "packed yuv420 to rgb": shard("packed yuv420", "rgb"),
    }


def measure(readers, counts, rounds, seed=0):
    """CPU seconds of each way for the same `rounds` clips of every video, interleaved; the first round warms up."""
    rng, spent = np.random.default_rng(seed), dict.fromkeys(readers, 0.0)
    for round_ in range(rounds + 1):
        for i, count in enumerate(counts):
            indices = clips.random_clip(count, 16, 4, rng)
            for name, read in readers.items():
                start = time.process_time()
                read(i, indices)
                spent[name] += (time.process_time() - start) * (round_ > 0)
    return {name: rounds * len(counts) / seconds for name, seconds in spent.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    videos = [pathlib.Path(path) for path in args.videos or [GOLDEN / "video" / "clips" / name for name in NAMES]]
    counts = [video.probe(path)["num_frames"] for path in videos]
    for short_side in (128, 256):
        print(f"short side {short_side}, {len(videos)} videos, {args.rounds} clips each")
        with tempfile.TemporaryDirectory() as folder:
            sources, sizes = make(videos, folder, short_side)
            speed = measure(ways(videos, sources, short_side), counts, args.rounds)
        for name, rate in speed.items():
            size = f"{sizes[name] / 2**20:8.2f} MB a video" if name in sizes else ""
            print(f"  {name:30s}{rate:8.1f} clips/s/core, {rate / speed['original files']:6.2f} x the files{size}")


if __name__ == "__main__":
    main()
