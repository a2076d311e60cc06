"""Clips per second of `video.read` beside OpenCV and plain PyAV: random clips of 16 frames at stride 4, one process.

    python tests/bench/decode.py [--clips 10] [--threads 1] [VIDEO ...]
    python tests/bench/decode.py --soak 20000

Default videos: the golden 340x256 Kinetics clips as they are, and re-encoded by `video.write` (a keyframe every 12).
All methods read the same clips; "right" is the share of clips that show the frames of sequential decoding.
`--soak` reads so many clips of golden videos in one process and prints how its memory and descriptors go.
"""

import argparse
import concurrent.futures
import os
import pathlib
import tempfile
import time

import av
import cv2
import numpy as np

from vidjax.data import clips, video

GOLDEN = pathlib.Path(
    os.environ.get("VIDJAX_GOLDEN", pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden")
)


def opencv(path, indices, start=0):
    """Decodes on from frame `start`, converting only the wanted frames."""
    capture, frames, wanted = cv2.VideoCapture(path), [], set(indices.tolist())
    if start:
        capture.set(cv2.CAP_PROP_POS_FRAMES, start)
    for number in range(start, max(wanted) + 1):
        capture.grab()
        if number in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(frames)


def pyav(path, indices):
    """Seeks by time and trusts the timestamps, as loaders commonly do."""
    with av.open(path, **video.METADATA) as container:
        stream = container.streams.video[0]
        ticks = 1 / (stream.average_rate * stream.time_base)
        times, frames = [round(i * ticks) + (stream.start_time or 0) for i in indices.tolist()], []
        container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts >= times[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == len(times):
                break
    return np.stack(frames)


METHODS = {
    "vidjax": video.read,
    "vidjax, yuv420": lambda path, indices: video.read(path, indices, pixels="yuv420"),
    "vidjax, short side 112": lambda path, indices: video.read(path, indices, 112),
    "OpenCV, sequential": opencv,
    "OpenCV, POS_FRAMES": lambda path, indices: opencv(path, indices, int(indices[0])),
    "PyAV, seek by time": pyav,
}


def measure(method, jobs, threads):
    """Clips per second of wall clock, and CPU milliseconds per clip, over all jobs; one of them warms up."""
    method(*jobs[0])
    wall, cpu = time.perf_counter(), time.process_time()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: method(*job), jobs))
    return len(jobs) / (time.perf_counter() - wall), (time.process_time() - cpu) / len(jobs) * 1000


def share_right(method, jobs):
    """Share of jobs whose pictures differ from those of sequential OpenCV by less than the colour conversions do."""
    same = 0
    for path, indices in jobs:
        truth, frames = opencv(path, indices), method(path, indices)
        if frames.ndim == 3:
            frames = np.stack([av.VideoFrame.from_ndarray(f, "yuvj420p").to_ndarray(format="rgb24") for f in frames])
        if frames.shape != truth.shape:
            size = frames.shape[2:0:-1]
            truth = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in truth])
        same += np.abs(truth.astype(int) - frames).mean((1, 2, 3)).max() < 6
    return same / len(jobs)


def table(title, paths, count, threads):
    rng = np.random.default_rng(0)
    jobs = [(p, clips.random_clip(video.probe(p)["num_frames"], 16, 4, rng)) for p in paths for _ in range(count)]
    print(f"{title}: {len(jobs)} clips, {threads} thread(s)")
    ours = None
    for name, method in METHODS.items():
        speed, cpu = measure(method, jobs, threads)
        ours, right = ours or cpu, share_right(method, jobs)
        print(
            f"  {name:24s}{speed:8.1f} clips/s {cpu:8.1f} CPU ms/clip, {cpu / ours:4.2f} of vidjax   right {right:.0%}"
        )


def soak(count):
    """Reads `count` clips of the smaller golden videos, from paths and from bytes; prints memory and descriptors."""
    folders, rng = [GOLDEN / "video" / "clips", GOLDEN / "video" / "awkward"], np.random.default_rng(0)
    paths = [str(path) for folder in folders for path in sorted(folder.iterdir()) if path.stat().st_size < 130_000]
    for i in range(count + 1):
        if i in (count // 10, count // 2, count):
            print(f"{i} clips: {memory() / 2**20:.1f} MB, {len(os.listdir('/proc/self/fd'))} descriptors", flush=True)
        path = paths[i % len(paths)]
        source, pixels = path if i % 3 else pathlib.Path(path).read_bytes(), ("rgb", "yuv420")[i // 7 % 2]
        try:
            indices = clips.random_clip(min(video.probe(source)["num_frames"], 24), 16, 1, rng)
            video.read(source, indices, 112 if i % 2 else 0, pixels)
        except video.VideoError:
            assert "corrupted" in path, path


def memory():
    """Resident bytes of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--soak", type=int, default=0)
    args = parser.parse_args()
    if args.soak:
        soak(args.soak)
        return
    videos = args.videos or [
        str(GOLDEN / "video" / "clips" / name)
        for name in ("R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4", "demo.mp4", "ta_chi.mp4")
    ]
    table("as they are", videos, args.clips, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        written = [str(pathlib.Path(folder) / f"{i}.mp4") for i in range(len(videos))]
        for path, target in zip(videos, written, strict=True):
            video.write(target, video.read(path, range(min(200, video.probe(path)["num_frames"]))))
        table("written by vidjax", written, args.clips, args.threads)


if __name__ == "__main__":
    main()
