"""The device's flow as a function of NumPy arrays that travels to other processes: what `vidjax data flow` stores."""

import numpy as np

from vidjax.flow import estimate

STEP = 16  # pairs; runs are padded to a multiple, so that a few compilations serve videos of any length


def flow(video, *, method="tvl1", **options):
    """Flow of a clip: NumPy uint8 (T, H, W, 3) -> float32 (T - 1, H, W, 2); compiles for each size of picture."""
    pairs = len(video) - 1
    if pairs < 1:
        return np.zeros((0, *video.shape[1:3], 2), np.float32)
    padding = np.repeat(video[-1:], -pairs % STEP, axis=0)
    return np.asarray(estimate(np.concatenate([video, padding]), method, **options))[:pairs]
