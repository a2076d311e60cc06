"""Fusion of two streams: the paper's parameter counts, ways to fuse in NumPy, and what fusing place by place means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vidjax import models
from vidjax.models import two_stream_fusion

M = 1e6


def build(variant="small", classes=3, **fields):
    return models.build({"name": "two_stream_fusion", "variant": variant, **fields}, num_classes=classes)


def clips(frames=2, size=16, flow=4):
    rng = np.random.RandomState(0)
    shapes = {"rgb": (2, frames, size, size, 3), "flow": (2, frames, size, size, flow)}
    return {key: rng.rand(*shape).astype(np.float32) for key, shape in shapes.items()}


def drawn(model, video):
    """Random variables of a net; those of one axis, among them variances, are positive."""
    rng, shapes = (
        np.random.RandomState(1),
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), video),
    )
    draw = lambda s: rng.uniform(0.1, 0.4, s.shape) if len(s.shape) == 1 else 0.2 * rng.randn(*s.shape)  # noqa: E731
    return jax.tree.map(lambda s: draw(s).astype(np.float32), shapes)


def run(model, variables, video):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)


def with_fusion(variables, kernel, layer="conv3"):
    """Variables that have a fusion kernel besides."""
    fusion = {"kernel": np.float32(kernel), "bias": np.zeros(kernel.shape[-1], np.float32)}
    return variables | {"params": variables["params"] | {f"fusion_{layer}": fusion}}


def count(variant, classes=101, **fields):
    """Parameters where the first layer of both towers sees 20 channels, as the paper counts."""
    model = build(variant, classes, mean=0.0, std=1.0, **fields)
    return models.parameters(model, {"rgb": (1, 1, 224, 224, 20), "flow": (1, 1, 224, 224, 20)})


SAVED = 512 * 512  # weights of a fusion that the paper counts as D to D instead of 2 D to D


@pytest.mark.parametrize(
    ("published", "counted"),
    [
        (97.31, lambda: count("vgg_m_sum")),
        (97.31, lambda: count("vgg_m_max")),
        (172.81, lambda: count("vgg_m_concat")),
        (97.58, lambda: count("vgg_m_conv") - SAVED),
        (97.57, lambda: count("vgg_m_conv") - SAVED),
        (181.42, lambda: count("vgg_m_late")),
        (95.48, lambda: count("vgg_m_conv", at=("conv4",))),
        (181.68, lambda: count("vgg_m_conv_fc8") - SAVED),
        (6.61, lambda: count("vgg_m_bilinear", classes=0) / 2),  # one tower's convolutions; an SVM classifies
    ],
)
def test_the_papers_counts(published, counted):
    assert abs(counted() / M - published) < 0.01  # two decimals, some rounded and some cut off


def test_counts_that_do_not_come_out():
    """The paper's depths ReLU2 and ReLU3 and its three-layer fusion fit no way of counting that we found."""
    found = {at: count("vgg_m_conv", at=at) / M for at in (("conv2",), ("conv3",), ("conv3", "conv5", "fc6"))}
    assert {at: round(n, 2) for at, n in found.items()} == {
        ("conv2",): 91.55,  # 91.90 in table 2
        ("conv3",): 93.12,  # 93.08
        ("conv3", "conv5", "fc6"): 207.43,  # 190.06; with D to D in all three 190.12
    }


@pytest.mark.parametrize(("kernel", "taps"), [((1, 1, 1), "centre"), ((3, 3, 3), "centre")])
def test_identity_convolution_is_sum(kernel, taps):
    video, total, conv = clips(), build(op="sum"), build(kernel=kernel, taps=taps)
    variables = drawn(total, video)
    first = jax.eval_shape(lambda x: conv.init(jax.random.key(0), x, train=False), video)["params"]["fusion_conv3"]
    init = two_stream_fusion.summing(conv.weights, taps)(None, first["kernel"].shape)
    expected, plain = run(total, variables, video)
    logits, out = run(conv, with_fusion(variables, np.asarray(init)), video)
    np.testing.assert_allclose(out["fusion_conv3"], plain["fusion_conv3"], rtol=1e-6)  # adds zeros in another order
    np.testing.assert_allclose(logits, expected, rtol=1e-5)  # likewise
    assert np.abs(expected).max() > 1e-3


def test_the_first_kernel_is_the_identity():
    model, video = build(), clips()
    kernel = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False)["params"]["fusion_conv3"]["kernel"])(video)
    np.testing.assert_array_equal(kernel[0, 0, 0], np.concatenate([np.eye(48), np.eye(48)]))


def test_gaussian_taps_as_published():
    """conv3Df of twostreamfusion's cnn_ucf101_fusion.m: a quarter and three quarters under a Gaussian of sigma 1."""
    found = np.asarray(two_stream_fusion.summing((0.25, 0.75), "gaussian")(None, (3, 3, 3, 4, 2)))
    x, y, z = np.mgrid[-1:2, -1:2, -1:2]
    bell = np.exp(-(x**2 + y**2 + z**2) / 2)
    bell /= bell.sum()
    for i, j in np.ndindex(4, 2):
        np.testing.assert_allclose(found[..., i, j], (i % 2 == j) * (0.25, 0.75)[i // 2] * bell, rtol=1e-6)  # float32
    np.testing.assert_allclose(found.sum((0, 1, 2, 3)), 1, rtol=1e-6)  # float32


def test_shuffled_channels_are_relabelled():
    """The temporal tower's channels in another order, and the fusion kernel's rows with them, change nothing."""
    model, video = build(), clips()
    variables, order = drawn(model, video), np.random.RandomState(2).permutation(48)
    logits, _ = run(model, variables, video)
    shuffled = jax.tree.map(np.copy, variables)
    tower = shuffled["params"]["temporal"]
    tower["conv3"]["kernel"] = tower["conv3"]["kernel"][..., order]
    shuffled["params"]["temporal"]["conv3"]["bias"] = tower["conv3"]["bias"][order]
    for tree in (tower["bn3"], shuffled["batch_stats"]["temporal"]["bn3"]):
        tree.update({name: value[order] for name, value in tree.items()})
    mixed, _ = run(model, shuffled, video)
    assert np.abs(np.asarray(mixed) - logits).max() > 1e-2 * np.abs(logits).max()
    kernel = shuffled["params"]["fusion_conv3"]["kernel"]
    kernel[..., 48:, :] = kernel[..., 48 + order, :]
    relabelled, _ = run(model, shuffled, video)
    np.testing.assert_allclose(relabelled, logits, rtol=1e-5)  # order of a sum


@pytest.mark.parametrize("op", ["sum", "max", "concat", "conv"])
def test_fusion_moves_with_both_streams(op):
    """A joint shift by 4 pixels shifts fused maps by one place; a shift of one stream alone changes them."""
    model, video = build(op=op), clips(frames=1, size=40)
    variables = drawn(model, video)
    moved = {key: np.roll(x, (4, 4), (2, 3)) for key, x in video.items()}
    still, joint, apart = (
        np.asarray(run(model, variables, x)[1]["fusion_conv3"]) for x in (video, moved, video | {"flow": moved["flow"]})
    )
    inside = (slice(None), slice(None), slice(3, 8), slice(3, 8))  # out of the padding's reach
    before = (slice(None), slice(None), slice(2, 7), slice(2, 7))
    np.testing.assert_allclose(joint[inside], still[before], rtol=1e-4)  # another place in the compiled convolution
    assert np.abs(apart[inside] - still[before]).max() > 0.01 * np.abs(still).max()
    assert np.abs(apart[inside] - still[inside]).max() > 0.01 * np.abs(still).max()


def test_ways_to_fuse():
    rng = np.random.RandomState(0)
    x, y = rng.randn(2, 2, 3, 4, 4, 6).astype(np.float32)
    found = {op: np.asarray(build(op=op).fuse(x, y, "fusion")) for op in ("sum", "max", "concat", "bilinear")}
    np.testing.assert_array_equal(found["sum"], x + y)
    np.testing.assert_array_equal(found["max"], np.maximum(x, y))
    np.testing.assert_array_equal(found["concat"][..., ::2], x)
    np.testing.assert_array_equal(found["concat"][..., 1::2], y)
    outer = np.zeros((2, 3, 6, 6))
    for i, j in np.ndindex(4, 4):
        outer += x[:, :, i, j, :, None] * np.float64(y[:, :, i, j, None, :])
    outer = outer.reshape(2, 3, 36)
    expected = outer / np.linalg.norm(outer, axis=-1, keepdims=True)
    np.testing.assert_allclose(found["bilinear"], expected, atol=1e-6)  # float32 sums of numbers near 1


def test_smaller_maps_are_padded():
    x, y = np.ones((1, 1, 3, 3, 2), np.float32), np.ones((1, 1, 2, 2, 2), np.float32)
    total = np.asarray(build(op="sum").fuse(x, y, "fusion"))[0, 0, :, :, 0]
    np.testing.assert_array_equal(total, [[2, 2, 1], [2, 2, 1], [1, 1, 1]])


def shapes(variant, frames, **fields):
    model = build(variant, 101, **fields)
    video = {"rgb": (1, frames, 224, 224, 3), "flow": (1, frames, 224, 224, 20)}
    video = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in video.items()}
    (_, out), variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), video)
    return {name: value.shape[1:] for name, value in out.items()}, variables["params"]


def test_the_final_nets():
    out, params = shapes("vgg16_vgg_m", 5)
    assert params["fusion_conv5"]["kernel"].shape == (3, 3, 3, 1024, 512)
    assert out["spatial/conv5_3"] == (5, 14, 14, 512)
    assert out["temporal/conv5"] == (5, 13, 13, 512)
    assert out["fusion_conv5"] == (5, 14, 14, 512)
    assert (out["spatial/pool5"], out["temporal/pool5"]) == ((1, 7, 7, 512), (1, 6, 6, 512))
    assert (out["spatial/pool4"], out["temporal/pool2"]) == ((5, 14, 14, 512), (5, 13, 13, 256))
    assert (out["aux_logits/spatial"], out["aux_logits/temporal"]) == ((101,), (101,))
    assert "fc7" in params["temporal"]
    one, params = shapes("vgg16_vgg_m", 5, keep_temporal=False)
    assert "fc6" not in params["temporal"]
    assert "aux_logits/spatial" not in one


def test_fusion_of_vectors():
    out, params = shapes("vgg_m_conv_fc6", 1)
    assert params["fusion_fc6"]["kernel"].shape == (1, 1, 1, 8192, 4096)
    assert out["fusion_fc6"] == (1, 4096)
    assert "fc7" not in params["temporal"]


def test_predictions_of_both_towers_are_averaged():
    model, video = build(keep_temporal=True), clips()
    logits, out = run(model, drawn(model, video), video)
    mean = np.mean([special.softmax(np.float64(out[f"{s}_logits"]), -1) for s in ("spatial", "temporal")], 0)
    np.testing.assert_allclose(special.softmax(np.float64(logits), -1), mean, rtol=1e-5)  # float32 logarithms
    np.testing.assert_array_equal(out["aux_logits/temporal"], out["temporal_logits"])


def test_late_fusion_is_two_stream():
    """The same variables, so that a trained two_stream net starts a fused one."""
    late, video = build("small_late"), clips()
    variables = drawn(late, video)
    plain = models.build({"name": "two_stream", "variant": "small"}, num_classes=3)
    logits, _ = run(late, variables, video)
    expected, _ = run(plain, variables, video)
    np.testing.assert_array_equal(logits, expected)


def test_time_is_pooled_last():
    model, video = build(pool_frames=3, at=("conv1",)), clips(frames=6)
    _, out = run(model, drawn(model, video), video)
    assert out["spatial/pool1"].shape[1:4] == (6, 8, 8)
    assert out["spatial/pool2"].shape[1:4] == (2, 4, 4)
    whole = np.asarray(out["spatial/conv2"]).reshape(2, 6, 4, 2, 4, 2, 32).max((3, 5))
    np.testing.assert_array_equal(out["spatial/pool2"], np.stack([whole[:, :3].max(1), whole[:, 2:5].max(1)], 1))


@pytest.mark.parametrize(
    ("fields", "keys", "sentence"),
    [
        ({"op": "product"}, ("rgb", "flow"), "one of sum, max, concat, conv, bilinear, not 'product'"),
        ({"taps": "random"}, ("rgb", "flow"), "'centre' or 'gaussian', not 'random'"),
        ({"op": "bilinear", "at": ("conv1", "conv2")}, ("rgb", "flow"), "name one layer in the field at"),
        ({"at": ("conv9",)}, ("rgb", "flow"), "no layer 'conv9'"),
        ({"temporal": "vgg16", "at": ("conv3",)}, ("rgb", "flow"), "cannot fuse maps of 4x4 and 10x10"),
        ({}, ("rgb",), "needs the input 'flow'"),
    ],
)
def test_errors(fields, keys, sentence):
    video = {key: x.shape for key, x in clips(size=40).items() if key in keys}
    video = {key: (*s[:2], 16, 16, s[4]) if key == "flow" and "temporal" in fields else s for key, s in video.items()}
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(**fields), video)


def test_a_stack_for_each_frame():
    with pytest.raises(ValueError, match="a stack of flow for each frame, not 3 for 2"):
        models.shapes(build(), {"rgb": (1, 2, 16, 16, 3), "flow": (1, 3, 16, 16, 2)})
