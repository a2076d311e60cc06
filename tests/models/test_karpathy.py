"""karpathy: the layer table, streams and fusions of the paper against NumPy, sizes by formula, errors that help."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import karpathy
from vidjax.nn import lowering

TINY = {"widths": (3, 4, 5, 4, 3), "hidden": (6, 7), "num_classes": 4, "mean": 0.45, "std": 0.02, "dropout": 0.0}


def build(variant, **fields):
    return models.build({"name": "karpathy", "variant": variant}, **fields)


def variables(model, video, seed=0):
    """Random ones of a size that keeps activations near 1, biases included."""
    rng = np.random.RandomState(seed)

    def draw(leaf):
        scale = 0.1 if len(leaf.shape) == 1 else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (scale * rng.randn(*leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, models.shapes(model, video.shape))


def random_video(*shape):
    return np.random.RandomState(1).rand(*shape, 3).astype(np.float32)


def convolved(x, kernel, bias, strides):
    """SAME in space, VALID in time, one tap at a time: (B, T, H, W, C) -> (B, T', H', W', F)."""
    t, k, _ = kernel.shape[:3]
    out = [(x.shape[1] - t) // strides[0] + 1] + [-(-n // s) for n, s in zip(x.shape[2:4], strides[1:], strict=True)]
    total = [max((n - 1) * s + k - m, 0) for n, m, s in zip(out[1:], x.shape[2:4], strides[1:], strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)])
    y = np.zeros((len(x), *out, kernel.shape[-1])) + bias
    for tap in np.ndindex(*kernel.shape[:3]):
        where = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(tap, out, strides, strict=True)]
        y += x[(slice(None), *where)] @ kernel[tap]
    return y


def response_norm(x):
    """b = a / (2 + 1e-4 * sum over five channels of a^2) ^ 0.5, section 3.1."""
    padded = np.pad(np.square(x), [(0, 0)] * 4 + [(2, 2)])
    return x / (2 + 1e-4 * sum(padded[..., i : i + x.shape[-1]] for i in range(5))) ** 0.5


def pooled(x):
    b, t, h, w, c = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(b, t, h // 2, 2, w // 2, 2, c).max((3, 5))


def reference(model, params, video):
    """Logits by the table of section 3.1 and figures 1 and 2."""
    x = (video.astype(np.float64) - 0.45) / 0.02
    streams, last = {"whole": x}, (1, 2, 5)
    if model.multires:
        h, w = x.shape[2:4]
        halved = sum(x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        streams = {"context": halved, "fovea": x[:, :, h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2]}
        last = (1, 2)
    merged = []
    for name, x in streams.items():
        for i, (stride, time_stride) in enumerate(zip((3, 1, 1, 1, 1), model.time_strides, strict=True), 1):
            layer = params[name][f"conv{i}"]
            x = np.maximum(convolved(x, layer["kernel"], layer["bias"], (time_stride, stride, stride)), 0)
            x = response_norm(x) if i < 3 else x
            x = pooled(x) if i in last else x
        merged.append(x.reshape(len(x), -1))
    x = np.concatenate(merged, axis=1)
    for name in ("fc6", "fc7", "head"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == "head" else np.maximum(x, 0)
    return x


@pytest.mark.parametrize("variant", ["single", "early", "late", "slow", "single_multires", "slow_multires"])
def test_numpy(variant):
    model = build(variant, **TINY)
    video = random_video(2, model.frames, 50, 54)
    weights = variables(model, video)
    with lowering("native"):  # compiles faster
        logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(weights, video)
    expected = reference(model, weights["params"], video)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_pinned_step():
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video = build("slow_multires", **TINY), random_video(3, 10, 50, 54)
    weights = variables(model, video)["params"]

    def loss(params):
        logits, _ = model.apply({"params": params}, video, train=True, rngs={"dropout": jax.random.key(0)})
        return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()

    @jax.jit
    def step(params):
        return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))

    with lowering("native"):  # compiles faster
        assert float(step(weights)) == pytest.approx(1.32009443, rel=1e-5)


def formula(row, frames, size, classes):
    """(parameters, multiply-adds) of a variant from the paper's definition alone."""
    streams, size = (2, size // 2) if row.get("multires") else (1, size)
    params = macs = 0
    channels, once = 3, (1,) * 5
    widths, kernels = row.get("widths", (96, 256, 384, 384, 256)), row.get("kernels", (11, 5, 3, 3, 3))
    strides, extents = row.get("strides", (3, 1, 1, 1, 1)), row.get("extents", once)
    shapes = zip(widths, kernels, strides, extents, row.get("time_strides", once), strict=True)
    for i, (width, k, stride, extent, time_stride) in enumerate(shapes):
        size, frames = -(-size // stride), (frames - extent) // time_stride + 1
        weights = extent * k * k * channels * width
        params += streams * (weights + width * (3 if row.get("norm") == "batch" else 1))
        macs += streams * weights * frames * size * size
        size = size // 2 if i in (0, 1) or (i == 4 and streams == 1) else size
        channels = width
    features = streams * frames * size * size * channels
    for width in (*row.get("hidden", (4096, 4096)), classes):
        params, macs, features = params + (features + 1) * width, macs + features * width, width
    return params, macs


@pytest.mark.parametrize("variant", karpathy.VARIANTS)
def test_sizes_by_formula(variant):
    row = karpathy.SIZES[variant]
    params, macs = formula(karpathy.VARIANTS[variant], *row["input"][:2], row["classes"])
    assert params == row["params"]
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals


def test_two_streams_cost_less_and_hold_more():
    """Half the size halves the work; the parameters grow, against what the seeds say (lineage A.8)."""
    plain, double = karpathy.SIZES["single"], karpathy.SIZES["single_multires"]
    assert (plain["params"], double["params"]) == (73_908_071, 129_035_495)
    assert (plain["gmac"], double["gmac"]) == (1.272, 0.764)


def activations(variant):
    model, row = build(variant), karpathy.SIZES[variant]
    example = jax.ShapeDtypeStruct((1, *row["input"]), jnp.float32)
    _, out = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], example)
    return {name: value.shape[1:] for name, value in out.items()}


def test_sizes_of_each_layer():
    shapes = activations("single")
    sizes = [shapes[f"whole/conv{i}"][1] for i in range(1, 6)]
    assert sizes == [57, 28, 14, 14, 14]
    assert shapes["whole/features"] == (1, 7, 7, 256)
    for fusion, frames in {"single": 1, "early": 1, "late": 2, "slow": 1}.items():
        shapes = activations(f"{fusion}_multires")
        assert [shapes[f"fovea/conv{i}"][1] for i in range(1, 6)] == [30, 15, 7, 7, 7]
        assert shapes["context/features"] == shapes["fovea/features"] == (frames, 7, 7, 256)


def test_slow_fusion_halves_time():
    shapes = activations("slow")
    assert [shapes[f"whole/conv{i}"][0] for i in range(1, 6)] == [4, 2, 1, 1, 1]


def test_towers_of_late_fusion_are_one():
    """The parameters of its towers are the single-frame net's own, and frames that change places change towers."""
    late, single = build("late", **TINY), build("single", **TINY)
    video = random_video(2, 2, 40, 40)
    weights = variables(late, video)
    shapes = models.shapes(single, (2, 1, 40, 40, 3))["params"]
    stream = weights["params"]["whole"]
    assert jax.tree.map(jnp.shape, stream) == jax.tree.map(jnp.shape, shapes["whole"])
    assert {name for name in weights["params"] if name not in ("fc6", "fc7", "head")} == {"whole"}

    alone = {"params": variables(single, video[:, :1])["params"] | {"whole": stream}}
    assert alone["params"]["whole"] is weights["params"]["whole"]
    features = jax.jit(lambda m, v, x: m.apply(v, x, train=False)[1]["whole/features"], static_argnums=0)
    both, swapped = features(late, weights, video), features(late, weights, video[:, ::-1])
    np.testing.assert_allclose(both[:, ::-1], swapped, rtol=1e-5, atol=1e-5)
    for i in (0, 1):
        one = features(single, alone, video[:, i : i + 1])
        np.testing.assert_allclose(both[:, i : i + 1], one, rtol=1e-5, atol=1e-5)


def test_fovea_and_context():
    video = random_video(1, 2, 178, 178)
    streams = karpathy._streams(jnp.asarray(video), multires=True)
    np.testing.assert_array_equal(streams["fovea"], video[:, :, 44:133, 44:133])
    expected = video.reshape(1, 2, 89, 2, 89, 2, 3).mean((3, 5))
    np.testing.assert_allclose(streams["context"], expected, rtol=1e-6)


def test_first_values_are_krizhevskys():
    model = build("single", **TINY | {"widths": (48, 64, 64, 64, 64), "hidden": (64, 64)})
    with lowering("native"):  # compiles faster, as do the keys of rbg
        params = jax.jit(lambda k, x: model.init(k, x, train=False))(
            jax.random.key(0, impl="rbg"), jnp.zeros((1, 1, 24, 24, 3))
        )
    params = params["params"] | params["params"]["whole"]
    biases = {name: np.unique(layer["bias"]).item() for name, layer in params.items() if "bias" in layer}
    ones = {name for name, value in biases.items() if value == 1}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {biases[name] for name in biases.keys() - ones} == {0}
    assert params["conv2"]["kernel"].std() == pytest.approx(0.01, rel=0.02)  # of 76,800 numbers


@pytest.mark.parametrize("dropped", [("head",), ("fc6", "fc7", "head")])
def test_dropout_of_named_layers(dropped):
    video = random_video(1, 1, 24, 24)
    model = build("single", **TINY | {"hidden": (40, 4000), "dropout": 0.9, "dropped": dropped})
    weights = variables(model, video)
    with lowering("native"):  # compiles faster
        keys = {"dropout": jax.random.key(0)}
        apply = jax.jit(lambda x, t: model.apply(weights, x, train=t, rngs=keys)[1], static_argnums=1)
        kept, found = apply(video, False), apply(video, True)
    same = [name for name in ("fc6", "fc7") if np.allclose(kept[name], found[name], rtol=1e-5, atol=1e-5)]
    assert same == [name for name in ("fc6", "fc7") if name not in dropped]
    alive = (found["pre_logits"] > 0)[found["fc7"] > 0]
    assert 0.06 < alive.mean() < 0.14  # a tenth of some 2,000, six deviations


@pytest.mark.parametrize(
    ("fields", "frames", "size", "sentence"),
    [
        ({}, 7, 40, "takes clips of 8 frames, not 7: set data.clip.size"),
        ({"multires": True}, 8, 41, "needs an even size, not 41x41: set data.augment.size"),
        ({"extents": (4, 2, 2)}, 8, 40, "five extents"),
        ({}, 8, 6, "clip of 6x6 pixels is too small for this karpathy net's pools: set data.augment.size"),
        ({"norm": "layer"}, 8, 40, "norm is response or batch, not 'layer'"),
        ({"kernel_init": "caffe"}, 8, 40, "kernel_init is krizhevsky or he, not 'caffe'"),
        ({"dropped": ("fc8",)}, 8, 40, "names fc6, fc7 and head, not fc8"),
    ],
)
def test_errors(fields, frames, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, frames, size, size, 3))
