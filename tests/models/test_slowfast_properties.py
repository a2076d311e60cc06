"""slowfast: sizes by formula and as published, where time is convolved, what the slow pathway sees, field errors."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from vidjax import models
from vidjax.models import slowfast


def build(variant, **fields):
    return models.build({"name": "slowfast", "variant": variant}, **fields)


SIX = "3" * 6 + "1" * 17
R50 = (("111", "1111", "333333", "333"), ("333", "3333", "333333", "333"))
R101_50 = (("111", "1111", SIX, "333"), ("333", "3333", SIX, "333"))
NETS = {  # PySlowFast's: extents in time of slow and fast, alpha, fusion kernel, non-local blocks by stage, their pool
    "4x16_r50": (R50, 8, 5, {}, 1),
    "8x8_r50": (R50, 4, 7, {}, 1),
    "16x8_r50": (R50, 4, 7, {}, 1),
    "8x8_r101_50_50": (R101_50, 4, 5, {}, 1),
    "8x8_r101_50_101": ((R101_50[0], ("333", "3333", "3" * 23, "333")), 4, 5, {}, 1),
    "8x8_r101_101_101": ((("111", "1111", "3" * 23, "333"), ("333", "3333", "3" * 23, "333")), 4, 5, {}, 1),
    "16x8_r101_50_50": (R101_50, 4, 5, {}, 1),
    "nln_4x16_r50": (R50, 8, 5, {1: 2, 2: 3}, 1),
    "nln_8x8_r50": (R50, 4, 5, {1: 2, 2: 3}, 1),
    "nln_16x8_r101_50_50": (R101_50, 4, 5, {2: 3}, 2),
}


def pathway(extents, frames, size, share, lateral):
    """(parameters, multiply-adds) of a pathway; `lateral` are the channels that it is given for each of its own."""
    stem = 3 * 49 * (5 if share > 1 else 1) * 64 // share
    params, macs, s, c = stem + 2 * 64 // share, stem * frames * (size // 2) ** 2, size // 4, 64 // share
    for stage, kernels in enumerate(extents):
        n, c = 64 * 2**stage // share, c + int(c * lateral)
        for j, kernel in enumerate(kernels):
            before = frames * s * s
            s = s // 2 if stage and not j else s
            after = frames * s * s
            layers = [(int(kernel) * c * n, n, before), (9 * n * n, n, after), (4 * n * n, 4 * n, after)]
            layers += [] if j else [(4 * c * n, 4 * n, after)]
            params += sum(weights + 2 * channels for weights, channels, _ in layers)
            macs += sum(weights * places for weights, _, places in layers)
            c = 4 * n
    return params, macs


def formula(variant, frames, size, classes=400):
    """(parameters, multiply-adds) from the definition alone."""
    extents, alpha, kernel, extra, pool = NETS[variant]
    slow, fast = pathway(extents[0], frames // alpha, size, 1, 0.25), pathway(extents[1], frames, size, 8, 0)
    params, macs = slow[0] + fast[0], slow[1] + fast[1]
    for c, s in ((8, size // 4), (32, size // 4), (64, size // 8), (128, size // 16)):
        params += kernel * 2 * c * c + 4 * c
        macs += kernel * 2 * c * c * frames // alpha * s * s
    for stage, count in extra.items():
        c, places = 256 * 2**stage, frames // alpha * (size // 4 // 2**stage) ** 2
        keys = places // 4 // pool
        params += count * (4 * c * c // 2 + 3 * c // 2 + c + 2 * c)
        macs += count * (c * c // 2 * (2 * places + 2 * keys) + 2 * places * keys * c // 2)
    return params + 2305 * classes, macs + 2304 * classes


@pytest.mark.parametrize("variant", NETS)
def test_sizes_by_formula(variant):
    row = slowfast.SIZES[variant]
    params, macs = formula(variant, *row["input"][:2])
    assert row["params"] == params
    assert abs(row["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("4x16_r50", 34.48), ("8x8_r50", 34.57), ("8x8_r101_101_101", 62.83), ("16x8_r101_50_50", 53.77)],
)
def test_published_parameters(variant, millions):
    assert round(slowfast.SIZES[variant]["params"] / 1e6, 2) == millions  # pytorchvideo's model zoo


@pytest.mark.parametrize(
    ("variant", "billions", "digits"),
    [
        ("4x16_r50", 36.1, 1),
        ("8x8_r50", 65.71, 2),
        ("16x8_r101_50_50", 213, 0),
        ("nln_16x8_r101_50_50", 234, 0),
    ],
)
def test_published_multiply_adds(variant, billions, digits):
    assert round(slowfast.SIZES[variant]["gmac"], digits) == billions  # table 2 of the paper, pytorchvideo's 65.71


@pytest.mark.parametrize("variant", ["8x8_r50", "8x8_r101_50_101"])
def test_where_time_is_convolved(variant):
    shapes = traverse_util.flatten_dict(models.shapes(build(variant), (1, 8, 64, 64, 3))["params"], sep="/")
    for path, extents in zip(slowfast.PATHS, NETS[variant][0], strict=True):
        found = tuple(
            "".join(str(shapes[f"layer{i}_{j}_{path}/conv1/conv/kernel"].shape[0]) for j in range(len(kernels)))
            for i, kernels in enumerate(extents, 1)
        )
        assert found == extents


@pytest.fixture(scope="module")
def small():
    """(activations of the small net on a clip of 8 frames, with the last frame blackened too)."""
    model = build("small", num_classes=3)
    video = np.random.RandomState(0).rand(2, 8, 40, 40, 3).astype(np.float32)

    @jax.jit
    def run(video):
        _, variables = model.init_with_output(jax.random.key(0), video, train=False)
        dark = video.at[:, 7].set(0)
        return [model.apply(variables, x, train=False)[1] for x in (video, dark)]

    return run(video)


def test_the_slow_pathway_sees_every_fourth_frame(small):
    """Frame 7 is not among 0 and 4; what of it arrives comes by the lateral connection of the fast pathway."""
    change = {name: np.abs(small[0][name] - small[1][name]) for name in small[0]}
    assert change["stem_slow"][..., :16].max() == 0
    assert change["stem_slow"][:, 1, :, :, 16:].max() > 0  # five frames around 4, whose stem saw 7
    assert change["stem_fast"][:, 5:].max() > 0 == change["stem_fast"][:, :5].max()


def test_both_pathways_reach_the_head(small):
    assert small[0]["layer3_slow"].shape == (2, 2, 5, 5, 192)
    assert small[0]["layer3_fast"].shape == (2, 8, 5, 5, 48)
    assert small[0]["pre_logits"].shape == (2, 240)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"widths": (4, 8)}, "of one length"),
        ({"slow_sampling": "random"}, "not 'random'"),
        ({"slow_sampling": "linspace"}, "cannot split 6 frames"),
        ({"fusion_kernel": 4}, "must be odd"),
        ({"nonlocal_after": ((), (1,), ())}, "nonlocal_after needs the blocks"),
        ({"nonlocal_kind": "gaussian"}, "not 'gaussian'"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 6, 8, 8, 3))


def test_converted_weights_sample_as_they_were_trained():
    """A bare net of pytorchvideo's is given its frames by others; its published weights saw PySlowFast's."""
    row = models.reference("pytorchvideo", "slowfast_r50")
    assert row["fields"]["slow_sampling"] == "stride"
    assert row["preprocess"]["model"] == {"slow_sampling": "linspace"}
    assert models.for_reference("pyslowfast", "slowfast_8x8_r50", 400).slow_sampling == "linspace"
