"""Hidden two-stream: MotionNet estimates the flow that a temporal stream classifies, the two trained as one net.

Paper: Hidden Two-Stream Convolutional Networks for Action Recognition (Zhu et al., ACCV 2018).
Input: RGB in [0, 1], (B, 11, 224, 224, 3), consecutive frames. Output: logits (B, num_classes) of the ten fields
between them; `motion` is what the temporal stream sees; in training `loss/photometric`, `loss/ssim` and
`loss/smoothness`, each (B,), are MotionNet's own (models/motionnet.py).
Reference: bryanyzhu/Hidden-Two-Stream (Caffe, BGR: the table turns its first layer round). The spatial stream is a
model of its own (models/two_stream.py), its scores fused 1 : 1.5.
"""

import flax.linen as nn
import jax.numpy as jnp

from vidjax import backbones
from vidjax.models import motionnet

PAPER = motionnet.PAPER

VARIANTS = {
    "full": {"motion": "full", "net": "vgg16", "net_dropout": (0.9, 0.8)},  # the released prototxt
    "tiny": {"motion": "tiny", "net": "vgg16", "net_dropout": (0.9, 0.8)},  # the paper's Tiny-MotionNet
    "small": {"motion": "mini", "net": "small", "frames": 8},  # ours, for clips of about 8x40x40
}


def _size(params, gmac, *, frames=11, size=224, classes=101, paper=PAPER):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_hidden_two_stream.py); GMAC per view
    "full": _size(177_003_993, 36.012),
    "tiny": _size(136_634_441, 28.743),
    "small": _size(262_738, 0.077, frames=8, size=40, classes=8, paper="none (small clips)"),
}


class Model(nn.Module):
    """Hidden two-stream: float32 RGB (B, frames, H, W, 3) in [0, 1] -> float32 logits (B, num_classes), activations.

    `motion` is a variant of motionnet, `net` a 2-D net of vidjax/backbones with `net_dropout`, where it has any.
    Flow is clipped at `bound` pixels; the temporal stream sees it as the bytes of a stored field less 128.
    ValueError for another number of frames.
    """

    motion: str
    net: str
    net_dropout: float | tuple | None = None
    frames: int = 11
    bound: float = 20.0
    num_classes: int = 101
    dropout: float = 0.0
    dtype: str = "float32"
    mean: float | tuple = motionnet.MEAN
    std: float | tuple = 1.0

    @nn.compact
    def __call__(self, video, *, train):
        motion = flow_net(self, name="motionnet")
        _, found = motion(video, train=train)
        out = {f"motionnet/{name}": value for name, value in found.items()}
        x = out["motion"] = as_stored(found["flow2"], self.bound, video.shape[2:4])
        options = {"dtype": self.dtype} | ({} if self.net_dropout is None else {"dropout": self.net_dropout})
        stream = backbones.build(self.net, name="temporal", **options)(x[:, None].astype(self.dtype), train=train)
        out |= {f"temporal/{name}": value for name, value in stream.items()}
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(stream["features"][:, 0])
        x = out["pre_logits"] = x.astype(jnp.float32)
        if train:
            out |= {f"loss/{name}": value for name, value in motionnet.losses(motion, video, found).items()}
        if self.num_classes:
            x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.001), name="head")(x)
        return x, out


def flow_net(model, **place):
    """The MotionNet of a Model, whose parameters are `motionnet` of its own; `place` are Linen's name and parent."""
    known = {"frames": model.frames, "dtype": model.dtype, "mean": model.mean, "std": model.std}
    return motionnet.Model(**(motionnet.VARIANTS[model.motion] | known), **place)


def as_stored(flow, bound, size):
    """Flow of half the size in pixels of its grid -> what a temporal stream of stored flow sees, less 128.

    (B, n, h, w, 2) -> (B, H, W, 2n), x1, y1, x2, ...: pixels of the input, clipped at `bound`, as 0 ... 255, doubled
    bilinearly with zeros around it as the reference does, which the few pixels at the edge show.
    """
    levels = (jnp.clip(2 * flow, -bound, bound) + bound) * (255 / (2 * bound))
    x = motionnet.double(levels, repeat=False)[:, :, : size[0], : size[1]] - 128
    b, n, h, w, _ = x.shape
    return jnp.moveaxis(x, 1, 3).reshape(b, h, w, 2 * n)


def _turned(x):
    """A Caffe kernel over stacked BGR frames -> ours over RGB frames: (F, 3T, h, w) -> (1, h, w, 3T, F)."""
    f, c, h, w = x.shape
    return x.reshape(f, c // 3, 3, h, w)[:, :, ::-1].reshape(f, c, h, w).transpose(2, 3, 1, 0)[None]


def _turned_back(x):
    """The inverse of `_turned`."""
    _, h, w, c, f = x.shape
    return x[0].reshape(h, w, c // 3, 3, f)[:, :, :, ::-1].reshape(h, w, c, f).transpose(3, 2, 0, 1)


def _flat(x, side=7):
    """A Caffe fc over a (C, h, w) map -> ours over a (h, w, C) one: (F, N) -> (N, F)."""
    return x.reshape(len(x), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(x))


def _flat_back(x, side=7):
    """The inverse of `_flat`."""
    return x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1)


FIRST = (4, _turned, _turned_back)
FC6 = (2, _flat, _flat_back)
DECONV = (4, lambda x: x.transpose(2, 3, 0, 1)[None], lambda x: x[0].transpose(2, 3, 0, 1))  # Caffe: (in, out, h, w)


def _rules(source, path, kernel, inner="/conv"):
    """Conversion rules of one Caffe layer's blobs: 0 is the kernel, 1 the bias."""
    return [
        (f"{source}/0", f"params/{path}{inner}/kernel", kernel),
        (f"{source}/1", f"params/{path}/bias", None),
    ]


CAFFE = [  # (layer/blob, our path or None to drop it, transform)
    *_rules("conv1", "motionnet/conv1", FIRST),
    *_rules(r"(conv[2-6]|conv[1-6]_1)", r"motionnet/\1", "oihw_to_1hwio"),
    *_rules(r"conv_pr(\d)", r"motionnet/predict\1", "oihw_to_1hwio"),
    *_rules(r"smooth_conv(\d)", r"motionnet/smooth\1", "oihw_to_1hwio"),
    *_rules(r"deconv(\d)", r"motionnet/deconv\1", DECONV, ""),
    *(rule for n in range(2, 6) for rule in _rules(f"upsample_flow{n + 1}to{n}", f"motionnet/up{n}", DECONV, "")),
    *_rules(r"(conv\d_\d)_vgg16", r"temporal/\1", "oihw_to_1hwio", ""),
    *_rules("fc6_vgg16", "temporal/fc6", FC6, ""),
    *_rules("fc7_vgg16", "temporal/fc7", "oi_to_io", ""),
    *_rules("fc8_vgg16", "head", "oi_to_io", ""),
    (r"(predict_flow2_|boudary_|FlowScale|FlowDeltas|\w*Mask)\w*/\d", None, None),  # constants
]

# What the weights expect: whole frames at 340x256, of which 224x224 are cut.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": motionnet.MEAN,
    "std": 1.0,
    "frames": 11,
    "stride": 1,
    "resize": (256, 340),
    "size": 224,
}
REFERENCES = {
    ("hidden_two_stream", "stack_motionnet_vgg16"): {
        "variant": "full",
        "table": CAFFE,
        "head": "fc8_vgg16/1",
        "preprocess": PREPROCESS,
    },
}
