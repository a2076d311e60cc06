"""Damages videos in every way at hand and reads them in a process whose memory and time are limited.

    nice python tests/fuzz_video.py [--trials 5000] [--seed 0] [--only FORMAT/MUTATION/NUMBER]

Trial (format, mutation, number) is the same bytes for ever. Prints a table of what became of them and every trial that
crashed, hung, grew, let another exception than VideoError out or returned wrong shapes; exits 1 if there is one.
"""

import argparse
import collections
import multiprocessing
import os
import pathlib
import resource
import struct
import sys
import tempfile
import time
import zlib

import av
import numpy as np

from vidjax.data import video

WIDTH, HEIGHT, FRAMES = 352, 288, 40
FORMATS = {
    "mp4": ("clip.mp4", "libx264", {"g": "12", "bf": "2"}),
    "avi": ("clip.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "webm": ("clip.webm", "libvpx", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "vp9": ("clip.webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "mkv": ("clip.mkv", "libx264", {"g": "12", "bf": "2"}),
}
ADDRESS_SPACE, WALL, GROWTH = 3 << 30, 30.0, 600  # bytes, seconds, MB
GOOD = ("whole", "short, reported", "refused", "refused at a frame")


def make(folder, name):
    """A good video of a format: -> its bytes."""
    file, codec, options = FORMATS[name]
    path = pathlib.Path(folder) / file
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (HEIGHT // 32, WIDTH // 32 + 5, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(FRAMES):
            picture = np.ascontiguousarray(scene[:, 4 * i : 4 * i + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def bit_flips(data, rng, other):
    data = bytearray(data)
    for at in rng.integers(len(data), size=int(2 ** rng.uniform(0, 8))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def header_flips(data, rng, other):
    """Within 300 bytes of the names that containers give their tables, or of the beginning."""
    data, anchors = bytearray(data), [0]
    for name in (b"moov", b"stsd", b"stts", b"stsz", b"stsc", b"avcC", b"avih", b"strf", b"idx1", b"\x16\x54\xae\x6b"):
        anchors += [data.find(name)] if name in data else []
    anchor = anchors[int(rng.integers(len(anchors)))]
    for at in anchor + rng.integers(300, size=int(rng.integers(1, 12))):
        if at < len(data):
            data[at] = int(rng.integers(256))
    return data


def numbers(data, rng, other):
    """Some 32-bit numbers in the first or last 2,000 bytes become absurd."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        low = 0 if rng.random() < 0.5 else max(0, len(data) - 2000)
        at = int(rng.integers(low, max(low + 1, min(low + 2000, len(data) - 4))))
        value = [0, 1, 30000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)][int(rng.integers(7))]
        data[at : at + 4] = struct.pack(">I" if rng.random() < 0.5 else "<I", value)
    return data


def truncation(data, rng, other):
    return data[: int(rng.integers(len(data)))]


def zero_run(data, rng, other):
    at = int(rng.integers(len(data)))
    return data[:at] + bytes(min(len(data) - at, int(2 ** rng.uniform(3, 12)))) + data[at:][4096:]


def noise_run(data, rng, other):
    at, count = int(rng.integers(len(data))), int(2 ** rng.uniform(3, 12))
    return data[:at] + rng.bytes(min(count, len(data) - at)) + data[at + count :]


def deletion(data, rng, other):
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(2 ** rng.uniform(0, 12)) :]


def duplication(data, rng, other):
    at = int(rng.integers(len(data)))
    return data[:at] + data[at : at + int(2 ** rng.uniform(0, 12))] * int(rng.integers(2, 6)) + data[at:]


def splice(data, rng, other):
    """The beginning of one video before the rest of another."""
    return other[: int(rng.integers(len(other)))] + data[int(rng.integers(len(data))) :]


def swap(data, rng, other):
    """Two blocks change places."""
    size = int(2 ** rng.uniform(2, 10))
    a, b = sorted(rng.integers(max(1, len(data) - size), size=2).tolist())
    if b < a + size:
        return data[b:] + data[:b]
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def sizes(data, rng, other):
    """Every place that gives the width and height claims 30,000 x 30,000 or another size."""
    claim = [(30000, 30000), (65535, 65535), (8000, 8000), (7680, 4320), (1, 1), (0, 0), (97, 33)][int(rng.integers(7))]
    for kind in ("<HH", ">HH", "<II", ">II"):
        data = data.replace(struct.pack(kind, WIDTH, HEIGHT), struct.pack(kind, *claim))
        data = data.replace(struct.pack(kind, HEIGHT, WIDTH), struct.pack(kind, *claim[::-1]))
    width, height = (struct.pack(">H", side) for side in claim)  # Matroska's PixelWidth and PixelHeight
    old = struct.pack(">2sH2sH", b"\xb0\x82", WIDTH, b"\xba\x82", HEIGHT)
    data = data.replace(old, b"\xb0\x82" + width + b"\xba\x82" + height)
    return data.replace(struct.pack(">II", WIDTH << 16, HEIGHT << 16), width + b"\0\0" + height + b"\0\0")


CHANGES = (
    bit_flips,
    header_flips,
    numbers,
    truncation,
    zero_run,
    noise_run,
    deletion,
    duplication,
    splice,
    swap,
    sizes,
)
MUTATIONS = {change.__name__: change for change in (*CHANGES, sizes)}


def mutate(videos, name, mutation, number, seed=0):
    """The bytes of trial (format, mutation, number)."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(mutation.encode()), number])
    other = videos[sorted(videos)[int(rng.integers(len(videos)))]]
    return bytes(MUTATIONS[mutation](videos[name], rng, other)), rng


def attempt(data, rng, path):
    """Probes and reads one damaged file, as bytes or from `path`: -> what became of it."""
    file = data
    if rng.random() < 0.5:
        path.write_bytes(data)
        file = str(path)
    try:
        info = video.probe(file)
        short_side, pixels = int(rng.choice([0, 32, 75])), ("rgb", "yuv420")[int(rng.integers(2))]
        if min(info["width"], info["height"]) > 1000:
            short_side = 32
    except video.VideoError:
        return "refused"
    count = info["num_frames"]
    if count < 1 or not np.isfinite([info["fps"], info["duration"]]).all():
        return f"ESCAPED: probe says {info}"
    indices = rng.integers(count, size=6).tolist() + [count - 1]
    try:
        frames = video.read(file, indices, short_side, pixels)
    except video.VideoError:
        return "refused at a frame"
    channels = frames.shape[3:] if pixels == "rgb" else (3,)
    if len(frames) != len(indices) or frames.dtype != np.uint8 or channels != (3,):
        return f"WRONG SHAPE: {frames.shape}"
    if count >= FRAMES:
        return "whole"
    try:
        video.read(file, range(FRAMES), short_side, pixels)
    except video.VideoError:
        return "short, reported"
    return "SHORT UNREPORTED"


def worker(pipe, videos, seed, folder, attempt):
    """Answers trials with (outcome, seconds, MB that the peak grew) in a process of limited memory."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = pathlib.Path(folder) / f"{os.getpid()}.mp4"
    while trial := pipe.recv():
        data, rng = mutate(videos, *trial, seed)
        start, before = time.perf_counter(), peak()
        try:
            outcome = attempt(data, rng, path)
        except Exception as error:
            outcome = f"ESCAPED: {type(error).__name__}: {error}"
        pipe.send((outcome, time.perf_counter() - start, peak() - before))


def peak():
    """The most MB that this process has had; unlike ru_maxrss not those of the one that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def run(trials, videos, seed=0, attempt=attempt):
    """Yields (trial, outcome, seconds, MB) for trials (format, mutation, number), one process at work at a time."""
    spawn, process = multiprocessing.get_context("spawn"), None
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials:
            if process is None:
                pipe, end = spawn.Pipe()
                process = spawn.Process(target=worker, args=(end, videos, seed, folder, attempt), daemon=True)
                process.start()
                end.close()
            pipe.send(trial)
            try:
                result = pipe.recv() if pipe.poll(WALL) else ("HANG", WALL, 0)
            except EOFError:
                process.join()
                result = (f"CRASH: exit code {process.exitcode}", 0, 0)
            if result[0].startswith(("HANG", "CRASH")):
                process.kill()
                process.join()
                process = None
            if result[2] > GROWTH:
                result = (f"GREW by {result[2]:.0f} MB, then: {result[0]}", *result[1:])
            yield trial, *result
        if process:
            pipe.send(None)
            process.join()


def plan(trials):
    """`trials` trials spread evenly over formats and mutations."""
    kinds = [(name, mutation) for mutation in MUTATIONS for name in FORMATS]
    return [(*kinds[i % len(kinds)], i // len(kinds)) for i in range(trials)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one trial, for instance mp4/bit_flips/17")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = {name: make(folder, name) for name in FORMATS}
    trials = plan(args.trials)
    if args.only:
        name, mutation, number = args.only.split("/")
        trials = [(name, mutation, int(number))]
    table, bad, slowest, largest = collections.Counter(), [], (0, ""), (0, "")
    for trial, outcome, seconds, grown in run(trials, videos, args.seed):
        table[trial[:2], outcome] += 1
        slowest, largest = max(slowest, (seconds, str(trial))), max(largest, (grown, str(trial)))
        if outcome not in GOOD:
            bad.append((trial, outcome))
            print(*trial, outcome, flush=True)
    print(f"{'':22s}" + "".join(f"{outcome:>20s}" for outcome in GOOD) + f"{'bad':>8s}")
    for kind in sorted({kind for kind, _ in table}):
        counts = [table[kind, outcome] for outcome in GOOD]
        wrong = sum(count for (of, _), count in table.items() if of == kind) - sum(counts)
        print(f"{'/'.join(kind):22s}" + "".join(f"{count:20d}" for count in counts) + f"{wrong:8d}")
    totals = [sum(count for (_, of), count in table.items() if of == outcome) for outcome in GOOD]
    print(f"{len(trials)} trials: " + ", ".join(f"{n} {outcome}" for n, outcome in zip(totals, GOOD, strict=True)))
    print(
        f"{len(bad)} bad; slowest {slowest[0]:.1f} s {slowest[1]}; peak grew most by {largest[0]:.0f} MB {largest[1]}"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
