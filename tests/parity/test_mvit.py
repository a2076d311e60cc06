"""mvit equals torchvision with golden weights, pytorchvideo's and PySlowFast's code with the same formula."""

import functools
import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import near

from vidjax import convert, models
from vidjax.models import _mvit_tables, mvit

# First logits of a clip of mvit_v2_s (the largest of both clips is 2.97), of torchvision 0.29 in PyTorch 2.13.
V2_S = [-1.5840893, 0.11857239, -1.2126307, -2.5126598]
# First logits of both clips, of pytorchvideo 0.1.5.
TINY = [[0.027153376, 1.4421872, 0.16399138, 0.30379051], [0.26977962, -0.0085103586, 0.59183502, -0.82324129]]

# Nets of 4 blocks and width 8 for 8 frames of 72x72, which pools do not divide, in PySlowFast's class MViT: logits of
# both clips, cut from above and left. Fields are those of its configurations MVIT_B_32x3_CONV (pools as wide as their
# strides), MVITv2_S_16x4 and masked_ssl/k400_MVITv2_S_16x4_FT.
SMALL = {"depth": 4, "stages": (1, 3), "width": 8, "kv_stride": (1, 4, 4), "frames": 8, "size": 72}
PYSLOWFAST = {
    "v1_b24_32x3": [
        [0.35753366, 1.3653234, 2.7858877, 2.1763840, -0.031295132],
        [-0.52338547, 1.8951516, 0.62026274, -0.20420672, -1.2555090],
    ],
    "v2_s": [
        [1.6279521, 0.31335479, 0.38459981, -1.7854848, -1.1042776],
        [0.42132220, -0.27586451, -1.2529948, -0.48868111, -0.79108399],
    ],
    "maskfeat_s": [
        [1.8494887, 0.12859777, 0.16781035, 1.5153060, -2.0557678],
        [0.31538156, 2.5887005, 1.3752575, 0.77682304, -0.93059999],
    ],
}


@pytest.fixture(scope="module")
def tensors(golden):
    """Function that makes the tensors of {name: shape} by the golden folder's formula."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    return lambda shapes, gamma=(0.5, 1.5): {n: formula.torch_tensor(n, s, gamma) for n, s in shapes.items()}


def clips(golden, t, size):
    """Both clips from above and left; twice as large where 112 pixels are not enough, as for the golden outputs."""
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as arrays:
        video = arrays["clips"][:, :t]
    video = video.repeat(2, 2).repeat(2, 3) if size > 112 else video
    return video[:, :, :size, :size].astype(np.float32) / 255


def apply(model, variables, video):
    return jax.jit(functools.partial(model.apply, train=False))(variables, video)


def shapes(model):
    """{name: shape} of all tensors in PySlowFast, as its code names and makes them."""
    d, heads, kv, (rows, times) = model.width, model.heads, model.kv_stride[1], (model.size // 4, model.frames // 2)
    found = {"cls_token": (1, 1, d), "patch_embed.proj.weight": (d, 3, 3, 7, 7), "patch_embed.proj.bias": (d,)}
    if not model.relative:
        found |= {"pos_embed_spatial": (1, rows**2, d), "pos_embed_temporal": (1, times, d)}
        found |= {"pos_embed_class": (1, 1, d)}
    for i in range(model.depth):
        at, pooling, before = f"blocks.{i}", i in model.stages, d
        heads, kv = (2 * heads, max(kv // 2, 1)) if pooling else (heads, kv)
        inner = 2 * d if pooling and model.widen == "attention" else d
        d = 2 * d if (i if model.widen == "attention" else i + 1) in model.stages else d
        one, kernel = inner // heads, (3, 3, 3) if model.pool else (1, kv + 1, kv + 1)
        linear = {"attn.qkv": (3 * inner, before), "attn.proj": (inner, inner), "mlp.fc1": (4 * inner, inner)}
        linear |= {"mlp.fc2": (d, 4 * inner)} | ({"proj": (d, before)} if d != before else {})
        norms = {"norm1": before, "norm2": inner}
        for letter in "qkv":
            own = (3, 3, 3) if letter == "q" else kernel
            if (pooling or model.pool_all) if letter == "q" else (model.pool or kv > 1):
                found[f"{at}.attn.pool_{letter}.weight"] = (one, 1, *(own if model.pool or kv > 1 else (1, 3, 3)))
                norms[f"attn.norm_{letter}"] = one
        if model.pool is None and f"{at}.attn.pool_q.weight" in found:
            found[f"{at}.attn.pool_q.weight"] = (one, 1, 1, 3, 3)
        if model.relative:
            count = 2 * max(rows // 2 if pooling else rows, rows // kv) - 1
            found |= {f"{at}.attn.rel_pos_{a}": (count, one) for a in "hw"}
            found |= {f"{at}.attn.rel_pos_t": (2 * times - 1, one)}
        rows //= 2 if pooling else 1
        found |= {f"{at}.{name}.weight": shape for name, shape in linear.items()}
        found |= {f"{at}.{name}.bias": shape[:1] for name, shape in linear.items()}
        found |= {f"{at}.{name}.{part}": (n,) for name, n in norms.items() for part in ("weight", "bias")}
    found |= {"norm.weight": (d,), "norm.bias": (d,), "head.projection.weight": (model.num_classes, d)}
    return found | {"head.projection.bias": (model.num_classes,)}


@pytest.mark.parametrize("arch", ["mvit_v1_b", "mvit_v2_s"])
def test_torchvision(golden, tensors, arch):
    meta = json.loads((golden / "expected" / "ref_torchvision.json").read_text())[arch]
    variables = convert.from_reference("torchvision", arch, tensors(dict(meta["manifest"]), meta["gamma"]))
    model = models.for_reference("torchvision", arch, meta["num_classes"])
    logits, _ = apply(model, variables, clips(golden, 16, 224)[:1])  # one clip, for time
    if arch == "mvit_v2_s":
        near(logits[0, :4], np.array(V2_S), "logits")
        return
    with np.load(golden / "expected" / "ref_torchvision.npz") as arrays:
        near(logits, arrays[f"{arch}/logits"][:1], "logits")


def test_pytorchvideo(golden, tensors):
    meta = json.loads((golden / "expected" / "ref_pytorchvideo.json").read_text())["mvit_tiny_depth4"]
    made = tensors(dict(meta["manifest"]), meta["gamma"])
    variables = convert.from_reference("pytorchvideo", "mvit_tiny_depth4", made)
    model = models.for_reference("pytorchvideo", "mvit_tiny_depth4", meta["num_classes"])
    logits, _ = apply(model, variables, clips(golden, 8, 112))
    near(logits[:, :4], np.array(TINY), "logits", 3e-5)  # norms of nearly equal channels amplify rounding
    parts = _mvit_tables.split(_mvit_tables.fuse(made))
    assert parts.keys() == made.keys()
    assert all(np.array_equal(parts[name], made[name]) for name in made)


@pytest.mark.parametrize("variant", PYSLOWFAST)
def test_pyslowfast(golden, tensors, variant):
    model = mvit.Model(**mvit.VARIANTS[variant] | SMALL, num_classes=5)
    video = clips(golden, 8, 72)
    table = _mvit_tables.PYSLOWFAST["table"]
    variables = convert.convert(table, tensors(shapes(model)), models.shapes(model, video.shape))
    logits, out = apply(model, variables, video)
    near(logits, np.array(PYSLOWFAST[variant]), "logits")
    assert out["block3"].shape == (2, 1 + 4 * 5 * 5, 32)  # of 18, 9 and 5 rows


# The same in mmaction2's class MViT (commit of 2023), which gives MaskFeat's net a head on the token of the class.
MMACTION2 = {
    "v2_s": PYSLOWFAST["v2_s"],
    "maskfeat_s": [
        [0.64956256, 1.7247216, -0.048545033, -0.52002847, -2.3496602],
        [-1.8225247, 1.7057379, 0.72188354, -0.26895919, -0.42086968],
    ],
}


@pytest.mark.parametrize("arch", ["mvit_small", "mvit_small_maskfeat"])
def test_mmaction2(golden, tensors, arch):
    row = models.reference("mmaction2", arch)
    fields = mvit.VARIANTS[row["variant"]] | row.get("fields", {})
    model, video = mvit.Model(**fields | SMALL, num_classes=5), clips(golden, 8, 72)
    theirs = {"head.projection": "cls_head.fc_cls", "norm": "backbone.norm3"}
    theirs |= {"patch_embed.proj": "backbone.patch_embed.projection"}

    def renamed(name):
        layer, _, part = name.rpartition(".")
        return f"{theirs[layer]}.{part}" if layer in theirs else f"backbone.{name}"

    made = {renamed(name): tensor for name, tensor in tensors(shapes(model)).items()}  # drawn by PySlowFast's names
    logits, _ = apply(model, convert.convert(row["table"], made, models.shapes(model, video.shape)), video)
    near(logits, np.array(MMACTION2[row["variant"]]), "logits")


@pytest.mark.parametrize("key", [k for k in mvit.REFERENCES if k[0] == "pyslowfast" and "_l_" not in k[1]])
def test_all_names_of_pyslowfast_convert(key):
    names = shapes(models.for_reference(*key, 7))
    made = {name: np.broadcast_to(np.float32(1), shape) for name, shape in names.items()}
    assert len(jax.tree.leaves(convert.from_reference(*key, made))) == len(names)


@pytest.mark.parametrize("arch", ["mvit_base_16x4", "mvit_base_32x3", "mvit_base_16"])
def test_all_names_of_pytorchvideo_convert(arch):
    """The hub's names are PySlowFast's but for the ends and separate queries, keys and values."""
    model = models.for_reference("pytorchvideo", arch, 7)
    names = shapes(model.clone(stride=(2, 4, 4), frames=max(model.frames, 2)))
    for name in [n for n in names if n.startswith("blocks") and model.patch[0] == 1 and ".pool_" in n]:
        names[name] = (*names[name][:2], *model.pool)
    ends = {"patch_embed.proj": "patch_embed.patch_model", "norm": "norm_embed", "head.projection": "head.proj"}
    made = {}
    for name, shape in names.items():
        start, _, last = name.rpartition(".")
        name = f"{ends.get(start, start)}.{last}" if start else f"cls_positional_encoding.{name}"
        flat = name == "patch_embed.patch_model.weight" and model.patch[0] == 1
        made[name] = np.broadcast_to(np.float32(1), (*shape[:2], *shape[3:]) if flat else shape)
    made = _mvit_tables.split(made)
    copies = {
        name.replace("attn.pool_q", "attn._attention_pool_q.pool"): x for name, x in made.items() if "pool_q" in name
    }
    variables = convert.from_reference("pytorchvideo", arch, made | copies)  # newer versions write pools twice
    assert len(jax.tree.leaves(variables)) == len(names)
