"""Two streams fused inside: the feature maps of a net on frames and one on flow are put together place by place.

Paper: Convolutional Two-Stream Network Fusion for Video Action Recognition (Feichtenhofer et al., CVPR 2016): section
3.1 the ways to fuse, 3.2 the layers, 3.3 3-D pooling and 3-D convolution over T snippets, 3.4 the final net.
Input: {"rgb": (B, T, H, W, 3) in [0, 1], "flow": (B, T, H, W, 2L) in [-1, 1]}, frame and flow stack of the same time;
T = 5 snippets 1 to 10 frames apart in the final net. Output: logits (B, num_classes).
Fusion goes into the spatial tower: its layers after it are those that the fused maps pass. With `keep_temporal` the
temporal tower goes on to scores of its own and both predictions are averaged.
Reference: feichtenhofer/twostreamfusion (MatConvNet), whose final net is `vgg16`, but scores averaged before softmax.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidjax import backbones
from vidjax.backbones import vgg
from vidjax.nn import Conv3D, normalise

PAPER = "Feichtenhofer et al., CVPR 2016"
OPS = ("sum", "max", "concat", "conv", "bilinear")

# ImageNet statistics of torchvision's presets; Caffe's nets see pixels of 0 ... 255 less the mean, blue first.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FLOW = {"flow_std": 1 / 127.5, "dropout": 0.85}
_VGG_M = _FLOW | {
    "spatial": "cnn_m_2048",
    "temporal": "cnn_m_2048",
    "order": "BGR",
    "mean": (103.939 / 255, 116.779 / 255, 123.68 / 255),
    "std": 1 / 255,
}
_FINAL = {"kernel": (3, 3, 3), "weights": (0.25, 0.75), "taps": "gaussian", "pool_frames": 5, "keep_temporal": True}
_SMALL = {
    "spatial": "vgg_small",
    "temporal": "vgg_small",
    "at": ("conv3",),
    "mean": 0.45,
    "std": 0.225,
    "flow_std": 0.5,
}

VARIANTS = {f"vgg_m_{op}": _VGG_M | {"op": op} for op in OPS}  # table 1
VARIANTS |= {
    "vgg_m_late": _VGG_M | {"at": ()},
    "vgg_m_conv_fc8": _VGG_M | {"keep_temporal": True},  # table 2, ReLU5 + FC8
    "vgg_m_conv_fc6": _VGG_M | {"at": ("conv3", "conv5", "fc6")},  # table 2, ReLU3 + ReLU5 + FC6
    "vgg16_vgg_m": _FLOW | _FINAL | {"spatial": "vgg16", "temporal": "cnn_m_2048"},  # table 4
    "vgg16": _FLOW | _FINAL | {"spatial": "vgg16", "temporal": "vgg16"},  # section 3.4
    "small": _SMALL,  # ours
    "small_late": _SMALL | {"at": ()},
}


def _size(params, gmac, *, frames=1, flow=20, size=224, classes=101, paper=PAPER):
    shapes = {"rgb": (frames, size, size, 3), "flow": (frames, size, size, flow)}
    return {"input": shapes, "classes": classes, "params": params, "gmac": gmac, "paper": paper}


# [C] computed from the definition; tests/models/test_two_stream_fusion.py compares with the counts of tables 1 and 2
# [P], where both first layers have 20 channels and the fusion is D to D, not 2 D to D. GMAC per view.
SIZES = {
    "vgg_m_sum": _size(97_236_421, 4.194),
    "vgg_m_max": _size(97_236_421, 4.194),
    "vgg_m_concat": _size(172_733_893, 4.269),
    "vgg_m_conv": _size(97_761_221, 4.282),
    "vgg_m_bilinear": _size(39_613_893, 4.180),
    "vgg_m_late": _size(181_335_594, 4.278),
    "vgg_m_conv_fc8": _size(181_860_394, 4.366),
    "vgg_m_conv_fc6": _size(207_346_117, 4.480),
    "vgg16_vgg_m": _size(239_538_410, 103.459, frames=5),
    "vgg16": _size(283_514_762, 170.035, frames=5),
    "small": _size(71_176, 0.087, frames=8, flow=2, size=40, classes=8, paper="none (small clips)"),
    "small_late": _size(94_880, 0.105, frames=8, flow=2, size=40, classes=8, paper="none (small clips)"),
}


class Model(nn.Module):
    """Fused streams: {rgb, flow} -> float32 logits (B, num_classes), activations.

    `spatial` and `temporal` name nets of vidjax/backbones/vgg.py; `at` the layers whose activations fuse, in order and
    by names of both nets ("conv5" is the last of its stage); none is late fusion. `op` "conv" has a kernel of `kernel`
    frames, rows and columns, which starts as the sum of the streams times `weights`, all at its middle (`taps`
    "centre") or spread out ("gaussian"). The last pool takes `pool_frames` frames together. Where both towers go to
    the end, the softmaxes are averaged and each has its loss, `aux_logits/spatial` and `aux_logits/temporal`.
    `mean`, `std` and `order` are those of RGB, `flow_mean` and `flow_std` of flow.
    """

    spatial: str
    temporal: str
    op: str = "conv"
    at: tuple = ("conv5",)
    kernel: tuple = (1, 1, 1)
    weights: tuple = (1.0, 1.0)
    taps: str = "centre"
    pool_frames: int = 1
    keep_temporal: bool = False
    num_classes: int = 101
    dropout: float | tuple = 0.0
    dtype: str = "float32"
    mean: float | tuple = MEAN
    std: float | tuple = STD
    order: str = "RGB"
    flow_mean: float | tuple = 0.0
    flow_std: float | tuple = 1.0

    @nn.compact
    def __call__(self, video, *, train):
        _check(self, video)
        spatial, temporal = (self.tower(name) for name in ("spatial", "temporal"))
        x = normalise(video["rgb"], self.mean, self.std, self.order).astype(self.dtype)
        y = normalise(video["flow"], self.flow_mean, self.flow_std).astype(self.dtype)
        out, last = {}, ""
        for layer in self.at:
            ours = spatial(x, train=train, after=last, until=layer)
            theirs = temporal(y, train=train, after=last, until=layer)
            _note(out, spatial=ours, temporal=theirs)
            x, y = ours[vgg.find(spatial, layer)], theirs[vgg.find(temporal, layer)]
            x = out[f"fusion_{layer}"] = self.fuse(x, y, f"fusion_{layer}")
            last = layer
        if self.op == "bilinear" and self.at:
            found = {"spatial": x.mean(axis=1)}
        else:
            found = {"spatial": self.finish(spatial, x, last, out, train)}
        if self.keep_temporal or not self.at:
            found["temporal"] = self.finish(temporal, y, last, out, train)
        return self.scores(found, out)

    def tower(self, name):
        """The net of one stream."""
        fields = {"dtype": self.dtype, "pool_frames": self.pool_frames, "dropout": self.dropout}
        return backbones.build(getattr(self, name), **fields, name=name)

    def finish(self, net, x, last, out, train):
        """The rest of a tower after the layer `last`: -> features (B, D), averaged over time; notes its layers."""
        found = net(x, train=train, after=last)
        _note(out, **{net.name: found})
        return found["features"].mean(axis=1)

    def fuse(self, x, y, name):
        """Maps (B, T, H, W, D) of both streams, or activations (B, T, D), put together by `op` (section 3.1)."""
        x, y = same_size(x, y)
        match self.op:
            case "sum":
                return x + y
            case "max":
                return jnp.maximum(x, y)
            case "concat":
                return jnp.stack([x, y], axis=-1).reshape(*x.shape[:-1], -1)  # x1, y1, x2, y2, ...
            case "bilinear":
                return bilinear(x.astype(jnp.float32), y.astype(jnp.float32))
        both, flat = jnp.concatenate([x, y], axis=-1), x.ndim == 3
        both = both[:, :, None, None] if flat else both
        kernel = (1, 1, 1) if flat else self.kernel
        pads = tuple((k // 2, k // 2) for k in kernel)
        init = summing(self.weights, self.taps)
        conv = Conv3D(x.shape[-1], kernel, padding=pads, use_bias=True, dtype=self.dtype, kernel_init=init, name=name)
        z = nn.relu(conv(both))
        return z[:, :, 0, 0] if flat else z

    def scores(self, found, out):
        """(logits, out) of the features of the fused tower and, where it goes on, the temporal one."""
        x = out["pre_logits"] = jnp.concatenate([*found.values()], axis=-1)
        if not self.num_classes:
            return x, out
        dense = functools.partial(nn.Dense, self.num_classes, kernel_init=nn.initializers.normal(0.01))
        scores = {stream: dense(name=f"{stream}_head")(x) for stream, x in found.items()}
        out |= {f"{stream}_logits": x for stream, x in scores.items()}
        if len(scores) == 1:
            return scores["spatial"], out
        out |= {f"aux_logits/{stream}": x for stream, x in scores.items()}
        both = jnp.stack([jax.nn.log_softmax(x) for x in scores.values()])
        return jax.nn.logsumexp(both, axis=0) - jnp.log(len(both)), out


def same_size(x, y):
    """Maps of two streams, the smaller one padded with zeros below and right where it lacks one row and column.

    (B, T, H, W, D) and (B, T, H', W', D): VGG-16 has 14x14 where VGG-M has 13x13 (section 4.4).
    """
    if x.ndim == 3:
        return x, y
    h, w = (max(sizes) for sizes in zip(x.shape[2:4], y.shape[2:4], strict=True))

    def padded(x):
        low = (h - x.shape[2], w - x.shape[3])
        if max(low) > 1:
            raise ValueError(
                f"two_stream_fusion cannot fuse maps of {x.shape[2]}x{x.shape[3]} and {h}x{w}: "
                f"choose layers in the field at where the two nets differ by one row and column at most."
            )
        return jnp.pad(x, ((0, 0), (0, 0), (0, low[0]), (0, low[1]), (0, 0)))

    return padded(x), padded(y)


def bilinear(x, y):
    """Outer products of both streams' channels, summed over places, L2 norm 1: twice (B, T, H, W, D) -> (B, T, D * D).

    Equation 5 of the paper; a linear SVM follows there.
    """
    z = jnp.einsum("bthwi,bthwj->btij", x, y).reshape(*x.shape[:2], -1)
    return z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def summing(weights, taps):
    """Initializer of a kernel (t, h, w, 2 D, D) that adds channel d of both streams, each times its weight."""

    def init(key, shape, dtype=jnp.float32):
        extent, features = shape[:3], shape[-1]
        away = np.stack(np.meshgrid(*(np.arange(k) - k // 2 for k in extent), indexing="ij"))
        share = np.exp(-np.square(away).sum(0) / 2) if taps == "gaussian" else (away == 0).all(0)
        share = (share / share.sum()).reshape(*extent, 1, 1)
        return jnp.asarray(share * np.concatenate([w * np.eye(features) for w in weights]), dtype)

    return init


def _note(out, **towers):
    """Keeps the activations of towers under their names."""
    for tower, found in towers.items():
        out |= {f"{tower}/{layer}": value for layer, value in found.items()}


def _check(model, video):
    """ValueError unless the fields agree and both inputs are there."""
    if model.op not in OPS:
        raise ValueError(f"two_stream_fusion's field op is one of {', '.join(OPS)}, not {model.op!r}.")
    if model.taps not in ("centre", "gaussian"):
        raise ValueError(f"two_stream_fusion's field taps is 'centre' or 'gaussian', not {model.taps!r}.")
    if model.op == "bilinear" and len(model.at) > 1:
        raise ValueError("two_stream_fusion's bilinear fusion is the last layer: name one layer in the field at.")
    for key in ("rgb", "flow"):
        if not (isinstance(video, dict) and key in video):
            raise ValueError(f"two_stream_fusion needs the input {key!r}; name rgb and flow in data.modalities.")
    if video["rgb"].shape[1] != video["flow"].shape[1]:
        raise ValueError(
            f"two_stream_fusion needs a stack of flow for each frame, not {video['flow'].shape[1]} "
            f"for {video['rgb'].shape[1]}."
        )
