"""Milliseconds of the training transforms beside torchvision.transforms.v2: 16 frames of 340x256 to 224, one thread.

    python tests/bench/transforms.py [--rounds 15]

Both start from decoded uint8 frames and draw the same kinds of change; torchvision works on (T, C, H, W) as its video
presets do, its permutation counted. Ours averages areas only where a crop shrinks more than twice. The rounds are
interleaved; medians are printed, and ours / torchvision's.
Needs `pip install torch torchvision` (CPU builds).
"""

import argparse
import statistics
import time

import numpy as np
import torch

from vidjax.data import transforms

for name in ("nms", "qnms"):  # the compiled operators that torchvision's import expects and transforms do not use
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.transforms import v2  # noqa: E402


def rows(video):
    """{name: (ours, torchvision's)}, functions of a generator."""
    size, grey = 224, np.float32(0.2)
    frames = torch.from_numpy(video)
    crop, turn = v2.RandomResizedCrop(size, (0.35, 1.0), antialias=True), v2.RandomHorizontalFlip()
    pairs = {
        "crop, flip": ({}, [crop, turn]),
        "crop without antialias, flip": ({}, [v2.RandomResizedCrop(size, (0.35, 1.0), antialias=False), turn]),
        "crop, flip, jitter": ({"color": 0.4}, [crop, turn, v2.ColorJitter(0.4, 0.4, 0.4)]),
        "crop, flip, jitter, hue, grey": (
            {"color": 0.4, "hue": 0.1, "grey": grey},
            [crop, turn, v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.2)],
        ),
        "crop, flip, RandAugment 2 of 9": (
            {"randaugment": (4, 9)},  # each with chance 1/2, as in timm
            [crop, turn, v2.RandAugment(2, 9)],
        ),
        "crop, flip, rotation, erasing": (
            {"rotate": 10.0, "erase": 0.25},
            [crop, turn, v2.RandomRotation(10, v2.InterpolationMode.BILINEAR), v2.RandomErasing(0.25)],
        ),
    }
    for name, (options, steps) in pairs.items():
        compose = v2.Compose(steps)
        yield (
            name,
            lambda rng, options=options: transforms.augment(video, 0, rng, size=size, **options)[0],
            lambda rng, compose=compose: compose(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous(),
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    video = np.random.default_rng(0).integers(0, 256, (16, 256, 340, 3), np.uint8)
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    for name, *functions in rows(video):
        seconds = [[], []]
        for _ in range(rounds):
            for function, taken in zip(functions, seconds, strict=True):
                began = time.perf_counter()
                out = function(rng)
                taken.append(time.perf_counter() - began)
                assert out.shape == (16, 224, 224, 3)
        ours, theirs = (statistics.median(taken) for taken in seconds)
        print(f"{name:32} ours {ours * 1e3:6.1f} ms, torchvision {theirs * 1e3:6.1f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
