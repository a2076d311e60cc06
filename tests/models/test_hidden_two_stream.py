"""hidden_two_stream against the released prototxt: what joins its two nets, the whole net, the losses, the sizes."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import convert, models
from vidjax.backbones import vgg
from vidjax.models import hidden_two_stream, motionnet
from vidjax.nn import lowering


def build(variant="small", **fields):
    return models.build({"name": "hidden_two_stream", "variant": variant}, **fields)


@pytest.fixture
def narrow(monkeypatch):
    """Both nets with a sixteenth of their widths."""
    thin = lambda row, *keys: row | {key: tuple(n // 16 for n in row[key]) for key in keys}  # noqa: E731
    monkeypatch.setitem(motionnet.VARIANTS, "full", thin(motionnet.VARIANTS["full"], "widths", "up"))
    monkeypatch.setitem(vgg.VARIANTS, "vgg16", thin(vgg.VARIANTS["vgg16"], "widths") | {"fc": (256, 256)})


def vgg16(channels, classes, size):
    """(parameters, multiply-adds) of VGG-16 by its table."""
    totals, c = np.zeros(2, np.int64), channels
    for depth, n in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            totals += [9 * c * n + n, 9 * c * n * size * size]
            c = n
        size //= 2
    c *= size * size
    for n in (4096, 4096, classes):
        totals += [c * n + n, c * n]
        c = n
    return totals


@pytest.mark.parametrize("variant", ["full", "tiny"])
def test_sizes_by_formula(variant):
    row, flow = hidden_two_stream.SIZES[variant], motionnet.SIZES[variant]
    params, macs = vgg16(20, 101, 224)
    assert params + flow["params"] == row["params"]
    assert abs(macs / 1e9 + flow["gmac"] - row["gmac"]) <= 2e-3  # three figures, each printed to three decimals
    assert params == 138_357_544 + 17 * 9 * 64 - 899 * 4097  # [P] VGG-16: 20 channels for 3, 101 classes for 1000


def stored(predicted, size):
    """The prototxt's layers between `predict_flow2` (h, w, 20) and the temporal stream, one after another."""
    x = predicted.astype(np.float64) * 20
    x = np.maximum(x + 20, 0)
    x = np.maximum(40 - x, 0)
    x = 20 - x
    x = (x + 20) * 6.375
    h, w, c = x.shape
    wide = np.zeros((2 * h + 2, 2 * w + 2, c))
    for i, j, k, m in np.ndindex(h, w, 4, 4):  # a transposed 4 x 4 convolution of stride 2 and padding 1
        wide[2 * i + k, 2 * j + m] += x[i, j] * (0.25, 0.75, 0.75, 0.25)[k] * (0.25, 0.75, 0.75, 0.25)[m]
    return wide[1:-1, 1:-1][: size[0], : size[1]] - 128


@pytest.mark.parametrize("size", [(12, 16), (11, 15)])
def test_flow_is_clipped_and_scaled_as_stored_flow_is(size):
    predicted = np.random.default_rng(0).normal(0, 1, (2, 6, 8, 6))
    predicted[..., 2], predicted[..., 5] = 5, -1.5  # 100 pixels and -30
    flow = motionnet._pixels(jnp.asarray(predicted, jnp.float32), 2)
    found = np.asarray(hidden_two_stream.as_stored(flow, 20.0, size))
    for x, expected in zip(found, predicted, strict=True):
        np.testing.assert_allclose(x, stored(expected, size), atol=1e-3)  # of 255, float32
    inner = found[:, 1:-2, 1:-2]
    np.testing.assert_array_equal(inner[..., 2], np.full(inner.shape[:3], 127))
    np.testing.assert_array_equal(inner[..., 5], np.full(inner.shape[:3], -128))
    grad = jax.grad(lambda f: hidden_two_stream.as_stored(f, 20.0, size).sum())(flow)
    np.testing.assert_array_equal(np.asarray(grad) != 0, np.abs(2 * np.asarray(flow)) < 20)


def caffe():
    """The released net's blobs with a sixteenth of its widths and five classes, each drawn from its name."""
    shapes, widths = {}, (4, 8, 16, 32, 32, 64)
    for i, (c, n) in enumerate(zip((33, *widths), widths, strict=False), 1):
        shapes |= {f"conv{i}": (n, c, 3, 3), f"conv{i}_1": (n, n, 3, 3)}
    shapes["conv_pr6"], c = (20, 64, 3, 3), 64
    for level, n in zip((5, 4, 3, 2), (32, 16, 8, 4), strict=True):
        shapes |= {f"deconv{level}": (c, n, 4, 4), f"upsample_flow{level + 1}to{level}": (20, 20, 4, 4)}
        shapes[f"smooth_conv{level}"] = (n, widths[level - 1] + n + 20, 3, 3)
        shapes[f"conv_pr{level}"], c = (20, n, 3, 3), n
    c = 20
    for stage, (depth, n) in enumerate(zip((2, 2, 3, 3, 3), (4, 8, 16, 32, 32), strict=True), 1):
        for j in range(1, depth + 1):
            shapes[f"conv{stage}_{j}_vgg16"], c = (n, c, 3, 3), n
    shapes |= {"fc6_vgg16": (256, 1568), "fc7_vgg16": (256, 256), "fc8_vgg16": (5, 256)}
    tensors = {name: np.ones(20, np.float32) for name in ("predict_flow2_scale20/0", "boudary_1/0", "FlowScale6_0/0")}
    for layer, shape in shapes.items():
        bias = shape[1:2] if layer.startswith(("deconv", "upsample")) else shape[:1]
        for blob, (size, scale) in enumerate(((shape, np.sqrt(2 / np.prod(shape[1:]))), (bias, 0.1))):
            rng = np.random.RandomState(zlib.crc32(f"{layer}/{blob}".encode()))
            tensors[f"{layer}/{blob}"] = (rng.randn(*size) * scale).astype(np.float32)
    return tensors


def test_the_released_net(narrow):
    """Logits of stack_motionnet_vgg16_deploy.prototxt, its layers run in PyTorch in float64 with the same blobs."""
    tensors = caffe()
    variables = convert.from_reference("hidden_two_stream", "stack_motionnet_vgg16", tensors)
    model = models.for_reference("hidden_two_stream", "stack_motionnet_vgg16", 5)
    video = np.random.RandomState(0).rand(2, 11, 224, 224, 3).astype(np.float32)
    with lowering("native"):  # compiles faster
        logits = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, video)
    expected = np.array([
        [44.94621863, 111.48479982, -54.26046684, -23.99316033, -78.57792642],
        [-6.53754774, 87.53983968, -36.7410466, -8.80813006, -76.15265394],
    ])  # fmt: skip
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_its_table_runs_both_ways(narrow):
    tensors = caffe()
    for rule in (hidden_two_stream.FIRST, hidden_two_stream.FC6, hidden_two_stream.DECONV):
        name = {4: "conv1/0", 2: "fc6_vgg16/0"}[rule[0]] if rule is not hidden_two_stream.DECONV else "deconv5/0"
        np.testing.assert_array_equal(rule[2](rule[1](tensors[name])), tensors[name])


@pytest.fixture(scope="module")
def trained():
    """The small net on two clips in training: (model, variables, video, outputs, gradients of two of its losses)."""
    model = build(num_classes=3)
    video = np.random.default_rng(0).random((2, 8, 24, 24, 3), np.float32)
    rng, shapes = np.random.default_rng(0), models.shapes(model, video.shape)

    def draw(path, leaf):
        if len(leaf.shape) > 1:
            return np.float32(rng.normal(0, 0.05, leaf.shape))
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)

    @jax.jit
    def run(variables):
        def values(params):
            tree = variables | {"params": params}
            (logits, out), _ = model.apply(tree, video, train=True, mutable=["batch_stats"])
            return {"main": logits[:, 0].sum(), "photometric": out["loss/photometric"].sum()}, out

        found, back, out = jax.vjp(values, variables["params"], has_aux=True)
        return out, {name: back({key: jnp.float32(key == name) for key in found})[0] for name in found}

    with lowering("native"):  # compiles faster
        return model, variables, video, *run(variables)


def test_labels_and_photometry_teach_the_same_net(trained):
    *_, out, grads = trained
    losses = {key: value.shape for key, value in out.items() if key.startswith("loss/")}
    assert losses == dict.fromkeys(("loss/photometric", "loss/smoothness", "loss/ssim"), (2,))
    touched = lambda tree: {part for part in tree if any(map(np.any, jax.tree.leaves(tree[part])))}  # noqa: E731
    moved = {name: touched(tree) for name, tree in grads.items()}
    assert moved == {"main": {"motionnet", "temporal", "head"}, "photometric": {"motionnet"}}


def test_the_losses_are_motionnets_and_only_of_training(trained):
    model, variables, video, out, _ = trained
    motion = hidden_two_stream.flow_net(model, parent=None)
    assert (model.mean, motion.frames) == (motionnet.MEAN, 8)

    @jax.jit
    def alone(params):
        flow, found = motion.apply({"params": params}, video, train=False)
        return flow, motionnet.losses(motion, video, found)

    with lowering("native"):
        flow, losses = alone(variables["params"]["motionnet"])
    assert flow.shape == (2, 7, 24, 24, 2)
    for name, value in losses.items():
        np.testing.assert_allclose(out[f"loss/{name}"], value, rtol=1e-4)  # compiled apart, powers below a half
    _, out = jax.eval_shape(functools.partial(model.apply, train=False), variables, video)
    assert not [key for key in out if key.startswith("loss/")]
    assert out["motion"].shape == (2, 24, 24, 14)


def test_another_number_of_frames():
    with pytest.raises(ValueError, match="clips of 8 frames, not 11"):
        models.shapes(build(), (1, 11, 40, 40, 3))
