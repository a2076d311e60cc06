"""mobilenet3d, shufflenet3d and squeezenet3d equal okankop's nets: golden weights, and tiny nets in training."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import mobilenet3d, shufflenet3d, squeezenet3d

NORMAL = {"mean": 0.45, "std": 0.225, "num_classes": 5, "dropout": 0.0}
V1 = {"version": 1, "depths": (1, 2), "widths": (6, 8), "strides": (2, 1), "stem_width": 4}
V2 = {"version": 2, "depths": (1, 2), "widths": (4, 6), "strides": (1, 2), "stem_width": 4}
V2 |= {"expansions": (1, 3), "last_width": 10}
GROUPED = {"version": 1, "depths": (2, 1), "widths": (24, 36), "groups": 3, "stem_width": 6, "pool": True}
HALVED = {"version": 2, "depths": (1, 2), "widths": (8, 12), "stem_width": 4, "pool": True, "last_width": 10}
FIRES = {"stem_width": 6, "stem_kernel": 3, "stages": (((3, 4), (2, 4)), ((3, 5),))}


def convolve(net, name, x, features, kernel=1, stride=1, groups=1, bias=False):
    """Convolution with zero padding k // 2 in groups of channels, one tap of the kernel at a time."""
    strides = stride if isinstance(stride, tuple) else (stride,) * 3
    weight = net.draw(f"{name}.weight", (features, x.shape[1] // groups, *(kernel,) * 3))
    weight = weight.reshape(groups, features // groups, *weight.shape[1:])
    out = [(n - 1) // s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    x, total = np.pad(x, [(0, 0), (0, 0), *[(kernel // 2,) * 2] * 3]), 0
    x = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    for tap in np.ndindex(*(kernel,) * 3):
        where = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(tap, out, strides, strict=True)]
        total = total + np.einsum("ngcthw,goc->ngothw", x[(..., *where)], weight[(..., *tap)])
    total = total.reshape(x.shape[0], features, *out)
    return total + net.draw(f"{name}.bias", (features,)).reshape(-1, 1, 1, 1) if bias else total


def windows(x, kernel, pads):
    """Windows of `kernel`, two apart: (N, C, T, H, W) -> (N, C, T', H', W', t, h, w)."""
    x = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (0, 0), *pads]), kernel, (2, 3, 4))
    return x[:, :, ::2, ::2, ::2]


def max_pool(x):
    """3x3x3, stride 2, of values that a ReLU made: zero padding is as good as none."""
    return windows(x, (3, 3, 3), [(1, 1)] * 3).max((5, 6, 7))


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def stem(net, name, video, features):
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    return net.norm(f"{name}.1", convolve(net, f"{name}.0", x, features, 3, (1, 2, 2)))


def head(net, x):
    return net.linear("classifier.1", x.mean((2, 3, 4)), NORMAL["num_classes"])


def stages(fields):
    """(features, stride, expansion) of every block; strides are 2 where none are given."""
    depths, widths = fields["depths"], fields["widths"]
    strides, expansions = fields.get("strides", (2,) * len(depths)), fields.get("expansions", (1,) * len(depths))
    for depth, width, stride, expansion in zip(depths, widths, strides, expansions, strict=True):
        yield from ((width, 1 if j else stride, expansion) for j in range(depth))


def mobilenet(net, video):
    x = relu(stem(net, "features.0", video, V1["stem_width"]))
    for k, (features, stride, _) in enumerate(stages(V1), 1):
        name, c = f"features.{k}", x.shape[1]
        x = relu(net.norm(f"{name}.bn1", convolve(net, f"{name}.conv1", x, c, 3, stride, c)))
        x = relu(net.norm(f"{name}.bn2", convolve(net, f"{name}.conv2", x, features)))
    return head(net, x)


def mobilenetv2(net, video):
    x = relu6(stem(net, "features.0", video, V2["stem_width"]))
    for k, (features, stride, expansion) in enumerate(stages(V2), 1):
        name, c = f"features.{k}.conv", x.shape[1]
        layers = [(expansion * c, 1, 1, 1)] if expansion > 1 else []
        layers += [(expansion * c, 3, stride, expansion * c), (features, 1, 1, 1)]
        y = x
        for n, layer in enumerate(layers):
            y = net.norm(f"{name}.{3 * n + 1}", convolve(net, f"{name}.{3 * n}", y, *layer))
            y = relu6(y) if n < len(layers) - 1 else y
        x = x + y if x.shape == y.shape else y
    x = convolve(net, "features.4.0", x, V2["last_width"])
    return head(net, relu6(net.norm("features.4.1", x)))


def shuffled(x, groups):
    """Channel i of the result is channel i // groups of group i % groups."""
    order = [i % groups * (x.shape[1] // groups) + i // groups for i in range(x.shape[1])]
    return x[:, order]


def shufflenet(net, video):
    x = max_pool(relu(stem(net, "conv1", video, GROUPED["stem_width"])))
    names = [f"layer{i}.{j}" for i, depth in enumerate(GROUPED["depths"], 1) for j in range(depth)]
    for name, (features, stride, _) in zip(names, stages(GROUPED), strict=True):
        c, middle = x.shape[1], features // 4
        groups = 1 if c == 24 else 3  # so it is there: GROUPED's second stage begins with 24 channels
        y = relu(net.norm(f"{name}.bn1", convolve(net, f"{name}.conv1", x, middle, groups=groups)))
        y = convolve(net, f"{name}.conv2", shuffled(y, 3), middle, 3, stride, middle)
        y = convolve(net, f"{name}.conv3", net.norm(f"{name}.bn2", y), features - (c if stride > 1 else 0), groups=3)
        y = net.norm(f"{name}.bn3", y)
        if stride > 1:
            x = relu(np.concatenate([y, windows(x, (2, 3, 3), [(0, 0), (1, 1), (1, 1)]).mean((5, 6, 7))], 1))
        else:
            x = relu(x + y)
    return head(net, x)


def shufflenetv2(net, video):
    x = max_pool(relu(stem(net, "conv1", video, HALVED["stem_width"])))
    for k, (features, stride, _) in enumerate(stages(HALVED)):
        name, c, half = f"features.{k}.banch", x.shape[1], features // 2
        first, second = (x, x) if stride > 1 else (x[:, :half], x[:, half:])
        if stride > 1:
            first = net.norm(f"{name}1.1", convolve(net, f"{name}1.0", first, c, 3, stride, c))
            first = relu(net.norm(f"{name}1.3", convolve(net, f"{name}1.2", first, half)))
        second = relu(net.norm(f"{name}2.1", convolve(net, f"{name}2.0", second, half)))
        second = net.norm(f"{name}2.4", convolve(net, f"{name}2.3", second, half, 3, stride, half))
        second = relu(net.norm(f"{name}2.6", convolve(net, f"{name}2.5", second, half)))
        x = shuffled(np.concatenate([first, second], 1), 2)
    x = convolve(net, "conv_last.0", x, HALVED["last_width"])
    return head(net, relu(net.norm("conv_last.1", x)))


def squeezenet(net, video):
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = relu(net.norm("features.1", convolve(net, "features.0", x, FIRES["stem_width"], 3, (1, 2, 2), bias=True)))
    for k, (squeezed, expanded) in {4: (3, 4), 5: (2, 4), 7: (3, 5)}.items():
        x, name = max_pool(x) if k != 5 else x, f"features.{k}"
        y = convolve(net, f"{name}.squeeze", x, squeezed, bias=True)
        y = relu(net.norm(f"{name}.squeeze_bn", y))
        points = net.norm(f"{name}.expand1x1_bn", convolve(net, f"{name}.expand1x1", y, expanded, bias=True))
        cubes = net.norm(f"{name}.expand3x3_bn", convolve(net, f"{name}.expand3x3", y, expanded, 3, bias=True))
        y = np.concatenate([points, cubes], 1)
        x = relu(x + y if k == 5 else y)
    return relu(convolve(net, "classifier.1", x, NORMAL["num_classes"], bias=True)).mean((2, 3, 4))


TINY = {  # okankop's name: (reference, family, fields, table)
    "mobilenet": (mobilenet, "mobilenet3d", V1, mobilenet3d.table(1, V1["depths"])),
    "mobilenetv2": (mobilenetv2, "mobilenet3d", V2, mobilenet3d.table(2, V2["depths"])),
    "shufflenet": (shufflenet, "shufflenet3d", GROUPED, shufflenet3d.table(1)),
    "shufflenetv2": (shufflenetv2, "shufflenet3d", HALVED, shufflenet3d.table(2, HALVED["depths"])),
    "squeezenet": (squeezenet, "squeezenet3d", FIRES, squeezenet3d.table(FIRES["stages"])),
}


def tiny(arch, train):
    """(model, its variables, reference's tensors, reference's logits, video) of the tiny net."""
    reference, family, fields, table = TINY[arch]
    model = models.build({"name": family, "variant": "small", **fields, **NORMAL})
    video = np.random.RandomState(0).rand(4, 8, 24, 24, 3).astype(np.float32)
    net = Torch(train)
    expected = reference(net, video)
    return model, convert.convert(table, net.tensors, models.shapes(model, video.shape)), net, expected, video


@pytest.mark.parametrize("arch", TINY)
def test_numpy(arch):
    """Logits and running statistics in training mode."""
    model, variables, net, expected, video = tiny(arch, train=True)
    (logits, _), state = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(TINY[arch][3], net.state_dict(), models.shapes(model, video.shape))
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("arch", "expected"), [("mobilenetv2", 1.57212064), ("shufflenet", 1.37350263), ("squeezenet", 1.31786814)]
)
def test_pinned_step(arch, expected):
    """Loss after one SGD step of 0.1; recorded with okankop's blocks in PyTorch in float64 on the same net and clip."""
    model, variables, _, _, video = tiny(arch, train=True)
    assert loss_after_step(model, variables, video) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# First logits of the golden clips from the repository's own nets (commit 9db09f6, PyTorch 2.13) with the formula's
# weights, run by hand; the other two nets' are golden data.
LOGITS = {
    "mobilenet": [[-0.2759361, 0.001676, 0.4272617, -0.0987365], [-0.2809052, -0.0095643, 0.4992036, -0.1132251]],
    "shufflenetv2": [[9.4911842, 32.882164, 6.6009078, -83.278442], [-16.105961, 66.990181, 18.848274, -158.32565]],
    "squeezenet": [[1.7861444, 0.0, 6.6813874, 15.6998482], [3.310205, 0.0, 6.9658213, 22.0923309]],
}


@pytest.mark.parametrize("arch", TINY)
def test_okankop(golden, formula, arch):
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())[f"okankop_{arch}"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, : meta["input"]["T"]].astype(np.float32) / 255
    variables = convert.from_reference("okankop", arch, tensors)
    model = models.for_reference("okankop", arch, 16).clone(mean=0.45, std=0.225)
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    with np.load(golden / "expected" / "ref_repos.npz") as arrays:
        if arch in LOGITS:
            assert f"okankop_{arch}/out" not in arrays  # else compare with that
            near(logits[:, :4], np.array(LOGITS[arch]), arch)
        else:
            near(logits, arrays[f"okankop_{arch}/out"], arch)
