"""A 2-D CNN on each frame, its features or scores pooled over frames: the baseline that sees no order, and TSN.

Papers: Large-scale Video Classification with Convolutional Neural Networks (Karpathy et al., CVPR 2014), single-frame
net; Temporal Segment Networks (Wang et al., ECCV 2016): one frame or flow stack a segment and the consensus of their
scores; TSM (Lin et al., ICCV 2019), whose backbones shift channels between frames. The nets are in vidjax/backbones.
Input: RGB in [0, 1] or stacks of flow in [-1, 1], (B, T, H, W, C); T = 1 is the single-frame net. For videos of unequal
length a dict {rgb or flow, frame_mask (B, T)}: frames whose mask is 0 are left out. Output: logits (B, num_classes).
References: torchvision's image nets on every frame; yjxiong's TSN (`tsn`) and mit-han-lab's TSM (`tsm`) in PyTorch.
"""

import flax.linen as nn
import jax.numpy as jnp

from vidjax import backbones
from vidjax.backbones import alexnet, bn_inception, mobilenet, resnet, shufflenet, vgg
from vidjax.nn import Streaming, fresh_state, normalise

# ImageNet statistics of torchvision's presets, and what BN-Inception's weights expect: BGR of [0, 255] minus a mean.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = {"order": "BGR", "mean": (104 / 255, 117 / 255, 128 / 255), "std": 1 / 255}

_NETS = ("small", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet", "vgg16", "inception_v1")
_NETS += ("mobilenet_v2", "shufflenet_v2_x1_0")
VARIANTS = {net: {"backbone": net} for net in _NETS}
VARIANTS["inception_v1"] |= {"mean": 0.5, "std": 0.5}
VARIANTS |= {"bn_inception": {"backbone": "bn_inception", "consensus": "logits"} | CAFFE}  # section 3 of TSN
VARIANTS |= {  # section 4 of TSM
    f"tsm_{net}": {"backbone": net, "fields": (("shift", 8),), "consensus": "logits"}
    for net in ("resnet18", "resnet50", "resnet101", "mobilenet_v2")
}
VARIANTS |= {  # section 4.2: shifted only from the past, so that frames may come one by one
    f"tsm_{net}_online": {"backbone": net, "fields": (("shift", 8), ("online", True)), "consensus": "logits"}
    for net in ("resnet18", "resnet50", "mobilenet_v2")
}

_TSM = "Lin et al., ICCV 2019"


def _size(params, gmac, paper, *, frames=1, size=224, classes=1000):
    return {"input": (frames, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


_HE, _TSN = "He et al., CVPR 2016", "Wang et al., ECCV 2016"
SIZES = {  # [P] published, [C] computed from the definition; GMAC per view
    "small": _size(70_488, 0.094, "none (small clips)", frames=8, size=40, classes=8),  # [C]
    "resnet18": _size(11_689_512, 1.814, _HE),  # [P] torchvision, as the rest without a mark
    "resnet34": _size(21_797_672, 3.664, _HE),
    "resnet50": _size(25_557_032, 4.089, _HE),
    "resnet101": _size(44_549_160, 7.801, _HE),
    "resnet152": _size(60_192_808, 11.514, _HE),
    "alexnet": _size(61_100_840, 0.714, "Krizhevsky, 2014; Karpathy et al., CVPR 2014"),
    "vgg16": _size(138_357_544, 15.470, "Simonyan & Zisserman, ICLR 2015"),
    "inception_v1": _size(6_624_904, 1.498, "Szegedy et al., CVPR 2015"),  # [C], with the norms' scales
    "mobilenet_v2": _size(3_504_872, 0.301, "Sandler et al., CVPR 2018"),
    "shufflenet_v2_x1_0": _size(2_278_604, 0.145, "Ma et al., ECCV 2018"),
    "bn_inception": _size(10_373_765, 2.032, _TSN, classes=101),  # [P] parameters of TSN's caffemodel
    "tsm_resnet18": _size(11_381_712, 14.510, _TSM, frames=8, classes=400),  # [C]
    "tsm_resnet50": _size(24_327_632, 32.704, _TSM, frames=8, classes=400),  # [P] 24.3 M, 33 G
    "tsm_resnet101": _size(43_319_760, 62.401, _TSM, frames=8, classes=400),  # [C]
    "tsm_mobilenet_v2": _size(2_736_272, 2.400, _TSM, frames=8, classes=400),  # [C]
    "tsm_resnet18_online": _size(11_381_712, 14.510, _TSM, frames=8, classes=400),  # [C], as the rest
    "tsm_resnet50_online": _size(24_327_632, 32.704, _TSM, frames=8, classes=400),
    "tsm_mobilenet_v2_online": _size(2_736_272, 2.400, _TSM, frames=8, classes=400),
}


class Model(Streaming):
    """Frame pooling: float32 (B, T, H, W, C), or a dict with `frame_mask` -> float32 logits (B, classes), activations.

    `backbone` names a net of vidjax/backbones, `fields` are pairs (field, value) of it. The frames meet in their
    `consensus`: "features", pooled before the head; "logits", the pooled scores of a head on every frame;
    "prob", the mean of its softmax, whose logarithm is returned. `pool` is "mean" or "max".
    The activations of the net are there by name; `frames` (B, T, D) are its features, `frame_logits` the scores.
    A net that reads every frame alone, or shifts `online`, takes a video in pieces too: `stream` gives the logits of
    all frames so far.
    """

    backbone: str
    fields: tuple = ()
    pool: str = "mean"
    consensus: str = "features"
    num_classes: int = 1000
    dropout: float = 0.0
    dtype: str = "float32"
    order: str = "RGB"
    mean: float | tuple = MEAN
    std: float | tuple = STD

    def initial_state(self, batch, height, width, channels=3):
        """The state before the first frame: {"backbone", "pooled", "frames"}; ValueError if the net sees ahead."""
        fields = dict(self.fields)
        if fields.get("shift") and not fields.get("online"):
            raise ValueError("This TSM sees the next frame; choose a variant that does not: tsm_resnet50_online.")
        state = fresh_state(self, (batch, 1, height, width, channels))
        return state if self.pool == "mean" else state | {"pooled": jnp.full_like(state["pooled"], -jnp.inf)}

    @nn.compact
    def forward(self, video, state, train):
        """Logits, activations and state of a clip: the first where `state` is {}, a whole one where it is None."""
        _check(self)
        video, mask = _inputs(video, self)
        x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
        net = backbones.build(self.backbone, dtype=self.dtype, name="backbone", **dict(self.fields))
        if dict(self.fields).get("online"):
            out = net(x, train=train, state=None if state is None else state.get("backbone", {}))
        else:
            out = net(x, train=train)
        x = out["frames"] = out.pop("features")
        new = {"backbone": out.pop("state", {})}

        def over_time(x, pool):
            if state is None:
                return pooled(x, mask, pool)
            x, kept = so_far(x, pool, state)
            new.update(kept)
            return x

        dropout = nn.Dropout(self.dropout, deterministic=not train, name="dropout")
        if self.consensus == "features" or not self.num_classes:
            x = out["pre_logits"] = dropout(over_time(x, self.pool))
            return (self.head()(x) if self.num_classes else x), out, new
        out["pre_logits"] = pooled(x, mask, self.pool)
        x = out["frame_logits"] = self.head()(dropout(x))
        if self.consensus == "logits":
            return over_time(x, self.pool), out, new
        return jnp.log(over_time(nn.softmax(x), "mean")), out, new

    def head(self):
        """The classifier."""
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")


def pooled(x, mask, pool):
    """Mean or maximum over the frames that `mask` (B, T) leaves, or over all: (B, T, D) -> (B, D); of none it is 0."""
    if mask is None:
        return x.mean(axis=1) if pool == "mean" else x.max(axis=1)
    real = mask[..., None] > 0
    if pool == "max":
        return jnp.where(real.any(axis=1), jnp.where(real, x, -jnp.inf).max(axis=1), 0)
    return jnp.where(real, x, 0).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)


def so_far(x, pool, state):
    """Mean or maximum over all frames since `state` was {}: (B, t, D) -> (B, D), {"pooled": (B, D), "frames": ()}."""
    frames = state.get("frames", 0) + jnp.int32(x.shape[1])
    if pool == "max":
        x = jnp.maximum(x.max(axis=1), state.get("pooled", -jnp.inf))
        return x, {"pooled": x, "frames": frames}
    total = x.sum(axis=1) + state.get("pooled", 0)
    return total / frames, {"pooled": total, "frames": frames}


def _inputs(video, model):
    """(video, None) or, of a dict, (its one video, frame_mask)."""
    if not isinstance(video, dict):
        return video, None
    rest = {key: value for key, value in video.items() if key != "frame_mask"}
    if len(rest) != 1:
        raise ValueError(f"frame_pool takes one of rgb and flow, and a frame_mask, not {', '.join(sorted(video))}.")
    if "frame_mask" in video and dict(model.fields).get("shift"):
        raise ValueError("frame_pool's field shift moves features between frames and so cannot leave out masked ones.")
    return next(iter(rest.values())), video.get("frame_mask")


def _check(model):
    """ValueError unless the fields agree."""
    if model.pool not in ("mean", "max"):
        raise ValueError(f"frame_pool's field pool is 'mean' or 'max', not {model.pool!r}.")
    if model.consensus not in ("features", "logits", "prob"):
        raise ValueError(f"frame_pool's field consensus is 'features', 'logits' or 'prob', not {model.consensus!r}.")
    if model.consensus == "prob" and model.pool == "max":
        raise ValueError(
            "frame_pool's field pool is 'mean' where the consensus is 'prob': a maximum is no probability."
        )


# What the weights of a source expect: the model's own first lines apply order, mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 1,
    "resize": 256,
    "size": 224,
}


def _row(variant, rules, head, frames, **fields):
    """A row of REFERENCES whose classifier is called `head`; the preprocessing follows from the model's fields."""
    name = head.replace(".", r"\.")
    rules = [
        *rules,
        (rf"{name}\.weight", "params/head/kernel", "oi_to_io"),
        (rf"{name}\.bias", "params/head/bias", None),
    ]
    preprocess = PREPROCESS | {"frames": frames}
    preprocess |= {key: value for key, value in (VARIANTS[variant] | fields).items() if key in preprocess}
    if frames > 1:
        preprocess["sampler"] = "tsm_segments" if variant.startswith("tsm") else "segments"
    row = {"variant": variant, "fields": fields, "table": rules, "head": f"{head}.bias", "preprocess": preprocess}
    return row | ({"input": (frames, 224, 224, 10)} if fields.get("mean") == 0.0 else {})  # five fields of flow


def flat_norms(tensors):
    """Tensors by name with the vectors of norms (C,), which the first release of BN-Inception has as (1, C)."""
    return {name: x.reshape(-1) if "_bn." in name and x.ndim == 2 else x for name, x in tensors.items()}


_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_BASE = r"base_model\."  # TSN's and TSM's code keeps a net there, without its classifier
_TSN_NETS = {net: (net, resnet.table(_BASE), 2 * 0.226) for net in _RESNETS}  # its code's statistics of flow in [0, 1]
_TSN_NETS["bninception"] = ("bn_inception", bn_inception.table(_BASE), 2 / 255)  # flow in [0, 255] minus 128

REFERENCES = {("torchvision", net): _row(net, resnet.table(), "fc", 1) for net in _RESNETS}
REFERENCES |= {  # (source, the source's own name of the net)
    ("torchvision", net): _row("vgg16", vgg.table(net=net), "classifier.6", 1, backbone=net)
    for net in vgg.VARIANTS
    if net.startswith("vgg")
}
REFERENCES |= {
    ("torchvision", net): _row("shufflenet_v2_x1_0", shufflenet.table(), "fc", 1, backbone=net)
    for net in shufflenet.VARIANTS
}
REFERENCES |= {("tsn", net): _row(ours, rules, "new_fc", 25) for net, (ours, rules, _) in _TSN_NETS.items()}
REFERENCES |= {
    ("tsn", f"{net}_flow"): _row(ours, rules, "new_fc", 25, order="RGB", mean=0.0, std=std)
    for net, (ours, rules, std) in _TSN_NETS.items()
}
REFERENCES |= {
    ("tsm", net): _row("tsm_resnet50", resnet.table(_BASE, wrapped=1 + (net == "resnet101")), "new_fc", 8, backbone=net)
    for net in _RESNETS[:4]
}
REFERENCES |= {
    ("torchvision", "alexnet"): _row("alexnet", alexnet.table(), "classifier.6", 1),
    ("torchvision", "mobilenet_v2"): _row("mobilenet_v2", mobilenet.table(), "classifier.1", 1),
    ("tsm", "mobilenetv2"): _row("tsm_mobilenet_v2", mobilenet.table_tsm(_BASE), "new_fc", 8),
    ("tsm", "mobilenetv2_online"): _row("tsm_mobilenet_v2_online", mobilenet.table_tsm(online=True), "classifier", 8),
    ("yjxiong", "bninception"): _row("bn_inception", bn_inception.table(), "fc", 1)
    | {"prepare": flat_norms, "restore": dict},
}
