"""A 2-D CNN on each frame, its features averaged or maximised over frames: the baseline that sees no motion.

Paper: Large-scale Video Classification with Convolutional Neural Networks (Karpathy et al., CVPR 2014), single-frame
net; the backbone `resnet18` is Deep Residual Learning (He et al., CVPR 2016).
Input: RGB in [0, 1], (B, T, H, W, 3); T = 1 is the single-frame net. Output: logits (B, num_classes).
Reference: torchvision.models.resnet18 on every frame.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from vidjax.nn import BatchNorm, Conv3D

# ImageNet statistics of torchvision's presets.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

VARIANTS = {
    "small": {  # ours, for frames of about 40x40: five 3x3 convolutions
        "block": "conv",
        "depths": (1, 1, 1, 1),
        "widths": (32, 32, 64, 64),
        "strides": (2, 1, 2, 1),
        "stem_width": 16,
        "stem_kernel": 3,
        "stem_stride": 1,
        "stem_pool": False,
    },
    "resnet18": {  # table 1 of He et al.
        "block": "basic",
        "depths": (2, 2, 2, 2),
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 2),
        "stem_width": 64,
        "stem_kernel": 7,
        "stem_stride": 2,
        "stem_pool": True,
    },
}

SIZES = {  # [P] published, [C] computed from the definition (tests/test_models.py); GMAC per view
    "small": {"input": (8, 40, 40, 3), "classes": 8, "params": 70_488, "gmac": 0.094, "paper": "none (small clips)"},
    "resnet18": {  # [P] torchvision
        "input": (1, 224, 224, 3),
        "classes": 1000,
        "params": 11_689_512,
        "gmac": 1.814,
        "paper": "Karpathy et al., CVPR 2014; He et al., CVPR 2016",
    },
}


class Unit(nn.Module):
    """k x k convolution of every frame and batch norm: (B, T, H, W, C) -> (B, T, H / s, W / s, features)."""

    features: int
    kernel: int
    stride: int
    conv: functools.partial
    norm: functools.partial

    @nn.compact
    def __call__(self, x):
        k, s, half = self.kernel, self.stride, self.kernel // 2
        padding = ((0, 0), (half, half), (half, half))
        x = self.conv(self.features, (1, k, k), (1, s, s), padding, name="conv")(x)
        return self.norm(name="bn")(x)


class Block(nn.Module):
    """One unit ("conv") or a basic residual block ("basic"): (B, T, H, W, C) -> (B, T, H / s, W / s, features)."""

    features: int
    stride: int
    kind: str
    unit: functools.partial

    @nn.compact
    def __call__(self, x):
        y = self.unit(self.features, 3, self.stride, name="conv1")(x)
        if self.kind == "conv":
            return nn.relu(y)
        y = self.unit(self.features, 3, 1, name="conv2")(nn.relu(y))
        if x.shape != y.shape:
            x = self.unit(self.features, 1, self.stride, name="downsample")(x)
        return nn.relu(x + y)


class Model(nn.Module):
    """Frame pooling: float32 RGB (B, T, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations."""

    block: str
    depths: tuple
    widths: tuple
    strides: tuple
    stem_width: int
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    pool: str = "mean"
    num_classes: int = 1000
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, video, *, train):
        _check(self)
        x = ((video - _channels(self.mean)) / _channels(self.std)).astype(self.dtype)
        init = nn.initializers.variance_scaling(2, "fan_out", "normal")
        conv = functools.partial(Conv3D, dtype=self.dtype, kernel_init=init)
        norm = functools.partial(BatchNorm, not train, self.bn_momentum, self.bn_epsilon, self.dtype)
        unit = functools.partial(Unit, conv=conv, norm=norm)
        out = {}
        x = nn.relu(unit(self.stem_width, self.stem_kernel, self.stem_stride, name="stem")(x))
        if self.stem_pool:
            x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
        out["stem"] = x
        for i, (depth, width, stride) in enumerate(zip(self.depths, self.widths, self.strides, strict=True), 1):
            for j in range(depth):
                block = Block(width, 1 if j else stride, self.block, unit, name=f"layer{i}_{j}")
                x = block(x)
            out[f"layer{i}"] = x
        x = out["frames"] = x.astype(jnp.float32).mean(axis=(2, 3))
        x = x.mean(axis=1) if self.pool == "mean" else x.max(axis=1)
        x = out["pre_logits"] = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")(x)
        return x, out


def _channels(value):
    """A number or a tuple of one number per channel, broadcastable to (B, T, H, W, C)."""
    return jnp.asarray(value, jnp.float32).reshape(1, 1, 1, 1, -1)


def _check(model):
    """ValueError unless the fields agree."""
    stages = [len(f) for f in (model.depths, model.widths, model.strides)]
    if len(set(stages)) > 1:
        raise ValueError(f"frame_pool needs depths, widths and strides of one length (the stages), not {stages}.")
    if model.block not in ("conv", "basic"):
        raise ValueError(f"frame_pool's field block is 'conv' or 'basic', not {model.block!r}.")
    if model.pool not in ("mean", "max"):
        raise ValueError(f"frame_pool's field pool is 'mean' or 'max', not {model.pool!r}.")


def _norm(source, path):
    """Conversion rules of one PyTorch batch norm."""
    return [
        (rf"{source}\.weight", f"params/{path}/scale", None),
        (rf"{source}\.bias", f"params/{path}/bias", None),
        (rf"{source}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/\g<stat>", None),
    ]


TORCH = [  # (reference name, our path or None to drop it, transform)
    (r"conv1\.weight", "params/stem/conv/kernel", "oihw_to_1hwio"),
    *_norm("bn1", "stem/bn"),
    (r"layer(\d)\.(\d+)\.(conv\d)\.weight", r"params/layer\1_\2/\3/conv/kernel", "oihw_to_1hwio"),
    *_norm(r"layer(\d)\.(\d+)\.bn(\d)", r"layer\1_\2/conv\3/bn"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.weight", r"params/layer\1_\2/downsample/conv/kernel", "oihw_to_1hwio"),
    *_norm(r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample/bn"),
    (r"fc\.weight", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    (r".*\.num_batches_tracked", None, None),
]

# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {"order": "RGB", "range": (0.0, 1.0), "mean": MEAN, "std": STD, "frames": 1, "resize": 256, "size": 224}
REFERENCES = {  # (source, the source's own name of the net)
    ("torchvision", "resnet18"): {
        "variant": "resnet18",
        "table": TORCH,
        "head": "fc.bias",
        "preprocess": PREPROCESS,
    },
}
