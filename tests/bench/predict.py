"""Prediction on many files beside the plain loop, one file after another, and beside torchvision with PyAV or decord.

    python tests/bench/predict.py [--rounds 3] [--copies 3] [--net r3d_18|small] [--stride 8f]

All score the same windows of 16 frames of the golden 340x256 Kinetics clips under several names, with a net of random
weights: torchvision's R3D-18, or vidjax's small one (no PyTorch then). `loop` reads the windows of a file eight at a
time and computes them before it reads on, as vidjax did; `torch` decodes a file with PyAV or decord and then computes.
They take turns. Printed are seconds and seconds of processor time, and their ratio to `many`'s, the median of rounds.
"""

import argparse
import functools
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
import types

import jax
import numpy as np

from vidjax import config, data, evaluate, models, predict
from vidjax.data import video

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("VIDJAX_GOLDEN", ROOT.parent / "shared" / "golden"))
CLIPS = ("R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4", "demo.mp4", "ta_chi.mp4")
FRAMES, RESIZE, SIZE, AT_ONCE = 16, 128, 112, 8


def predictor_of(net):
    """Ours, with random weights."""
    cfg = config.from_file(f"{ROOT}/configs/quickstart.py")
    cfg.model = {"name": "r3d", "variant": net} | ({} if net != "small" else {"dropout": 0.0})
    cfg.data.clip.size, cfg.data.clip.stride, cfg.data.short_side = FRAMES, 1, 0
    cfg.eval.size = SIZE
    with cfg.unlocked():
        cfg.eval.resize = RESIZE
    names = [str(i) for i in range(400)]
    model = models.build(cfg.model, num_classes=len(names))
    clip = np.zeros((1, FRAMES, SIZE, SIZE, 3), np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(clip)
    meta = evaluate.meta(cfg, model, types.SimpleNamespace(classes=names, multi_label=False))
    return predict.Predictor(loaded=(variables, meta))


def many(predictor, paths, stride):
    return [result["scores"] for _, result in predictor.many(paths, stride=stride)]


def loop(predictor, paths, stride):
    """One file after another, eight windows at a time."""
    found = []
    for path in paths:
        record = {"id": path, "path": path, "error": ""} | video.probe(path)
        indices, _ = predict.windows.cut(predictor.section, record["num_frames"], record["fps"], stride)
        scores = []
        for i in range(0, len(indices), AT_ONCE):
            windows = indices[i : i + AT_ONCE]
            views = data.read_views(predictor.section, predictor.meta["preprocess"], record, windows)
            rows = [{key: x[[k]] for key, x in views.items()} for k in range(len(windows))]
            scores.append(np.asarray(predictor.batch(rows))[: len(windows)])
        found.append(np.concatenate(scores))
    return found


def torch_side():
    """The usual loop of PyTorch: a file decoded, resized and cropped, its windows computed eight at a time."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    for operator in ("nms(Tensor a, Tensor b, float c)", "qnms(Tensor a, Tensor b, float c)"):  # lacking in a CPU build
        torch.library.define(f"torchvision::{operator.split('(')[0]}", f"({operator.split('(')[1]} -> Tensor")
    from torchvision.models.video import r3d_18

    net = r3d_18().eval().to(memory_format=torch.channels_last_3d)

    def run(read, predictor, paths, stride):
        found = []
        with torch.inference_mode():
            for path in paths:
                frames = torch.from_numpy(read(path)).permute(0, 3, 1, 2).float() / 255
                h, w = frames.shape[2:]
                scale = RESIZE / min(h, w)
                frames = F.interpolate(frames, (round(h * scale), round(w * scale)), mode="bilinear", antialias=True)
                top, left = (frames.shape[2] - SIZE) // 2, (frames.shape[3] - SIZE) // 2
                frames = (frames[:, :, top : top + SIZE, left : left + SIZE] - 0.45) / 0.225
                indices, _ = predict.windows.cut(predictor.section, len(frames), 25.0, stride)
                clips = frames[torch.from_numpy(indices)].transpose(1, 2)
                scores = [net(clips[i : i + AT_ONCE]).softmax(1) for i in range(0, len(clips), AT_ONCE)]
                found.append(torch.cat(scores).numpy())
        return found

    return run


def read_pyav(path):
    import av

    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_decord(path):
    import decord

    reader = decord.VideoReader(path)
    return reader.get_batch(range(len(reader))).asnumpy()


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--net", default="r3d_18", choices=["r3d_18", "small"])
    parser.add_argument("--stride", default="")
    args = parser.parse_args(argv)
    sides = {"many": many, "loop": loop}
    if args.net == "r3d_18":
        run = torch_side()
        sides |= {
            "torch, PyAV": functools.partial(run, read_pyav),
            "torch, decord": functools.partial(run, read_decord),
        }
    predictor, times = predictor_of(args.net), {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        clips = [(GOLDEN / "video" / "clips" / name, f"{i}_{name}") for i in range(args.copies) for name in CLIPS]
        paths = [shutil.copy(source, os.path.join(folder, name)) for source, name in clips]
        for name, run in sides.items():
            scores = run(predictor, paths[:1], args.stride)  # compiles
            print(f"{name}: {len(scores[0])} windows of the first file", flush=True)
        for _ in range(args.rounds):
            for name, run in sides.items():
                video.SCANS.clear()
                began, worked = time.perf_counter(), time.process_time()
                run(predictor, paths, args.stride)
                times[name].append((time.perf_counter() - began, time.process_time() - worked))
                print(f"{name:<14} {times[name][-1][0]:7.1f} {times[name][-1][1]:7.1f}", flush=True)
    print(f"{len(paths)} files, load {os.getloadavg()[0]:.1f}; seconds, processor seconds, ratios to many's")
    for name, pairs in times.items():
        ratios = [[x / y for x, y in zip(a, b, strict=True)] for a, b in zip(pairs, times["many"], strict=True)]
        mine = [statistics.median(column) for column in zip(*pairs, strict=True)]
        over = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(f"{name:<14} {mine[0]:7.1f} {mine[1]:7.1f}   x {over[0]:.2f}  x {over[1]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
