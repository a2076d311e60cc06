"""Nets of VMZ in Caffe2 (R(2+1)D, R3D, CSN): their blobs under the names of VMZ's own PyTorch nets."""

import re

PARTS = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
SOLVER = re.compile(r".*_momentum|lr|optimizer_iteration.*|epoch.*")  # what a trainer's pickle holds besides


def in_pytorch(tensors, depths):
    """Blobs of a net of `depths` blocks a stage as {PyTorch's name: array}; tensors named so already stay as they are.

    Blocks are numbered through all stages, their convolutions from 1 with gaps; `_middle` is what comes first of two:
    the convolution in space of (2+1)D (1, k, k), or the 1x1x1 one of an interaction-preserved CSN.
    """
    if not any(name.startswith("last_out_L") for name in tensors):
        return tensors
    places = [f"layer{i}.{j}" for i, depth in enumerate(depths, 1) for j in range(depth)]
    numbers = {}  # of a block's convolutions
    for name in tensors:
        if match := re.fullmatch(r"comp_(\d+)_conv_(\d+)_w", name):
            numbers.setdefault(int(match[1]), set()).add(int(match[2]))
    found = {}
    for name, x in tensors.items():
        if SOLVER.fullmatch(name):
            continue
        layer, _, part = name.rpartition("_")
        renamed = _layer(layer, x, tensors, places, numbers)
        if renamed is None or part not in PARTS:
            found[name] = x  # a name that no rule matches, which the conversion reports
        else:
            found[f"{renamed}.{PARTS[part]}"] = x.reshape(x.shape[:2]) if renamed == "fc" and part == "w" else x
    return found


def _layer(name, x, tensors, places, numbers):
    """PyTorch's name of a layer, or None of one that no net of VMZ has."""
    split = "conv1_middle_w" in tensors
    stem = {"conv1_middle": 0, "conv1_middle_spatbn_relu": 1, "conv1": 3 * split, "conv1_spatbn_relu": 3 * split + 1}
    if name in stem:
        return f"stem.{stem[name]}"
    if name.startswith("last_out_L"):
        return "fc"
    match = re.fullmatch(r"(comp|shortcut_projection)_(\d+)(?:_(conv|spatbn))?(?:_(\d+))?(_middle)?", name)
    if not match or int(match[2]) >= len(places):
        return None
    kind, block, what, number, middle = match[1], int(match[2]), match[3], match[4], match[5]
    if kind == "shortcut_projection":
        return f"{places[block]}.downsample.{int(what == 'spatbn')}"
    if number is None or int(number) not in numbers.get(block, ()):
        return None
    conv = f"{places[block]}.conv{sorted(numbers[block]).index(int(number)) + 1}"
    first = tensors.get(f"comp_{block}_conv_{number}_middle_w")
    if middle:
        return f"{conv}.0.{int(what == 'spatbn')}"
    if what == "spatbn":
        return f"{conv}.1"
    if first is None:
        return f"{conv}.0"
    return f"{conv}.0.{2 if max(first.shape[2:]) == 1 else 3}"  # a ReLU lies between the two of (2+1)D
