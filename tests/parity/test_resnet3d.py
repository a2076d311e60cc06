"""Hara's 3-D ResNets and DenseNets: golden outputs, tiny nets in training against NumPy, sizes by formula."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import densenet3d, resnet3d
from vidjax.nn import lowering

# First logits of the golden clips from the repository's own nets (commit 540a0ea, PyTorch 2.13) with the formula's
# weights: models/resnet.py, resnet2p1d.py and densenet.py, run by hand.
LOGITS = {
    "resnet50": [[1.1843162, 0.8805369, -0.7252593, 0.1555364], [2.5368741, 1.4202638, -0.7755262, 0.2431877]],
    "r2p1d18": [[0.5070958, 0.0326227, -0.0434257, -0.1945005], [1.0295225, 0.1997287, 0.1639768, -0.5215946]],
    "densenet121": [[-0.2609097, 0.0458162, -0.0736216, -0.2334797], [-0.3439079, 0.2299073, -0.1084520, -0.3451330]],
}
# Parameters of the repository's own nets of 400 classes, counted by PyTorch.
PARAMETERS = {
    "resnet10_shortcutA": 14_430_800,
    "r2p1d10": 14_608_044,
    "r2p1d101": 86_101_110,
}


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arch", ["resnet18", "resnet18_shortcutA", "resnet50", "r2p1d18", "densenet121"])
def test_hara(golden, formula, arch):
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())[f"hara_{arch}"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    variables = convert.from_reference("hara", arch, tensors)
    model = models.for_reference("hara", arch, 16).clone(mean=0.45, std=0.225)
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, :16].astype(np.float32) / 255
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    if arch in LOGITS:
        near(logits[:, :4], np.array(LOGITS[arch]), arch)
    else:
        with np.load(golden / "expected" / "ref_repos.npz") as arrays:
            near(logits, arrays[f"hara_{arch}/out"], arch)


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters_of_forms_without_a_variant(arch):
    assert models.parameters(models.for_reference("hara", arch, 400), (1, 16, 112, 112, 3)) == PARAMETERS[arch]


def middle(c, n, t=3, d=3):
    return int(t * d * d * c * n / (d * d * c + t * n))


def maximum(x):
    """PyTorch's MaxPool3d(3, stride 2, padding 1) on (N, C, T, H, W)."""
    out = [(n - 1) // 2 + 1 for n in x.shape[2:]]
    x = np.pad(x, [(0, 0), (0, 0), *((1, 1),) * 3], constant_values=-np.inf)
    taps = [tuple(slice(i, i + 2 * n - 1, 2) for i, n in zip(tap, out, strict=True)) for tap in np.ndindex(3, 3, 3)]
    return np.max([x[(slice(None), slice(None), *tap)] for tap in taps], axis=0)


def unit(net, conv, norm, x, n, kernel, stride, kind):
    """The reference's convolution and its norm: `convN` and `bnN`, or of space (_s) and of time (_t)."""
    (t, k, _), (st, s) = kernel, stride
    if kind == "3d":
        return net.norm(norm, net.conv(conv, x, n, kernel, (st, s, s)))
    mid = middle(3 if conv == "conv1" else x.shape[1], n, t, k)
    x = np.maximum(net.norm(f"{norm}_s", net.conv(f"{conv}_s", x, mid, (1, k, k), (1, s, s))), 0)
    return net.norm(f"{norm}_t", net.conv(f"{conv}_t", x, n, (t, 1, 1), (st, 1, 1)))


def resnet(net, video, model):
    """Logits of the reference's ResNet of the fields of `model`."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    kind = model.kind
    x = maximum(np.maximum(unit(net, "conv1", "bn1", x, model.widths[0], model.stem_kernel, (1, 2), kind), 0))
    for i, (depth, n) in enumerate(zip(model.depths, model.widths, strict=True)):
        for j in range(depth):
            name, wanted = f"layer{i + 1}.{j}", n * model.expansion
            s = 2 if i and not j else 1
            kernels = [(1, 1, 1), (3, 3, 3), (1, 1, 1)] if model.bottleneck else [(3, 3, 3)] * 2
            y = x
            for u, kernel in enumerate(kernels, 1):
                features = wanted if u == len(kernels) else n
                stride = (s, s) if u == (2 if model.bottleneck else 1) else (1, 1)
                conv, norm = f"{name}.conv{u}", f"{name}.bn{u}"
                y = unit(net, conv, norm, y, features, kernel, stride, kind if kernel == (3, 3, 3) else "3d")
                y = np.maximum(y, 0) if u < len(kernels) else y
            if s > 1 or x.shape[1] != wanted:
                if model.shortcut == "A":
                    x = x[:, :, ::s, ::s, ::s]
                    x = np.concatenate([x, np.zeros((len(x), wanted - x.shape[1], *x.shape[2:]))], 1)
                else:
                    x = net.norm(
                        f"{name}.downsample.1", net.conv(f"{name}.downsample.0", x, wanted, (1, 1, 1), (s,) * 3)
                    )
            x = np.maximum(x + y, 0)
    return net.linear("fc", x.mean((2, 3, 4)), model.num_classes)


def densenet(net, video, model):
    """Logits of the reference's DenseNet of the fields of `model`."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = net.conv("features.conv1", x, model.stem_width, model.stem_kernel, (1, 2, 2))
    x = maximum(np.maximum(net.norm("features.norm1", x), 0))
    for i, depth in enumerate(model.depths, 1):
        for j in range(1, depth + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            y = np.maximum(net.norm(f"{name}.norm1", x), 0)
            y = net.conv(f"{name}.conv1", y, 4 * model.growth, (1, 1, 1), (1, 1, 1))
            y = np.maximum(net.norm(f"{name}.norm2", y), 0)
            x = np.concatenate([x, net.conv(f"{name}.conv2", y, model.growth, (3, 3, 3), (1, 1, 1))], 1)
        if i < len(model.depths):
            y, name = np.maximum(net.norm(f"features.transition{i}.norm", x), 0), f"features.transition{i}.conv"
            y = net.conv(name, y, x.shape[1] // 2, (1, 1, 1), (1, 1, 1))
            n, c, t, h, w = y.shape
            y = y[:, :, : t // 2 * 2, : h // 2 * 2, : w // 2 * 2]
            x = y.reshape(n, c, t // 2, 2, h // 2, 2, w // 2, 2).mean((3, 5, 7))
    x = np.maximum(net.norm("features.norm5", x), 0)
    return net.linear("classifier", x.mean((2, 3, 4)), model.num_classes)


RESNET = {"widths": (4, 6, 8, 8), "depths": (1, 2, 1, 1), "stem_kernel": (3, 7, 7)}
TINY = {  # name: (family, variant, fields)
    "basic": ("resnet3d", "resnet18", RESNET),
    "basic_zeros": ("resnet3d", "resnet18_shortcutA", RESNET),
    "bottleneck": ("resnet3d", "resnet50", RESNET),
    "bottleneck_zeros": ("resnet3d", "resnet50_shortcutA", RESNET),
    "factorised": ("resnet3d", "r2p1d18", RESNET),
    "factorised_bottleneck": ("resnet3d", "r2p1d50", RESNET),
    "dense": ("densenet3d", "densenet121", {"depths": (2, 1), "growth": 4, "stem_width": 6, "stem_kernel": (3, 7, 7)}),
}
ORACLE = {"resnet3d": resnet, "densenet3d": densenet}


def tiny(name):
    """(model, oracle, table, video) of a tiny net."""
    family, variant, fields = TINY[name]
    shared = {"mean": 0.45, "std": 0.225, "num_classes": 5}
    model = models.build({"name": family, "variant": variant, **fields, **shared})
    table = resnet3d.hara(model.kind, model.bottleneck) if family == "resnet3d" else densenet3d.HARA
    return model, ORACLE[family], table, np.random.RandomState(0).rand(4, 8, 32, 32, 3).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("basic", True),
        ("basic_zeros", False),
        ("bottleneck", False),
        ("bottleneck_zeros", True),
        ("factorised", False),
        ("factorised_bottleneck", True),
        ("dense", True),
    ],
)
def test_numpy(name, train):
    model, oracle, table, video = tiny(name)
    net = Torch(train)
    expected = oracle(net, video, model)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(table, net.tensors, shapes)

    @jax.jit
    def apply(variables, video):
        with lowering("native"):  # compiles faster
            return model.apply(variables, video, train=train, mutable=["batch_stats"])

    (logits, _), state = apply(variables, video)
    # a stage of one cell over four clips divides by small deviations, which magnifies float32's rounding
    near(logits, expected, "logits", 1e-4 if train else 1e-5)
    after = convert.convert(table, net.state_dict(), shapes)
    assert train == bool(net.after)
    for (path, value), wanted in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True
    ):
        near(value, wanted, jax.tree_util.keystr(path))


PINNED = {"basic": 0.91017045, "dense": 1.24414673}


@pytest.mark.parametrize("name", PINNED)
def test_pinned_step(name):
    """Loss after one SGD step of 0.1; recorded with the repository's own net in float64, same weights and clips."""
    model, oracle, table, video = tiny(name)
    net = Torch(train=True)
    oracle(net, video, model)
    variables = convert.convert(table, net.tensors, models.shapes(model, video.shape))
    with lowering("native"):
        assert loss_after_step(model, variables, video) == pytest.approx(PINNED[name], rel=1e-4)  # see test_numpy


def counted(model, frames, size, classes):
    """(parameters, multiply-adds) from the papers' tables alone."""
    totals, pointwise = np.zeros(2, np.int64), (1, 1, 1)

    def conv(shape, c, n, kernel, strides, norm, groups=1):
        out = tuple(-(-n // s) for n, s in zip(shape, strides, strict=True))
        weights = math.prod(kernel) * c * n // groups
        totals[:] += [weights + 2 * norm, weights * math.prod(out)]
        return out

    def unit(shape, c, n, kernel, s, kind, groups=1):
        (t, k, _), (st, sh, _) = kernel, s
        if kind == "3d":
            return conv(shape, c, n, kernel, s, n, groups)
        mid = middle(c, n, t, k)
        shape = conv(shape, c, mid, (1, k, k), (1, sh, sh), mid)
        return conv(shape, mid, n, (t, 1, 1), (st, 1, 1), n)

    def residual(model, shape, c):
        for i, (depth, n) in enumerate(zip(model.depths, model.widths, strict=True)):
            for j in range(depth):
                s, wanted = ((2,) * 3 if i and not j else pointwise), n * model.expansion
                if model.bottleneck:
                    unit(shape, c, n, pointwise, pointwise, "3d")
                    out = unit(shape, n, n, (3, 3, 3), s, model.kind, model.groups)
                    unit(out, n, wanted, pointwise, pointwise, "3d")
                else:
                    out = unit(shape, c, n, (3, 3, 3), s, model.kind)
                    unit(out, n, n, (3, 3, 3), pointwise, model.kind)
                if model.shortcut == "B" and (s[0] > 1 or c != wanted):
                    unit(shape, c, wanted, pointwise, s, "3d")
                shape, c = out, wanted
        return c

    def dense(model, shape, c):
        for i, depth in enumerate(model.depths):
            if i:
                conv(shape, c, c // 2, pointwise, pointwise, c)  # norms come before their convolutions
                shape, c = tuple(n // 2 for n in shape), c // 2
            for _ in range(depth):
                conv(shape, c, 4 * model.growth, pointwise, pointwise, c)
                conv(shape, 4 * model.growth, model.growth, (3, 3, 3), pointwise, 4 * model.growth)
                c += model.growth
        totals[0] += 2 * c
        return c

    width = model.widths[0] if hasattr(model, "widths") else model.stem_width
    shape = unit((frames, size, size), 3, width, model.stem_kernel, (1, 2, 2), getattr(model, "kind", "3d"))
    shape = tuple((n - 1) // 2 + 1 for n in shape) if model.pool else shape
    c = (residual if hasattr(model, "widths") else dense)(model, shape, width)
    return totals + [(c + 1) * classes, c * classes]


@pytest.mark.parametrize(
    ("family", "variant"), [(f, v) for f in ("resnet3d", "densenet3d") for v in models.family(f).VARIANTS]
)
def test_sizes_by_formula(family, variant):
    row = models.family(family).SIZES[variant]
    params, macs = counted(models.build({"name": family, "variant": variant}), *row["input"][:2], row["classes"])
    assert params == row["params"]
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("resnet3d", {"widths": (4, 8)}, "one length"),
        ("resnet3d", {"kind": "2d"}, "not '2d'"),
        ("resnet3d", {"shortcut": "C"}, "not 'C'"),
        ("resnet3d", {"kind": "2plus1d", "groups": 2}, "groups are for 3-D"),
        ("densenet3d", {}, "halves frames"),
    ],
)
def test_field_errors(family, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(models.build({"name": family, "variant": "small"}, **fields), (1, 2, 16, 16, 3))
