"""frame_pool equals torchvision's ResNet on frames: a tiny one in training against NumPy and PyTorch."""

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import frame_pool

TABLE = frame_pool.REFERENCES["torchvision", "resnet18"]["table"]
TINY = {"depths": (1, 2), "widths": (4, 6), "strides": (1, 2), "stem_width": 4}


def tiny(pool):
    fields = {"name": "frame_pool", "variant": "resnet18", "fields": tuple(TINY.items()), "mean": 0.45, "std": 0.225}
    return models.build(fields, pool=pool, num_classes=5)


def tiny_video():
    return np.random.RandomState(0).rand(4, 3, 32, 32, 3).astype(np.float32)


def max_pool(x):
    """MaxPool2d(3, stride 2, padding 1) on every frame of (N, C, T, H, W)."""
    x = np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (3, 4))[:, :, :, ::2, ::2].max((-2, -1))


def conv(net, name, x, features, kernel, stride):
    """A 2-D convolution on every frame; its tensor is kept as PyTorch keeps it, without a time axis."""
    x = net.conv(name, x, features, (1, kernel, kernel), (1, stride, stride))
    net.tensors[f"{name}.weight"] = net.tensors[f"{name}.weight"][:, :, 0]
    return x


def reference(net, video, pool):
    """Logits of torchvision's ResNet with the tiny fields, features pooled over frames."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    x = max_pool(np.maximum(net.norm("bn1", conv(net, "conv1", x, TINY["stem_width"], 7, 2)), 0))
    for i, (depth, n) in enumerate(zip(TINY["depths"], TINY["widths"], strict=True)):
        for j in range(depth):
            name, stride = f"layer{i + 1}.{j}", 2 if i and not j else 1
            y = np.maximum(net.norm(f"{name}.bn1", conv(net, f"{name}.conv1", x, n, 3, stride)), 0)
            y = net.norm(f"{name}.bn2", conv(net, f"{name}.conv2", y, n, 3, 1))
            if stride > 1:
                x = net.norm(f"{name}.downsample.1", conv(net, f"{name}.downsample.0", x, n, 1, stride))
            x = np.maximum(x + y, 0)
    x = x.mean((3, 4))
    return net.linear("fc", x.mean(2) if pool == "mean" else x.max(2), 5)


@pytest.mark.parametrize(("pool", "train"), [("mean", True), ("max", True), ("mean", False)])
def test_numpy(pool, train):
    model, video, net = tiny(pool), tiny_video(), Torch(train)
    expected = reference(net, video, pool)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(TABLE, net.tensors, shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    assert train == bool(net.after)
    after = convert.convert(TABLE, net.state_dict(), shapes)["batch_stats"]
    stats = zip(jax.tree.leaves_with_path(state["batch_stats"]), jax.tree.leaves(after), strict=True)
    for (path, value), wanted in stats:
        near(value, wanted, jax.tree_util.keystr(path))


def test_pinned_step():
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny("mean"), tiny_video(), Torch(train=True)
    reference(net, video, "mean")
    variables = convert.convert(TABLE, net.tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(1.37221587, rel=1e-5)
