"""2-D weights for 3-D nets: kernels repeated in time and divided by their extent; first kernels for other inputs.

Papers: Quo Vadis, Action Recognition? (Carreira & Zisserman, CVPR 2017), section 2.4: a still video then gives what its
frame gave; Temporal Segment Networks (Wang et al., ECCV 2016), section 4.1, for the first kernel of a flow net.
Everything here is a function of nested dicts of arrays; nothing is initialised and nothing is read from disk.
"""

import re

import numpy as np
from flax import traverse_util

KINDS = ("copied", "inflated", "averaged", "misshaped", "missing", "unused")


def kernel(weights, frames):
    """A 2-D kernel (1, h, w, I, O) or (h, w, I, O) as one of `frames` frames, (frames, h, w, I, O), of the same sum."""
    weights = np.asarray(weights)
    weights = weights if weights.ndim == 5 else weights[None]
    if weights.ndim != 5 or weights.shape[0] != 1:
        raise ValueError(f"Only kernels (1, h, w, I, O) or (h, w, I, O) can be inflated, not {weights.shape}.")
    return np.repeat(weights / frames, frames, axis=0)


def channels(weights, count):
    """A first kernel (..., I, O) for `count` input channels: its mean over I in each of them, as TSN's flow net has it.

    RGB gives 2L channels of flow this way; a grey image then gives what the same image in `count` channels gives,
    up to the factor count / I.
    """
    return np.repeat(np.asarray(weights).mean(axis=-2, keepdims=True), count, axis=-2)


def inflate(source, target, stem="(?!)"):
    """Variables of a 2-D net for a 3-D one: -> (those leaves of `target` that `source` gives, report).

    `source`: nested dict of arrays; `target`: nested ShapeDtypeStructs, whose paths must be the same. Leaves of equal
    shape are copied, 2-D kernels inflated, and kernels whose path fully matches `stem` may change their number of
    input channels too. The report is {what was done: sorted paths}: `copied`, `inflated`, `averaged` (channels),
    `misshaped` (with both shapes), `missing` in `source`, `unused` by `target`.
    """
    given, wanted = (traverse_util.flatten_dict(tree, sep="/") for tree in (source, target))
    report = {kind: [] for kind in KINDS}
    report["missing"] = sorted(wanted.keys() - given.keys())
    report["unused"] = sorted(given.keys() - wanted.keys())
    filled = {}
    for path in sorted(wanted.keys() & given.keys()):
        kinds, value = fit(np.asarray(given[path]), wanted[path].shape, averaged=bool(re.fullmatch(stem, path)))
        if value is None:
            report["misshaped"].append(f"{path} is {given[path].shape}, needs {wanted[path].shape}")
            continue
        filled[path] = np.asarray(value, wanted[path].dtype)
        for kind in kinds:
            report[kind].append(path)
    return traverse_util.unflatten_dict(filled, sep="/"), report


def describe(report, most=8):
    """The report in words, one line for each kind that occurs, at most so many paths each."""
    lines = []
    for kind in KINDS:
        paths = report[kind]
        more = f", and {len(paths) - most} more" if len(paths) > most else ""
        lines += [f"{len(paths)} {kind}: {', '.join(paths[:most])}{more}"] if paths else []
    return "\n".join(lines)


def fit(value, shape, inflated=True, averaged=False):
    """(what was done, the value in `shape`) or ((), None): copied, a 2-D kernel `inflated`, its channels `averaged`."""
    if value.shape == shape:
        return ("copied",), value
    if len(shape) != 5 or value.ndim not in (4, 5):
        return (), None
    kinds = ()
    if averaged and value.shape[-2] != shape[-2]:
        kinds, value = ("averaged",), channels(value, shape[-2])
    frames = 1 if value.ndim == 4 else value.shape[0]
    if inflated and frames == 1 and value.shape != shape:
        kinds, value = (*kinds, "inflated"), kernel(value, shape[0])
    return (kinds, value) if value.shape == shape else ((), None)
