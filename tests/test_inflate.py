"""Inflation: exact values, still videos per layer and in whole nets, what the report says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import backbones, inflate, models
from vidjax.nn import conv3d


def test_kernel():
    weights = np.arange(12, dtype=np.float32).reshape(1, 2, 1, 2, 3)
    five = inflate.kernel(weights, 5)
    assert five.shape == (5, 2, 1, 2, 3)
    assert all((frame == weights[0] / 5).all() for frame in five)
    assert (inflate.kernel(weights[0], 5) == five).all()
    assert (inflate.kernel(weights, 1) == weights).all()
    with pytest.raises(ValueError, match=r"not \(3, 2, 1, 2, 3\)"):
        inflate.kernel(np.zeros((3, 2, 1, 2, 3)), 5)


def test_channels():
    weights = np.random.RandomState(0).rand(1, 2, 2, 3, 4)
    ten = inflate.channels(weights, 10)
    assert ten.shape == (1, 2, 2, 10, 4)
    assert all((ten[..., i, :] == weights.mean(axis=3)).all() for i in range(10))


def test_report():
    like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    source = {
        "conv": {"kernel": np.ones((1, 3, 3, 4, 8)), "bias": np.ones(8)},
        "deep": {"kernel": np.ones((3, 3, 8, 8))},
        "stem": {"kernel": np.full((1, 7, 7, 3, 4), 6.0)},
        "head": {"kernel": np.ones((8, 10))},
        "time": {"kernel": np.ones((2, 1, 1, 8, 8))},
        "mask": np.ones(3),
    }
    target = {
        "conv": {"kernel": like(3, 3, 3, 4, 8), "bias": like(8)},
        "deep": {"kernel": like(1, 3, 3, 8, 8)},
        "stem": {"kernel": like(3, 7, 7, 2, 4)},
        "head": {"kernel": like(8, 5)},
        "time": {"kernel": like(4, 1, 1, 8, 8)},
        "norm": {"scale": like(8)},
    }
    found, report = inflate.inflate(source, target, stem="stem/kernel")
    assert report == {
        "copied": ["conv/bias"],
        "inflated": ["conv/kernel", "deep/kernel", "stem/kernel"],
        "averaged": ["stem/kernel"],
        "misshaped": [
            "head/kernel is (8, 10), needs (8, 5)",
            "time/kernel is (2, 1, 1, 8, 8), needs (4, 1, 1, 8, 8)",
        ],
        "missing": ["norm/scale"],
        "unused": ["mask"],
    }
    assert {key: tree["kernel"].shape for key, tree in found.items()} == {
        "conv": (3, 3, 3, 4, 8),
        "deep": (1, 3, 3, 8, 8),
        "stem": (3, 7, 7, 2, 4),
    }
    assert (found["conv"]["kernel"] == np.float32(1 / 3)).all()
    assert (found["stem"]["kernel"] == 2).all()
    assert found["stem"]["kernel"].dtype == np.float32
    _, refused = inflate.inflate(source, target)
    assert "stem/kernel is (1, 7, 7, 3, 4), needs (3, 7, 7, 2, 4)" in refused["misshaped"]
    assert inflate.describe(report).splitlines() == [
        "1 copied: conv/bias",
        "3 inflated: conv/kernel, deep/kernel, stem/kernel",
        "1 averaged: stem/kernel",
        "2 misshaped: head/kernel is (8, 10), needs (8, 5), time/kernel is (2, 1, 1, 8, 8), needs (4, 1, 1, 8, 8)",
        "1 missing: norm/scale",
        "1 unused: mask",
    ]
    assert inflate.describe(report, most=1).splitlines()[1] == "3 inflated: conv/kernel, and 2 more"


@pytest.mark.parametrize("frames", [2, 3, 7])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
def test_still_video_per_layer(frames, size, stride):
    """Every output that touches no temporal padding is what the 2-D layer gives; with edge padding, every output."""
    rng = np.random.RandomState(frames)
    image = rng.randn(2, 1, 9, 9, 3).astype(np.float32)
    weights = rng.randn(1, size, size, 3, 5).astype(np.float32)
    deep = inflate.kernel(weights, frames)
    flat = conv3d(image, weights, (1, stride, stride))
    lo = (frames - 1) // 2
    spatial = jax.lax.padtype_to_pads((9, 9), (size, size), (stride, stride), "SAME")
    for length in (frames, 11):
        for still in (np.repeat(image, length, 1), np.pad(np.repeat(image, length, 1), _edges(lo, frames), "edge")):
            found = conv3d(still, deep, (1, stride, stride), ((0, 0), *spatial))
            assert found.shape[1] == still.shape[1] - frames + 1
            np.testing.assert_allclose(found, np.repeat(flat, found.shape[1], 1), rtol=1e-5, atol=1e-5)  # sums of 147
    padded = conv3d(np.repeat(image, frames, 1), deep, (1, stride, stride))  # zero padding: the last is not clean
    assert np.abs(padded[:, -1:] - flat).max() > 0.01


def _edges(lo, frames):
    return (0, 0), (lo, frames - 1 - lo), (0, 0), (0, 0), (0, 0)


@pytest.fixture(scope="module")
def pair():
    """A 2-D Inception-v1 with random weights and statistics, and the I3D inflated from it; 32x32 pixels."""
    net, image = backbones.build("inception_v1"), np.random.RandomState(0).randn(1, 1, 32, 32, 3).astype(np.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)
    variables = jax.tree_util.tree_map_with_path(_draw, variables)
    deep = models.build({"name": "i3d", "variant": "rgb", "mean": 0.0, "std": 1.0}, num_classes=0)
    target = models.shapes(deep, (1, 8, 32, 32, 3))
    found, report = inflate.inflate({kind: {"rgb": tree} for kind, tree in variables.items()}, target)
    flat = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
    return image, flat, deep, found, report


def _draw(path, leaf):
    name = jax.tree_util.keystr(path)
    rng = np.random.RandomState(len(name) * 1000 + leaf.shape[-1])
    if leaf.ndim == 1:
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) - ("mean" in name or "bias" in name)
    return (rng.randn(*leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)


def test_report_of_inception(pair):
    *_, report = pair
    assert len(report["inflated"]) == 1 + 1 + 2 * 9  # 7x7x7, 3x3x3, and two in each mixed block
    assert len(report["copied"]) == 57 * 5 - 20
    assert not any(report[kind] for kind in ("averaged", "misshaped", "missing", "unused"))


def run(deep, variables, image, frames):
    _, out = jax.jit(lambda v, x: deep.apply(v, x, train=False))(variables, np.repeat(image, frames, 1))
    return out


def test_still_video_in_i3d(pair):
    """Mixed_5c sees 99 frames: steps 49 frames away from the ends of 208 are the 2-D net's, those at the ends not."""
    image, flat, deep, variables, _ = pair
    out = run(deep, variables, image, 208)
    for name in ("conv_1a", "conv_2c", "mixed_3c", "mixed_4f", "mixed_5c"):
        steps, expected = np.asarray(out[name]), np.asarray(flat[name])
        middle = steps.shape[1] // 2
        scale = np.abs(expected).max()
        near = np.abs(steps[:, middle : middle + 1] - expected).max() / scale
        assert near < 1e-5, name
        assert np.abs(steps[:, :1] - expected).max() / scale > 1e-2
    stride = 208 // steps.shape[1]
    clean = [np.abs(steps[:, i] - expected[:, 0]).max() / scale < 1e-5 for i in range(steps.shape[1])]
    assert sum(clean) == (208 - 2 * 49) // stride + 1 == 14


def test_no_step_of_64_frames_is_clean(pair):
    image, flat, deep, variables, _ = pair
    steps, expected = np.asarray(run(deep, variables, image, 64)["mixed_5c"]), np.asarray(flat["mixed_5c"])
    assert steps.shape[1] == 8
    assert (np.abs(steps - expected).max(axis=(0, 2, 3, 4)) > 1e-4 * np.abs(expected).max()).all()
