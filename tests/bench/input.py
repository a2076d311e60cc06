"""The training input beside PyTorch's usual stack: the same clips decoded, cropped to 224 and flipped, into batches.

    python tests/bench/input.py [--batches 12] [--rounds 3] [--workers 0 2] [--written]

Ours is `vidjax.data.train` on a folder of the golden 340x256 Kinetics clips under many names; scans of files begin
cold. `--written` takes the clips as `video.write` re-encodes them, with three B-pictures between references. The others
are a torch DataLoader over PyAV (seek by time) or decord, and torchvision's v2 transforms. All take 16 frames at stride
4 of the same files, in turns, each with one thread a process. "per core" is clips per second of processor time,
workers' included; the ratio is to the better of PyTorch's two.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import decord
import grain
import numpy as np
import torch
from decode import pyav  # beside this file

from vidjax import data
from vidjax.data import video

for operator in ("nms(Tensor a, Tensor b, float c)", "qnms(Tensor a, Tensor b, float c)"):  # lacking in a CPU build
    torch.library.define(f"torchvision::{operator.split('(')[0]}", f"({operator.split('(')[1]} -> Tensor")
from torchvision.transforms import v2  # noqa: E402

GOLDEN = pathlib.Path(
    os.environ.get("VIDJAX_GOLDEN", pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden")
)
CLIPS = ("R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4", "demo.mp4", "ta_chi.mp4")
FRAMES, STRIDE, SHORT, SIZE, SCALE, BATCH, SEED = 16, 4, 256, 224, (0.35, 1.0), 8, 0


def read_decord(path, indices):
    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


class Clips(torch.utils.data.Dataset):
    """The jobs (path, indices) as PyTorch sees them: -> uint8 (T, 3, 224, 224)."""

    def __init__(self, jobs, read):
        self.jobs, self.read = jobs, read
        crop = v2.RandomResizedCrop(SIZE, scale=SCALE, antialias=True)
        self.transform = v2.Compose([v2.Resize(SHORT, antialias=True), crop, v2.RandomHorizontalFlip()])

    def __len__(self):
        return len(self.jobs)

    def __getitem__(self, i):
        return self.transform(torch.from_numpy(self.read(*self.jobs[i])).permute(0, 3, 1, 2))


def torch_batches(read, cfg, source, jobs):
    workers = cfg["workers"]
    options = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None}
    return iter(torch.utils.data.DataLoader(Clips(jobs, read), BATCH, **options))


def our_batches(cfg, source, jobs):
    return (batch["inputs"]["rgb"] for batch in data.train(cfg, source, seed=SEED))


METHODS = {
    "vidjax": our_batches,
    "torch + PyAV": lambda *args: torch_batches(pyav, *args),
    "torch + decord": lambda *args: torch_batches(read_decord, *args),
}


def jobs_of(cfg, source, count):
    """What our pipeline will read: [(path, indices)]."""
    cfg = data.options(cfg)
    places = data.order_of(cfg, source, SEED)
    ds = grain.MapDataset.source(data.endless(cfg, source, places)).seed(SEED).random_map(data.SampleClip(cfg, places))
    return [(record["path"], record["indices"][0]) for record in map(ds.__getitem__, range(count))]


def processor_time():
    """Seconds of this process and all below it that are alive."""
    ticks, parents = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)], ticks[int(entry)] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def measure(method, cfg, source, jobs, batches):
    """Clips per second of wall clock and of processor time over `batches`, after two that warm up."""
    video.SCANS.clear()
    video.HELD["bytes"] = 0
    stream = method(cfg, source, jobs)
    for _ in range(2):
        assert next(stream).shape[:2] == (BATCH, FRAMES)
    wall, cpu = time.perf_counter(), processor_time()
    for _ in range(batches):
        next(stream)
    return BATCH * batches / (time.perf_counter() - wall), BATCH * batches / (processor_time() - cpu)


def config(folder, workers):
    clip = {"sampler": "random_clip", "size": FRAMES, "stride": STRIDE}
    augment = {"size": SIZE, "scale": SCALE}
    return {
        "path": str(folder),
        "eval_fraction": 0.0,
        "batch_size": BATCH,
        "clip": clip,
        "augment": augment,
        "short_side": SHORT,
        "workers": workers,
        "threads": 1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--written", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        count, videos = BATCH * (args.batches + 12), [GOLDEN / "video" / "clips" / name for name in CLIPS]
        if args.written:
            written = [pathlib.Path(folder, path.name) for path in videos]
            for path, target in zip(videos, written, strict=True):
                video.write(target, video.read(path, range(video.probe(path)["num_frames"])), bframes=3)
            videos = written
        for i in range(count):
            target = pathlib.Path(folder, "train", f"class{i % 2}", f"{i}.mp4")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(videos[i % len(videos)])
        for workers in args.workers:
            cfg = config(folder, workers)
            source = data.source(cfg, "train")
            jobs, speeds = jobs_of(cfg, source, count), {name: [] for name in METHODS}
            for _ in range(args.rounds):
                for name, method in METHODS.items():
                    speeds[name].append(measure(method, cfg, source, jobs, args.batches))
            table(workers, speeds)


def table(workers, speeds):
    median = {name: np.median(rows, axis=0) for name, rows in speeds.items()}
    best = np.max([pair for name, pair in median.items() if name != "vidjax"], axis=0)
    print(f"{workers} workers: {'clips/s':>18s}{'ratio':>8s}{'per core':>12s}{'ratio':>8s}")
    for name, (wall, cpu) in median.items():
        print(f"  {name:18s}{wall:9.1f}{wall / best[0]:8.2f}{cpu:12.1f}{cpu / best[1]:8.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
