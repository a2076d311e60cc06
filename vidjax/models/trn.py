"""Temporal relation networks: a 2-D net on every frame, then small nets on ordered pairs, triples, ... of frames.

Paper: Temporal Relational Reasoning in Videos (Zhou et al., ECCV 2018), equations 1 to 3.
Input: RGB in [0, 1], (B, T, H, W, 3), one frame of each of T segments; (B, T, D) features of frames where the model
has no `backbone`. Output: logits (B, num_classes).
Reference: zhoubolei/TRN-pytorch, whose consensus modules alone are `relation` and `multiscale`.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidjax import backbones, rules
from vidjax.backbones import bn_inception, resnet
from vidjax.nn import normalise

PAPER = "Zhou et al., ECCV 2018"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's presets
_CAFFE = {"order": "BGR", "mean": (104 / 255, 117 / 255, 128 / 255), "std": 1 / 255}
_SINGLE = {"multiscale": False, "hidden": 512}

VARIANTS = {
    "bn_inception": {"backbone": "bn_inception"} | _CAFFE,  # section 4
    "bn_inception_relation": {"backbone": "bn_inception"} | _CAFFE | _SINGLE,
    "resnet50": {"backbone": "resnet50"},
    "resnet50_relation": {"backbone": "resnet50"} | _SINGLE,
    "small": {
        "backbone": "small",
        "features": 32,
        "hidden": 32,
        "dropout": 0.0,
        "mean": 0.5,
        "std": 0.25,
    },
}


def _size(params, gmac, paper=PAPER, *, size=224, classes=174):
    return {"input": (8, size, size, 3), "classes": classes, "params": params, "gmac": gmac, "paper": paper}


SIZES = {  # [C] computed from the definition (tests/models/test_trn.py); GMAC per view
    "bn_inception": _size(13_141_218, 16.261),
    "bn_inception_relation": _size(11_670_990, 16.256),
    "resnet50": _size(26_641_154, 32.708),
    "resnet50_relation": _size(25_170_926, 32.702),
    "small": _size(109_960, 0.094, "none (small clips)", size=40, classes=8),
}


class Relation(nn.Module):
    """A relation of n frames, k times: (B, k, n, D) -> sums over k of h (B, hidden) and of its scores (B, classes).

    h is equation 1's g, shared by all tuples of n frames; without classes there are no scores.
    """

    hidden: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(x).reshape(*x.shape[:2], -1)
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        scores = nn.Dense(self.num_classes, name="head")(x).sum(1) if self.num_classes else None
        return x.sum(1), scores


class Model(nn.Module):
    """TRN: float32 (B, T, H, W, C), or features (B, T, D) -> float32 logits (B, num_classes), activations.

    `backbone` names a net of vidjax/backbones; its features are projected to `features` numbers a frame. Multi-scale
    models sum relations of T, T - 1, ..., 2 frames, each of up to `tuples` ordered choices of frames: drawn anew in
    training (from the key "dropout"), in evaluation always those of NumPy's seed 0. Else one relation sees all frames.
    """

    backbone: str
    fields: tuple = ()  # (field, value) of the backbone
    features: int = 256
    hidden: int = 256
    multiscale: bool = True
    tuples: int = 3
    num_classes: int = 174
    dropout: float = 0.8
    dtype: str = "float32"
    order: str = "RGB"
    mean: float | tuple = MEAN
    std: float | tuple = STD

    @nn.compact
    def __call__(self, video, *, train):
        out, x = {}, jnp.asarray(video)
        if self.backbone:
            x = normalise(video, self.mean, self.std, self.order).astype(self.dtype)
            net = backbones.build(self.backbone, dtype=self.dtype, name="backbone", **dict(self.fields))
            out |= net(x, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(out.pop("features"))
            x = nn.Dense(self.features, kernel_init=nn.initializers.normal(1e-3), name="project")(x)
        if x.shape[1] < 2:
            raise ValueError("trn relates frames and needs at least two of them; set data.clip.size to 2 or more.")
        out["frames"], hidden, total = x, [], 0.0
        key = self.make_rng("dropout") if train and self.multiscale else None
        for i, indices in enumerate(choices(x.shape[1], self.tuples, key) if self.multiscale else [everyone(x)]):
            relation = Relation(self.hidden, self.num_classes, name=f"relation{i}")
            state, scores = relation(x[:, indices])
            hidden.append(state)
            if self.num_classes:
                out[f"scores_{indices.shape[1]}_frames"] = scores
                total += scores
        out["pre_logits"] = jnp.concatenate(hidden, axis=-1)
        return (total if self.num_classes else out["pre_logits"]), out


def everyone(x):
    """The one choice of all frames of (B, T, D): (1, T)."""
    return np.arange(x.shape[1])[None]


def choices(frames, tuples, key=None):
    """Ordered choices of n frames for n = `frames` to 2, each (k, n) indices with k at most `tuples`.

    Drawn from `key`, or from NumPy's seed 0 as the reference draws them after `np.random.seed(0)`.
    """
    rng, found = np.random.RandomState(0), []
    for n in range(frames, 1, -1):
        every = np.array([*itertools.combinations(range(frames), n)])
        if n < frames:
            count = min(tuples, len(every))
            if key is None:
                every = every[rng.choice(len(every), count, replace=False)]
            else:
                chosen = jax.random.choice(jax.random.fold_in(key, n), len(every), (count,), replace=False)
                every = jnp.asarray(every)[chosen]
        found.append(every)
    return found


def _table(rules_of_net, single):
    """Conversion rules: of the net on frames, of the projection and of the relations."""
    theirs = r"classifier" if single else r"fc_fusion_scales\.(?P<scale>\d+)"
    ours = "relation0" if single else r"relation\g<scale>"
    prefix = r"consensus\." if rules_of_net else ""
    return [
        *rules_of_net,
        *(rules.dense(r"new_fc", "project") if rules_of_net else []),
        *rules.dense(rf"{prefix}{theirs}\.1", f"{ours}/hidden"),
        *rules.dense(rf"{prefix}{theirs}\.3", f"{ours}/head"),
    ]


# What the weights of a source expect: a frame from the middle of each of eight segments.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": MEAN,
    "std": STD,
    "frames": 8,
    "sampler": "segments",
    "resize": 256,
    "size": 224,
}


def _row(variant, net, table):
    single = variant.endswith("relation")
    head = "consensus.classifier.3.bias" if single else "consensus.fc_fusion_scales.0.3.bias"
    preprocess = PREPROCESS | {key: value for key, value in VARIANTS[variant].items() if key in PREPROCESS}
    return {"variant": variant, "table": _table(table, single), "head": head, "preprocess": preprocess}


def _features(tensors):
    """(T, D) of the features that a consensus module alone expects; of one relation only T D is known."""
    if "classifier.1.weight" in tensors:
        return (2, tensors["classifier.1.weight"].shape[1] // 2)
    frames = 1 + sum(name.endswith(".1.weight") for name in tensors)
    return (frames, tensors["fc_fusion_scales.0.1.weight"].shape[1] // frames)


def _module(single):
    """A consensus module alone, on features of frames."""
    return {
        "variant": "bn_inception_relation" if single else "bn_inception",
        "fields": {"backbone": ""},
        "table": _table([], single),
        "head": "classifier.3.bias" if single else "fc_fusion_scales.0.3.bias",
        "input": _features,
        "preprocess": PREPROCESS | _CAFFE,
    }


_BASE = r"base_model\."
_NETS = {"bninception": ("bn_inception", bn_inception.table(_BASE)), "resnet50": ("resnet50", resnet.table(_BASE))}
REFERENCES = {("trn", "relation"): _module(True), ("trn", "multiscale"): _module(False)}
REFERENCES |= {("trn", "multiscale_f4"): _module(False)}  # the same for four frames
REFERENCES |= {("trn", f"{net}_multiscale"): _row(ours, net, table) for net, (ours, table) in _NETS.items()}
REFERENCES |= {("trn", f"{net}_relation"): _row(f"{ours}_relation", net, table) for net, (ours, table) in _NETS.items()}
