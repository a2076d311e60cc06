"""Two streams: one net sees frames, another stacks of flow fields; their scores are averaged or their features joined.

Papers: Two-Stream Convolutional Networks for Action Recognition in Videos (Simonyan & Zisserman, NIPS 2014), figure 1
and section 5: CNN-M-2048 twice, the temporal one without its second response norm. Towards Good Practices for Very Deep
Two-Stream ConvNets (Wang et al., arXiv:1507.02159): VGG-16 twice. Any pair of backbones, T frames of each, features
averaged over frames and joined by a fully connected layer: `fusion` "concat".
Input: {"rgb": (B, T, H, W, 3) in [0, 1], "flow": (B, T', H, W, 2L) in [-1, 1]}, x before y of each field, or one of the
two alone where a variant has one stream. Output: logits (B, num_classes).
Training: a stream alone, both at once by `aux_logits`, or in turns and then the fusion with the phases
`(?:spatial).*`, `(?:temporal).*`, `head/.*` (configs/two_stream_alternating.py). The temporal net's first kernel, which
starts as the mean of an RGB net's over its channels, is temporal/conv1 of CNN-M, temporal/conv1_1 of a VGG and
temporal/stem/conv of a ResNet.
Reference: bryanyzhu/two-stream-pytorch, `rgb_vgg16` and `flow_vgg16`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax import backbones
from vidjax.backbones import resnet, vgg
from vidjax.nn import normalise

PAPER = "Simonyan & Zisserman, NIPS 2014"

# ImageNet statistics of torchvision's presets; Caffe's nets see pixels of 0 ... 255 less the mean, blue first.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE = {"order": "BGR", "mean": (103.939 / 255, 116.779 / 255, 123.68 / 255), "std": 1 / 255, "flow_std": 1 / 127.5}
_SPATIAL = {"spatial": "cnn_m_2048"} | _CAFFE
_TEMPORAL = {"temporal": "cnn_m_2048_temporal"} | _CAFFE

VARIANTS = {
    "spatial": _SPATIAL | {"dropout": 0.9},
    "temporal": _TEMPORAL | {"dropout": 0.9},
    "two_stream": _SPATIAL | _TEMPORAL | {"dropout": 0.9},
    "vgg16_spatial": {"spatial": "vgg16", "dropout": 0.9},  # Wang et al., section 3
    "vgg16_temporal": {"temporal": "vgg16", "dropout": (0.9, 0.8), "flow_std": 0.452},
    "vgg16": {"spatial": "vgg16", "temporal": "vgg16", "dropout": 0.9, "flow_std": 0.452},
    "resnet152_spatial": {"spatial": "resnet152", "dropout": 0.8},  # two-stream-pytorch
    "resnet152_temporal": {"temporal": "resnet152", "dropout": 0.7, "flow_std": 0.452},
    "resnet18_concat": {"spatial": "resnet18", "temporal": "resnet18", "fusion": "concat", "dropout": 0.5},  # ours
    "small": {"spatial": "vgg_small", "temporal": "vgg_small", "mean": 0.45, "std": 0.225, "flow_std": 0.5},  # ours
}


def _size(params, gmac, *, frames=1, flow=20, size=224, classes=101, paper=PAPER, streams=("rgb", "flow")):
    shapes = {"rgb": (frames, size, size, 3), "flow": (frames, size, size, flow)}
    shapes = {key: shapes[key] for key in streams}
    shapes = shapes if len(streams) > 1 else shapes[streams[0]]
    return {"input": shapes, "classes": classes, "params": params, "gmac": gmac, "paper": paper}


_WANG, _BOTH = "Wang et al., arXiv:1507.02159", "Simonyan & Zisserman, NIPS 2014; He et al., CVPR 2016"
SIZES = {  # [C] computed from the definition (tests/models/test_two_stream.py); GMAC per view, Caffe's 54 and 26 pixels
    "spatial": _size(90_627_813, 1.664, streams=("rgb",)),
    "temporal": _size(90_707_781, 2.614, streams=("flow",)),
    "two_stream": _size(181_335_594, 4.278),
    "vgg16_spatial": _size(134_674_341, 15.467, streams=("rgb",), paper=_WANG),
    "vgg16_temporal": _size(134_684_133, 15.958, streams=("flow",), paper=_WANG),
    "vgg16": _size(269_358_474, 31.424, paper=_WANG),
    "resnet152_spatial": _size(58_350_757, 11.512, streams=("rgb",), paper=_BOTH),
    "resnet152_temporal": _size(58_404_069, 12.181, streams=("flow",), paper=_BOTH),
    "resnet18_concat": _size(22_557_039, 10.764, frames=3, flow=2, paper=_BOTH),
    "small": _size(94_880, 0.105, frames=8, flow=2, size=40, classes=8, paper="none (small clips)"),
}


class Model(nn.Module):
    """Two streams: {rgb, flow} or one of them -> float32 logits (B, num_classes), activations.

    `spatial` and `temporal` name backbones; an empty one leaves its stream out. `fusion` "average" gives the log of
    the mean of both softmaxes, "concat" the scores of a layer `head` on both features. Each stream keeps scores of its
    own in `spatial_logits` and `temporal_logits`, and where there are two, a loss on them as `aux_logits`. Unless
    `joint`, the loss of the fused scores stops at the fusion and each stream learns from its own alone.
    `dropout` goes to the fully connected layers of a backbone that has some, or else comes after its features.
    `mean`, `std` and `order` are those of RGB, `flow_mean` and `flow_std` of flow.
    """

    spatial: str = ""
    temporal: str = ""
    fusion: str = "average"
    joint: bool = True
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
        _check(self)
        out, features, scores = {}, {}, {}
        for stream, x in _inputs(self, video).items():
            x = features[stream] = self.stream(stream, x, out, train)
            if self.num_classes:
                scores[stream] = out[f"{stream}_logits"] = self.head(f"{stream}_head", x)
        x = out["pre_logits"] = jnp.concatenate([*features.values()], axis=-1)
        if not self.num_classes:
            return x, out
        if len(scores) == 1:
            return next(iter(scores.values())), out
        out |= {f"aux_logits/{stream}": score for stream, score in scores.items()}
        reach = (lambda x: x) if self.joint else jax.lax.stop_gradient
        if self.fusion == "concat":
            return self.head("head", reach(x)), out
        return mean_score([reach(score) for score in scores.values()]), out

    def stream(self, name, x, out, train):
        """Features of one stream, averaged over its frames: (B, T, H, W, C) -> (B, D); its layers go to `out`."""
        net, fields = getattr(self, name), {"dtype": self.dtype}
        own = hasattr(backbones.build(net, parent=None), "dropout")
        net = backbones.build(net, **fields | ({"dropout": self.dropout} if own else {}), name=name)
        found = net(x.astype(self.dtype), train=train)
        out |= {f"{name}/{layer}": value for layer, value in found.items()}
        x = found["features"].mean(axis=1)
        if own or not self.dropout:
            return x
        return nn.Dropout(self.dropout, deterministic=not train, name=f"{name}_dropout")(x)

    def head(self, name, x):
        """Scores of features: (B, D) -> (B, num_classes)."""
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name=name)(x)


def mean_score(logits):
    """Scores whose softmax is the mean of the softmaxes of several: [(B, C), ...] -> (B, C)."""
    found = jnp.stack([jax.nn.log_softmax(x) for x in logits])
    return jax.nn.logsumexp(found, axis=0) - jnp.log(len(logits))


def _inputs(model, video):
    """The normalised input of each stream that the model has: {"spatial": rgb, "temporal": flow}."""
    wanted = {name: key for name, key in (("spatial", "rgb"), ("temporal", "flow")) if getattr(model, name)}
    if not isinstance(video, dict):
        video = dict.fromkeys(wanted.values(), video) if len(wanted) == 1 else {}
    missing = [key for key in wanted.values() if key not in video]
    if missing:
        raise ValueError(f"two_stream needs the input {missing[0]!r}; name it in data.modalities.")
    found = {"spatial": (model.mean, model.std, model.order), "temporal": (model.flow_mean, model.flow_std)}
    return {name: normalise(video[key], *found[name]) for name, key in wanted.items()}


def _check(model):
    """ValueError unless the fields agree."""
    if not (model.spatial or model.temporal):
        raise ValueError("two_stream needs a backbone in at least one of its fields spatial and temporal.")
    if model.fusion not in ("average", "concat"):
        raise ValueError(f"two_stream's field fusion is 'average' or 'concat', not {model.fusion!r}.")


def _table(stream, body):
    """Conversion rules of one net of two-stream-pytorch, from those of its body."""
    return [
        *body,
        (r"fc_action\.weight", f"params/{stream}_head/kernel", "oi_to_io"),
        (r"fc_action\.bias", f"params/{stream}_head/bias", None),
    ]


# What two-stream-pytorch's weights expect: pictures of 340x256 cut to 224; flow in images, (x / 255 - 0.5) / 0.226.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 1,
    "resize": (256, 340),
    "size": 224,
}
_STREAMS = {  # ours: theirs and its preprocessing
    "spatial": ("rgb", PREPROCESS),
    "temporal": ("flow", PREPROCESS | {"range": (-1.0, 1.0), "mean": 0.0, "std": 0.452}),
}


def _references():
    """Rows of two-stream-pytorch's nets: {(source, the source's own name): row}."""
    rows = {}
    for stream, (theirs, preprocess) in _STREAMS.items():
        row = {"head": "fc_action.bias", "preprocess": preprocess}
        vgg16 = {"variant": f"vgg16_{stream}", "stem": "features.0.weight"}
        rows["two_stream_pytorch", f"{theirs}_vgg16"] = row | vgg16 | {"table": _table(stream, vgg.table(path=stream))}
        table = _table(stream, resnet.table(path=stream))
        for net in resnet.VARIANTS:
            rows["two_stream_pytorch", f"{theirs}_{net}"] = row | {
                "variant": f"resnet152_{stream}",
                "fields": {stream: net},
                "stem": "conv1.weight",
                "table": table,
            }
    return rows


REFERENCES = _references()
