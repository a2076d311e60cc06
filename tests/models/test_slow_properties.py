"""slow: sizes by formula, where time is convolved, errors of its fields."""

import pytest
from flax import traverse_util

from vidjax import models
from vidjax.models import slow


def build(variant, **fields):
    return models.build({"name": "slow", "variant": variant}, **fields)


EXTENTS = {  # temporal extents of the first convolutions of the stages' blocks: pytorchvideo's hub/resnet.py
    "slow_r50": ("111", "1111", "333333", "333"),
    "slow_r101": ("111", "1111", "3" * 23, "333"),
    "c2d_r50": ("111", "1111", "111111", "111"),
    "c2d_nopool_r50": ("111", "1111", "111111", "111"),
    "i3d_r50": ("333", "3131", "313131", "131"),
    "i3d_r101": ("333", "3131", "31" * 11 + "3", "131"),
    "r2plus1d_r50": ("111", "1111", "111111", "111"),
}


def formula(variant, frames, size, classes=400):
    """(parameters, multiply-adds) from the definition alone."""
    factorised, pooled = variant == "r2plus1d_r50", variant in ("c2d_r50", "i3d_r50", "i3d_r101")
    stem = 3 * 64 * 49 * (5 if variant.startswith("i3d") else 1)
    params, macs, t, s, c = stem + 2 * 64, stem * frames * (size // 2) ** 2, frames, size // 4, 64
    s = size // 2 if factorised else s
    for stage, (n, extents) in enumerate(zip((64, 128, 256, 512), EXTENTS[variant], strict=True)):
        for j, extent in enumerate(extents):
            before, temporal = t * s * s, s * s
            if not j:
                t = t // 2 if (factorised and stage > 1) or (pooled and stage == 1) else t
                before = t * s * s if pooled else before
                s = s // 2 if stage or factorised else s
            after = t * s * s
            layers = [(int(extent) * c * n, n, before), (9 * n * n, n, after), (4 * n * n, 4 * n, after)]
            layers += [(3 * n * n, n, t * temporal)] if factorised else []
            layers += [] if j else [(4 * c * n, 4 * n, after)]
            params += sum(weights + 2 * channels for weights, channels, _ in layers)
            macs += sum(weights * positions for weights, _, positions in layers)
            c = 4 * n
    return params + 2049 * classes, macs + 2048 * classes


@pytest.mark.parametrize("variant", EXTENTS)
def test_sizes_by_formula(variant):
    row = slow.SIZES[variant]
    params, macs = formula(variant, *row["input"][:2])
    assert row["params"] == params
    assert abs(row["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize("variant", ["slow_nln_r50", "c2d_nln_r50", "i3d_nln_r50", "i3d_nln_r101"])
def test_sizes_of_nonlocal_blocks(variant):
    """Two blocks of 512 channels and three of 1024, with keys of a quarter of the places."""
    row, plain = slow.SIZES[variant], slow.SIZES[variant.replace("_nln", "")]
    frames, params, macs = 8 if variant == "slow_nln_r50" else 4, 0, 0
    for count, c, s in ((2, 512, 32), (3, 1024, 16)):
        places, keys = frames * s * s, frames * s * s // 4
        params += count * (4 * c * c // 2 + 3 * c // 2 + c + 2 * c)
        macs += count * (c * c // 2 * (2 * places + 2 * keys) + 2 * places * keys * c // 2)
    assert row["params"] == plain["params"] + params
    assert abs(row["gmac"] - plain["gmac"] - macs / 1e9) <= 1e-3 + 1e-9  # both printed to three decimals


@pytest.mark.parametrize(
    ("variant", "millions"), [("slow_r50", 32.45), ("c2d_r50", 24.33), ("i3d_r50", 28.04), ("r2plus1d_r50", 28.11)]
)
def test_published_parameters(variant, millions):
    assert round(slow.SIZES[variant]["params"] / 1e6, 2) == millions  # pytorchvideo's model zoo


def test_published_multiply_adds():
    assert round(slow.SIZES["slow_r50"]["gmac"], 2) == 54.52  # 8 frames, pytorchvideo's model zoo
    assert round(models.macs(build("slow_r50"), (1, 4, 256, 256, 3)) / 1e9, 1) == 27.3  # 4 frames, PySlowFast's
    assert round(slow.SIZES["i3d_nln_r50"]["gmac"], 1) == 48.9  # PySlowFast's


@pytest.mark.parametrize("variant", ["slow_r50", "c2d_r50", "i3d_r50", "r2plus1d_r50", "i3d_r101"])
def test_where_time_is_convolved(variant):
    shapes = traverse_util.flatten_dict(models.shapes(build(variant), (1, 8, 64, 64, 3))["params"], sep="/")
    found = tuple(
        "".join(str(shapes[f"layer{i}_{j}/conv1/conv/kernel"].shape[0]) for j in range(depth))
        for i, depth in enumerate(map(len, EXTENTS[variant]), 1)
    )
    assert found == EXTENTS[variant]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"widths": (4, 8)}, "of one length"),
        ({"core": "3d"}, "not '3d'"),
        ({"nonlocal_after": ((),)}, "nonlocal_after needs"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 2, 8, 8, 3))
