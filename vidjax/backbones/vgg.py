"""Plain stacks of convolutions with fully connected layers: VGG-11 to VGG-19, and CNN-M-2048 with response norms.

Papers: Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan & Zisserman, ICLR 2015), table 1;
Return of the Devil in the Details (Chatfield et al., BMVC 2014), table 1, CNN-M with the fc7 of 2048.
References: torchvision.models.vgg* (`_bn` with batch norm); the Caffe and MatConvNet releases of VGG_CNN_M_2048, whose
pools round up: 224 -> 109 -> 54 -> 26 -> 13 -> 6.
"""

import math
import re

import flax.linen as nn
import jax.numpy as jnp

from vidjax import rules
from vidjax.nn import BatchNorm, Conv3D, ceil_pads, local_response_norm, max_pool

_VGG = {
    "widths": (64, 128, 256, 512, 512),
    "kernels": (3,) * 5,
    "strides": (1,) * 5,
    "pads": (1,) * 5,
    "pools": (1, 2, 3, 4, 5),
    "window": 2,
}
_DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_CNN_M = {
    "depths": (1,) * 5,
    "widths": (96, 256, 512, 512, 512),
    "kernels": (7, 5, 3, 3, 3),
    "strides": (2, 2, 1, 1, 1),
    "pads": (0, 1, 1, 1, 1),
    "norms": (1, 2),
    "pools": (1, 2, 5),
    "window": 3,
    "fc": (4096, 2048),
}

VARIANTS = {net: _VGG | {"depths": depths} for net, depths in _DEPTHS.items()}
VARIANTS |= {f"{net}_bn": VARIANTS[net] | {"batch_norm": True} for net in _DEPTHS}
VARIANTS["cnn_m_2048"] = _CNN_M
VARIANTS["cnn_m_2048_temporal"] = _CNN_M | {"norms": (1,)}  # Simonyan & Zisserman, NIPS 2014, section 5: to save memory

VARIANTS["vgg_small"] = {  # ours, for frames of about 40x40
    "depths": (1,) * 4,
    "widths": (16, 32, 48, 64),
    "kernels": (3,) * 4,
    "strides": (1,) * 4,
    "pads": (1,) * 4,
    "pools": (1, 2),
    "window": 2,
    "fc": (),
    "batch_norm": True,
}


class Backbone(nn.Module):
    """Plain net on every frame: (B, T, H, W, C) -> activations, `map` the last pool's, `features` the last fc's.

    Stages are counted from 1: `norms` and `pools` say which end in a response norm and a max pool of `window` pixels
    and stride 2, rounded up if it overlaps. The layers of `layers(net)` are named conv1 (one a stage throughout) or
    conv1_1, norm1, pool1, ..., fc6, fc7; a convolution or fc is its ReLU's output, an fc after its dropout, one
    number of `dropout` each or one for all. Without `fc`, `features` (B, T, D) is the mean of `map`.
    `after` and `until` run a part: the layers that follow one whose activation `x` is, and none past another.
    The last pool takes `pool_frames` frames together, two apart; all of them where there are fewer.
    """

    depths: tuple
    widths: tuple
    kernels: tuple
    strides: tuple
    pads: tuple
    pools: tuple
    window: int
    norms: tuple = ()
    fc: tuple = (4096, 4096)
    batch_norm: bool = False
    pool_frames: int = 1
    dropout: float | tuple = 0.5
    dtype: str = "float32"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train, after="", until=""):
        names, out = layers(self), {}
        first = names.index(find(self, after)) + 1 if after else 0
        last = names.index(find(self, until)) + 1 if until else len(names)
        for name in names[first:last]:
            x = out[name] = self.layer(name, x, train)
            if name.startswith("pool"):
                out["map"] = x
        if not until:
            out["map"] = out.get("map", x)
            out["features"] = x.astype(jnp.float32) if self.fc else x.astype(jnp.float32).mean(axis=(2, 3))
        return out

    def layer(self, name, x, train):
        """One layer of `layers` by its name: (B, T, H, W, C) -> (B, T, H', W', C'), of an fc (B, T, D)."""
        kind, stage, place = re.fullmatch(r"([a-z]+)(\d+)(_\d+)?", name).groups()
        match kind:
            case "conv":
                return self.convolution(name, int(stage) - 1, place or "", x, train)
            case "norm":
                return local_response_norm(x, 5, 5e-4, 0.75, 2.0)  # Caffe divides 5e-4 by 5
            case "pool":
                frames = min(self.pool_frames, x.shape[1]) if int(stage) == max(self.pools) else 1
                window, strides = (frames, self.window, self.window), (1 if frames == 1 else 2, 2, 2)
                pads = ceil_pads(x.shape[1:4], window, strides) if self.window > 2 else "VALID"
                return max_pool(x, window, strides, pads)
        i = int(stage) - 6
        x = x.reshape(*x.shape[:2], -1)
        x = nn.relu(nn.Dense(self.fc[i], dtype=self.dtype, name=name)(x))
        rate = self.dropout[i] if isinstance(self.dropout, tuple) else self.dropout
        return nn.Dropout(rate, deterministic=not train, name=f"dropout{stage}")(x)

    def convolution(self, name, i, place, x, train):
        """One convolution of stage i (from 0), its batch norm if there is one, ReLU."""
        k, s, p = self.kernels[i], self.strides[i], self.pads[i]
        pads = ((0, 0), (p, p), (p, p))
        x = Conv3D(self.widths[i], (1, k, k), (1, s, s), pads, use_bias=True, dtype=self.dtype, name=name)(x)
        if self.batch_norm:
            norm = BatchNorm(not train, self.bn_momentum, self.bn_epsilon, self.dtype, name=f"bn{i + 1}{place}")
            x = norm(x)
        return nn.relu(x)


def layers(net):
    """The names of a net's layers in their order: conv1_1, conv1_2, pool1, ..., fc6, fc7."""
    sizes = [len(f) for f in (net.depths, net.widths, net.kernels, net.strides, net.pads)]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"vgg needs depths, widths, kernels, strides and pads of one length (the stages), not {sizes}."
        )
    names, single = [], max(net.depths) == 1
    for i, depth in enumerate(net.depths, 1):
        names += [f"conv{i}" if single else f"conv{i}_{j}" for j in range(1, depth + 1)]
        names += [f"{kind}{i}" for kind, stages in (("norm", net.norms), ("pool", net.pools)) if i in stages]
    return names + [f"fc{i}" for i in range(6, 6 + len(net.fc))]


def find(net, name):
    """The layer that `name` means: itself, or of a stage ("conv5") the last convolution; ValueError without one."""
    names = layers(net)
    found = [layer for layer in names if layer == name or layer.startswith(f"{name}_")]
    if not found:
        raise ValueError(f"This net of vidjax/backbones/vgg.py has no layer {name!r}; there are {', '.join(names)}.")
    return found[-1]


def table(source="", path="backbone", net="vgg16"):
    """Conversion rules of a net from names after the regex `source` to parameters below `path`.

    VGG as torchvision counts its layers, CNN-M by Caffe's layer names (`conv1.weight`, `fc6.bias`). The last fully
    connected layer is the family's head: torchvision's `classifier.6`, Caffe's `fc8`.
    """
    backbone, caffe = Backbone(**VARIANTS[net]), net.startswith("cnn_m")
    channels = backbone.widths[-1]
    flat = (2, lambda x: _flat(x, channels), lambda x: _unflat(x, channels))
    found, at = [], 0  # the number of torchvision's next module
    for name in layers(backbone):
        kind, stage = re.match(r"([a-z]+)(\d)", name).groups()
        if kind == "conv":
            theirs, kernel = f"features.{at}", "oihw_to_1hwio"
            if backbone.batch_norm:
                norm = rf"{source}features\.{at + 1}"
                found += rules.norm(norm, f"{path}/{name.replace('conv', 'bn')}")
                found.append((rf"{norm}\.num_batches_tracked", None, None))
            at += 3 if backbone.batch_norm else 2
        elif kind == "fc":
            theirs, kernel = f"classifier.{3 * int(stage) - 18}", flat if name == "fc6" else "oi_to_io"
        else:
            at += kind == "pool"
            continue
        theirs = source + re.escape(name if caffe else theirs)
        found.append((rf"{theirs}\.weight", f"params/{path}/{name}/kernel", kernel))
        found.append((rf"{theirs}\.bias", f"params/{path}/{name}/bias", None))
    return found


def _flat(x, channels):
    """A fully connected kernel over a flattened (C, h, w) map -> over our flattened (h, w, C): (F, N) -> (N, F)."""
    side = math.isqrt(x.shape[1] // channels)
    return x.reshape(len(x), channels, side, side).transpose(2, 3, 1, 0).reshape(-1, len(x))


def _unflat(x, channels):
    """The inverse of `_flat`."""
    side = math.isqrt(x.shape[0] // channels)
    return x.reshape(side, side, channels, -1).transpose(3, 2, 0, 1).reshape(x.shape[1], -1)
