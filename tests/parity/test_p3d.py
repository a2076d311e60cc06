"""p3d equals its references: the PyTorch port, and the Caffe definition in NumPy with its tensors' names."""

import importlib.util
import re

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import p3d

TINY = {"depths": (2, 1, 1), "widths": (4, 6, 8), "stem_width": 5, "num_classes": 5, "dropout": 0.0}
TINY |= {"mean": 0.45, "std": 0.225, "order": "RGB"}


def tiny(variant):
    return models.build({"name": "p3d", "variant": variant, **TINY})


def tiny_video():
    return np.random.RandomState(0).rand(4, 8, 22, 22, 3).astype(np.float32)


def max_pool(x, window, ceil):
    """3-D max pool of stride 2 where the window is longer than 1, of values that a ReLU made.

    Caffe's windows begin at the first element and may hang over the end; the port's are padded by one on both sides.
    """
    for axis, k in enumerate(window, 2):
        if k == 1:
            continue
        n = x.shape[axis]
        lo = 0 if ceil else (k - 1) // 2
        out = -(-(n - k) // 2) + 1 if ceil else (n + 2 * lo - k) // 2 + 1
        x = np.pad(x, [(lo, k) if i == axis else (0, 0) for i in range(5)])
        parts = [np.take(x, range(i, i + 2 * out - 1, 2), axis) for i in range(k)]
        x = np.max(parts, axis=0)
    return x


def unit(net, name, norm, x, features, kernel, stride=1):
    return net.norm(norm, net.conv(name, x, features, kernel, (1, stride, stride)))


def core(net, name, x, kind, port):
    """Caffe: ReLU after S and after the whole; the port: after S and after T, and C not halved."""
    n = x.shape[1]
    spatial = np.maximum(unit(net, f"{name}.conv2", f"{name}.bn2", x, n, (1, 3, 3)), 0)
    temporal = unit(net, f"{name}.conv3", f"{name}.bn3", x if kind == "B" else spatial, n, (3, 1, 1))
    if kind == "A":
        return np.maximum(temporal, 0)
    if port:
        return spatial + np.maximum(temporal, 0)
    return np.maximum(spatial + temporal if kind == "B" else 0.5 * spatial + 0.5 * temporal, 0)


def reference(net, video, port):
    """Logits of the tiny P3D, its stages 2 and 3 (A, B and C) 3-D and the last 2-D, under the port's names."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = np.maximum(unit(net, "conv1_custom", "bn1", x, TINY["stem_width"], (1, 7, 7), 2), 0)
    x, kinds = max_pool(x, (2, 3, 3), not port), iter("ABC")
    for i, (depth, n) in enumerate(zip(TINY["depths"], TINY["widths"], strict=True)):
        if i:
            x = max_pool(x, (2, 1, 1), not port)
        for j in range(depth):
            name, stride = f"layer{i + 1}.{j}", 2 if i and not j else 1
            y = np.maximum(unit(net, f"{name}.conv1", f"{name}.bn1", x, n, (1, 1, 1), stride), 0)
            if i < 2:
                y = core(net, name, y, next(kinds), port)
            else:
                y = np.maximum(unit(net, f"{name}.conv_normal", f"{name}.bn_normal", y, n, (1, 3, 3)), 0)
            y = unit(net, f"{name}.conv4", f"{name}.bn4", y, 4 * n, (1, 1, 1))
            if not j:
                x = unit(net, f"{name}.downsample.0", f"{name}.downsample.1", x, 4 * n, (1, 1, 1), stride)
            x = np.maximum(x + y, 0)
    return net.linear("fc", x.mean((2, 3, 4)), TINY["num_classes"])


def last_stage_2d(tensors):
    """The tensors with the last stage, here the third, called the fourth and its kernels without a temporal axis."""
    named = {name.replace("layer3", "layer4"): tensor for name, tensor in tensors.items()}
    return {n: t[:, :, 0] if t.ndim == 5 and n.startswith("layer4") else t for n, t in named.items()}


TABLE = [(name, path and path.replace(r"layer\1_\2", "layer3_" + r"\2"), t) if "(4)" in name else (name, path, t)
         for name, path, t in p3d.TORCH]  # fmt: skip


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port_manifest(depths, classes):
    """{name: shape} of the port's net."""
    shapes = {"conv1_custom.weight": (64, 3, 1, 7, 7)}
    norms, c = {"bn1": 64}, 64
    for stage, (depth, n) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
        for j in range(depth):
            name, flat = f"layer{stage}.{j}", (1, 1) if stage == 4 else (1, 1, 1)
            shapes |= {f"{name}.conv1.weight": (n, c, *flat), f"{name}.conv4.weight": (4 * n, n, *flat)}
            norms |= {f"{name}.bn1": n, f"{name}.bn4": 4 * n}
            if stage == 4:
                shapes[f"{name}.conv_normal.weight"], norms[f"{name}.bn_normal"] = (n, n, 3, 3), n
            else:
                shapes |= {f"{name}.conv2.weight": (n, n, 1, 3, 3), f"{name}.conv3.weight": (n, n, 3, 1, 1)}
                norms |= {f"{name}.bn2": n, f"{name}.bn3": n}
            if not j:
                shapes[f"{name}.downsample.0.weight"], norms[f"{name}.downsample.1"] = (4 * n, c, *flat), 4 * n
            c = 4 * n
    for name, n in norms.items():
        shapes |= {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"fc.weight": (classes, 2048), "fc.bias": (classes,)}


def test_port(golden, formula):
    """First logits of the first clip, from the port's P3D63 run in PyTorch 2.13 on the golden formula's weights."""
    tensors = {n: formula.torch_tensor(n, s, (0.5, 0.9)) for n, s in port_manifest((3, 4, 6, 3), 16).items()}
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        video = clips["clips"][:, :16].astype(np.float32) / 255
    video = np.pad(video, [(0, 0), (0, 0), (24, 24), (24, 24), (0, 0)])
    variables = convert.from_reference("qijiezhao", "p3d63", tensors)
    model = models.for_reference("qijiezhao", "p3d63", 16).clone(mean=0.45, std=0.225)
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(logits[0, :4], np.array([1.7922497, 3.4241, -2.9010913, -4.7483873]), "logits")


def caffe_shapes(channels, classes):
    """{layer/blob: shape} of the released P3D-199, as its deploy prototxt lists them."""
    convs, c = {"conv1": (64, channels, 1, 7, 7)}, 64
    for stage, (depth, n) in enumerate(zip((3, 8, 36, 3), (64, 128, 256, 512), strict=True), 2):
        for j in range(depth):
            name = f"res{stage}{'abc'[j] if depth == 3 else f'b{j}' if j else 'a'}"
            flat, square = ((1, 1), (3, 3)) if stage == 5 else ((1, 1, 1), (1, 3, 3))
            convs |= {f"{name}_branch1": (4 * n, c, *flat)} if not j else {}
            convs |= {f"{name}_branch2a": (n, c, *flat), f"{name}_branch2b": (n, n, *square)}
            convs |= {f"{name}_branch2b_t": (n, n, 3, 1, 1)} if stage < 5 else {}
            convs |= {f"{name}_branch2c": (4 * n, n, *flat)}
            c = 4 * n
    shapes = {f"{name}/0": shape for name, shape in convs.items()}
    for name, shape in convs.items():
        norm = f"bn_{name}" if name == "conv1" else re.sub("^res", "bn", name)
        shapes |= {f"{norm}/{i}": (1, shape[0]) for i in range(4)}
    return shapes | {"fc_kinetics/0": (classes, 2048), "fc_kinetics/1": (classes,)}


@pytest.mark.parametrize(("arch", "channels"), [("p3d_resnet_kinetics", 3), ("p3d_resnet_kinetics_flow", 2)])
def test_caffe_names(arch, channels):
    shapes = caffe_shapes(channels, 400)
    assert len(shapes) == 1010 + 2  # 202 convolutions and the four blobs of as many norms; the last layer's two
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    tensors |= {
        "bn5c_branch2b/1": np.arange(512, dtype=np.float32)[None],
        "bn_conv1/3": np.full((1, 64), 7, np.float32),
    }
    variables = convert.from_reference("zhaofanqiu", arch, tensors)
    np.testing.assert_array_equal(variables["params"]["layer4_2"]["core"]["spatial"]["bn"]["bias"], np.arange(512))
    np.testing.assert_array_equal(variables["batch_stats"]["stem"]["bn"]["var"], np.full(64, 7))


@pytest.mark.parametrize(("variant", "train"), [("50", True), ("63_port", True), ("50", False)])
def test_numpy(variant, train):
    model, video, net = tiny(variant), tiny_video(), Torch(train)
    expected = reference(net, video, variant.endswith("port"))
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(TABLE, last_stage_2d(net.tensors), shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(TABLE, last_stage_2d(net.state_dict()), shapes)
    assert train == bool(net.after)
    stats = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


def test_pinned_step():
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny("50"), tiny_video(), Torch(train=True)
    reference(net, video, port=False)
    variables = convert.convert(TABLE, last_stage_2d(net.tensors), models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(1.38227339, rel=3e-5)  # norms of 16 values
