"""Explanations by covering parts of a clip: what falls where the model no longer sees them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

BATCH = 8  # clips at a time


def probability(apply, clips, target, squash=jax.nn.softmax):
    """Each clip's probability of its class: (N, T, H, W, 3), int -> NumPy (N,), a few clips at a time."""
    score, found = _score(apply, squash), []
    for i in range(0, len(clips), BATCH):
        part = clips[i : i + BATCH]
        padded = np.concatenate([part, np.repeat(part[:1], BATCH - len(part), 0)])
        found.append(np.asarray(score(padded, target))[: len(part)])
    return np.concatenate(found)


@functools.lru_cache(maxsize=4)
def _score(apply, squash):
    return jax.jit(lambda x, target: squash(apply(x)[0].astype(jnp.float32))[:, target])


def occlusion(apply, clips, target, box=None, stride=None, squash=jax.nn.softmax):
    """How much the probability falls where a box is covered, mean of all boxes over a pixel.

    `box` (t, h, w) is covered with the clip's mean colour, every `stride` (half of it by default); a side of 0 is the
    whole clip's: (2, 0, 0) covers time alone, (0, 8, 8) space alone. By default a quarter of each side. Zeiler &
    Fergus, ECCV 2014, figure 7. (B, T, H, W, 3), (B,) -> (B, T, H, W).
    """
    sides = np.array(clips.shape[1:4])
    box = np.maximum(sides // 4, 1) if box is None else np.where(np.array(box) > 0, box, sides)
    box = np.minimum(box, sides)
    stride = np.maximum(box // 2, 1) if stride is None else np.array(stride)
    if (stride < 1).any():
        raise ValueError(f"the boxes' stride {tuple(stride)} must be at least 1 on each axis.")
    starts = itertools.product(*(places(n, b, s) for n, b, s in zip(sides, box, stride, strict=True)))
    boxes = [tuple(slice(a, a + b) for a, b in zip(start, box, strict=True)) for start in starts]
    each = zip(np.asarray(clips), target, strict=True)
    return np.stack([_covered(apply, clip, int(wanted), boxes, squash) for clip, wanted in each])


def places(side, box, stride):
    """Where boxes begin on an axis: every `stride`, and one that ends with it."""
    return sorted({*range(0, side - box + 1, stride), side - box})


def frames(apply, clips, target, squash=jax.nn.softmax):
    """How much the probability falls where one frame is covered, alike at its pixels: `occlusion` by (1, 0, 0)."""
    return occlusion(apply, clips, target, (1, 0, 0), (1, 1, 1), squash)


def _covered(apply, clip, target, boxes, squash):
    whole = probability(apply, clip[None], target, squash)[0]
    colour, total, count = clip.mean((0, 1, 2)), np.zeros(clip.shape[:3]), np.zeros(clip.shape[:3])
    for i in range(0, len(boxes), BATCH):
        part = boxes[i : i + BATCH]
        several = np.repeat(clip[None], len(part), 0)
        for one, at in zip(several, part, strict=True):
            one[at] = colour
        for at, left in zip(part, probability(apply, several, target, squash), strict=True):
            total[at] += whole - left
            count[at] += 1
    return (total / np.maximum(count, 1)).astype(np.float32)
