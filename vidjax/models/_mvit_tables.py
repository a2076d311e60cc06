"""Multiscale transformers in torchvision, pytorchvideo, PySlowFast, mmaction2: what rows of mvit.REFERENCES share."""

import math

import numpy as np

from vidjax import rules


def _blocks(names, *, project, wide, norm, pool, prefix=""):
    """Rules of all blocks; arguments are the source's names inside a block, and what stands before all of them."""
    block, ours = rf"{prefix}blocks\.(\d+)", r"block\1"
    table = [
        *rules.layer_norm(rf"{block}\.norm1", f"{ours}/norm1"),
        *rules.layer_norm(rf"{block}\.norm2", f"{ours}/norm2"),
    ]
    table += rules.dense(rf"{block}\.attn\.qkv", f"{ours}/attention/qkv")
    table += rules.dense(rf"{block}\.attn\.{project}", f"{ours}/attention/proj")
    table += rules.dense(rf"{block}\.{wide}", f"{ours}/proj")
    for source, path in zip(names, ("fc1", "fc2"), strict=True):
        table += rules.dense(rf"{block}\.mlp\.{source}", f"{ours}/{path}")
    for letter in "qkv":
        path = f"{ours}/attention/pool_{letter}"
        table += rules.conv(rf"{block}\.attn\.{pool.format(letter)}", path)
        table += rules.layer_norm(rf"{block}\.attn\.{norm.format(letter)}", f"{path}/norm")
    for letter, axis in (("t", "time"), ("h", "height"), ("w", "width")):
        table += [(rf"{block}\.attn\.rel_pos_{letter}", f"params/{ours}/attention/positions_{axis}", None)]
    return table


def _flat(rank):
    """Transform of a table of positions on a square, (1,) * n and (H W, D) -> (H, W, D)."""
    lead = (1,) * (rank - 2)
    return (
        rank,
        lambda x: x.reshape(math.isqrt(x.shape[-2]), -1, x.shape[-1]),
        lambda x: x.reshape(*lead, -1, x.shape[-1]),
    )


_ROW = (3, lambda x: x[0], lambda x: x[None])  # (1, N, D) -> (N, D)
_VECTOR = (3, lambda x: x[0, 0], lambda x: x[None, None])  # (1, 1, D) -> (D,)

_TORCHVISION = [
    *rules.conv("conv_proj", "patch", bias=True),
    (r"pos_encoding\.class_token", "params/cls", None),
    (r"pos_encoding\.spatial_pos", "params/positions_space", _flat(2)),
    (r"pos_encoding\.temporal_pos", "params/positions_time", None),
    (r"pos_encoding\.class_pos", "params/positions_cls", None),
    *_blocks(("0", "3"), project=r"project\.0", wide="project", norm=r"pool_{}\.norm_act\.0", pool=r"pool_{}\.pool"),
    *rules.layer_norm("norm", "norm"),
    *rules.dense(r"head\.1", "head"),
]


def _facebook(patch, positions, norm, head, transform="oithw_to_thwio"):
    """Names that PySlowFast and pytorchvideo share; arguments are those where they differ."""
    return [
        *rules.conv(rf"patch_embed\.{patch}", "patch", bias=True, transform=transform),
        (rf"{positions}cls_token", "params/cls", _VECTOR),
        (rf"{positions}pos_embed_spatial", "params/positions_space", _flat(3)),
        (rf"{positions}pos_embed_temporal", "params/positions_time", _ROW),
        (rf"{positions}pos_embed_class", "params/positions_cls", _VECTOR),
        *_blocks(("fc1", "fc2"), project="proj", wide="proj", norm="norm_{}", pool="pool_{}"),
        *rules.layer_norm(norm, "norm"),
        *rules.dense(rf"head\.{head}", "head"),
    ]


_PYSLOWFAST = _facebook("proj", "", "norm", "projection")
_NAMES = r"patch_model", r"cls_positional_encoding\.", "norm_embed", "proj"


_BACKBONE = r"backbone\."
_MMACTION2 = [  # its net is v2's, with PySlowFast's names inside a block
    *rules.conv(rf"{_BACKBONE}patch_embed\.projection", "patch", bias=True),
    (rf"{_BACKBONE}cls_token", "params/cls", _VECTOR),
    *_blocks(("fc1", "fc2"), project="proj", wide="proj", norm="norm_{}", pool="pool_{}", prefix=_BACKBONE),
    *rules.layer_norm(rf"{_BACKBONE}norm3", "norm"),  # of the last of four stages
    *rules.dense(r"cls_head\.fc_cls", "head"),
]


def fuse(tensors):
    """pytorchvideo's separate linear layers of queries, keys and values as one; copies of its pools left out."""
    found = {name: x for name, x in tensors.items() if "._attention_pool_" not in name}
    for name in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(name.replace(".attn.q.", f".attn.{letter}.")) for letter in "qkv"]
        found[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([np.asarray(x) for x in parts])
    return found


def split(tensors):
    """The inverse of `fuse`."""
    found = {}
    for name, x in tensors.items():
        parts = zip("qkv", np.split(np.asarray(x), 3), strict=True) if ".attn.qkv." in name else ()
        found |= {name.replace(".qkv.", f".{letter}."): part for letter, part in parts} or {name: x}
    return found


# What the weights of a source expect: the model's own first line applies mean and std.
PREPROCESS = {
    "order": "RGB",
    "range": (0.0, 1.0),
    "mean": 0.45,
    "std": 0.225,
    "frames": 16,
    "stride": 4,
    "resize": 256,
    "size": 224,
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LONG = PREPROCESS | {"frames": 32, "stride": 3}
LARGE = PREPROCESS | IMAGENET | {"frames": 40, "stride": 3, "resize": 312, "size": 312}

_ALL = {"preprocess": PREPROCESS, "classes": "kinetics400"}
TORCHVISION = _ALL | {"table": _TORCHVISION, "head": "head.1.bias"}
PYSLOWFAST = _ALL | {"table": _PYSLOWFAST, "head": "head.projection.bias"}
MMACTION2 = _ALL | {"table": _MMACTION2, "head": "cls_head.fc_cls.bias"}
PYTORCHVIDEO = _ALL | {"table": _facebook(*_NAMES), "head": "head.proj.bias", "prepare": fuse, "restore": split}
PYTORCHVIDEO_IMAGE = PYTORCHVIDEO | {
    "table": _facebook(*_NAMES, "oihw_to_1hwio"),
    "fields": IMAGENET,
    "preprocess": PREPROCESS | IMAGENET | {"frames": 1, "stride": 1},
    "classes": (),
}
