"""2-D nets equal their references: a golden output of TSM, and logits that the original code gave on formula weights.

The tables below list the originals' tensors by name; `Torch.draw` makes each from its name. With those loaded into the
original (torchvision 0.28; the class TSN of mit-han-lab/temporal-shift-module, flow net included) and `frames` as the
original preprocesses them, PyTorch in float64 gave the logits recorded here.
"""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, near

from vidjax import convert, models
from vidjax.backbones.bn_inception import BLOCKS

CLASSES = 5


def conv(name, channels, features, kernel, bias=False):
    return [(f"{name}.weight", (features, channels, kernel, kernel))] + [(f"{name}.bias", (features,))] * bias


def norm(name, n):
    parts = [(f"{name}.{part}", (n,)) for part in ("weight", "bias", "running_mean", "running_var")]
    return [*parts, (f"{name}.num_batches_tracked", ())]


def linear(name, channels, features=CLASSES):
    return [(f"{name}.weight", (features, channels)), (f"{name}.bias", (features,))]


def alexnet():
    convs = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
    found = [row for i, *shape in convs for row in conv(f"features.{i}", *shape, bias=True)]
    found += linear("classifier.1", 9216, 4096) + linear("classifier.4", 4096, 4096)
    return found + linear("classifier.6", 4096)


def mobilenet(style):
    """torchvision's names or TSM's, where the convolutions of blocks that add their input are wrapped as `net`."""
    base = "base_model." if style == "tsm" else ""
    found, count, c = conv(f"{base}features.0.0", 3, 32, 3) + norm(f"{base}features.0.1", 32), 0, 32
    for expansion, n, depth in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for j in range(depth):
            count += 1
            name, wide, first = f"{base}features.{count}.conv", c * expansion, expansion == 1
            if style == "tsm":
                wrapped = ".net" if j else ""
                places = ("0", "1", "3", "4") if first else (f"0{wrapped}", "1", "3", "4", "6", "7")
            else:
                places = ("0.0", "0.1", "1", "2") if first else ("0.0", "0.1", "1.0", "1.1", "2", "3")
            if not first:
                found += conv(f"{name}.{places[0]}", c, wide, 1) + norm(f"{name}.{places[1]}", wide)
            found += conv(f"{name}.{places[-4]}", 1, wide, 3) + norm(f"{name}.{places[-3]}", wide)
            found += conv(f"{name}.{places[-2]}", wide, n, 1) + norm(f"{name}.{places[-1]}", n)
            c = n
    found += conv(f"{base}features.18.0", 320, 1280, 1) + norm(f"{base}features.18.1", 1280)
    return found + linear("new_fc" if style == "tsm" else "classifier.1", 1280)


def shufflenet():
    found, c = conv("conv1.0", 3, 24, 3) + norm("conv1.1", 24), 24
    for stage, depth, n in ((2, 4, 116), (3, 8, 232), (4, 4, 464)):
        for j in range(depth):
            name, half = f"stage{stage}.{j}", n // 2
            if not j:
                found += conv(f"{name}.branch1.0", 1, c, 3) + norm(f"{name}.branch1.1", c)
                found += conv(f"{name}.branch1.2", c, half, 1) + norm(f"{name}.branch1.3", half)
            found += conv(f"{name}.branch2.0", half if j else c, half, 1) + norm(f"{name}.branch2.1", half)
            found += conv(f"{name}.branch2.3", 1, half, 3) + norm(f"{name}.branch2.4", half)
            found += conv(f"{name}.branch2.5", half, half, 1) + norm(f"{name}.branch2.6", half)
            c = n
    return found + conv("conv5.0", 464, 1024, 1) + norm("conv5.1", 1024) + linear("fc", 1024)


def inception(channels):
    found, c = [], 192
    layers = [("conv1_7x7_s2", channels, 64, 7), ("conv2_3x3_reduce", 64, 64, 1), ("conv2_3x3", 64, 192, 3)]
    for block, (first, reduce, single, double_reduce, double, projection) in BLOCKS.items():
        name = f"inception_{block}"
        layers += [(f"{name}_1x1", c, first, 1)] if first else []
        layers += [(f"{name}_3x3_reduce", c, reduce, 1), (f"{name}_3x3", reduce, single, 3)]
        layers += [(f"{name}_double_3x3_reduce", c, double_reduce, 1)]
        layers += [(f"{name}_double_3x3_1", double_reduce, double, 3), (f"{name}_double_3x3_2", double, double, 3)]
        layers += [(f"{name}_pool_proj", c, projection, 1)] if projection else []
        c = first + single + double + (projection or c)
    for name, *shape in layers:
        found += conv(f"base_model.{name}", *shape, bias=True) + norm(f"base_model.{name}_bn", shape[1])
    return found + linear("new_fc", c)


NETS = {  # manifest, T, pixels, channels
    ("torchvision", "alexnet"): (alexnet(), 1, 112, 3),
    ("torchvision", "mobilenet_v2"): (mobilenet("torchvision"), 1, 64, 3),
    ("torchvision", "shufflenet_v2_x1_0"): (shufflenet(), 1, 64, 3),
    ("tsm", "mobilenetv2"): (mobilenet("tsm"), 8, 64, 3),
    ("tsn", "bninception"): (inception(3), 2, 224, 3),
    ("tsn", "bninception_flow"): (inception(10), 1, 224, 10),
}
LOGITS = {
    ("torchvision", "alexnet"): [4.93792798, -2.44125774, -12.1051293, 7.15042074, 22.5233974],
    ("torchvision", "mobilenet_v2"): [-0.971838916, 0.547836392, 1.28030208, -1.25556923, 0.984821057],
    ("torchvision", "shufflenet_v2_x1_0"): [531.712078, 85.1316521, -21.193403, 262.173231, -479.277227],
    ("tsm", "mobilenetv2"): [-1.35715701, 5.35429355, 3.09787968, -0.752891716, -1.27110018],
    ("tsn", "bninception"): [139.939574, 610.241064, -2117.9865, -1245.86303, 220.99017],
    ("tsn", "bninception_flow"): [136.238886, 554.213265, -2066.84624, -1201.90842, 270.674796],
}


def draw(manifest):
    """The tensors of a manifest, each from its name."""
    net = Torch(train=False)
    for name, shape in manifest:
        if shape:
            net.draw(name, shape)
        else:
            net.tensors[name] = np.zeros((), np.int64)
    return net.tensors


def frames(t, size, channels):
    """A clip in [0, 1], or flow in [-1, 1]."""
    clip = np.random.RandomState(0).rand(1, t, size, size, channels)
    return (clip if channels == 3 else 2 * clip - 1).astype(np.float32)


def logits_of(source, arch, tensors, video, **fields):
    variables = convert.from_reference(source, arch, tensors)
    model = models.for_reference(source, arch, len(tensors[models.reference(source, arch)["head"]])).clone(**fields)
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, video)


@pytest.mark.parametrize(("source", "arch"), NETS)
def test_recorded(source, arch):
    manifest, *shape = NETS[source, arch]
    tolerance = 5e-5 if arch == "mobilenet_v2" else 1e-5  # PyTorch in float32 is off by 2.3e-5 from its float64 there
    found = logits_of(source, arch, draw(manifest), frames(*shape))
    near(found, np.array([LOGITS[source, arch]]), "logits", tolerance)


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tsm(golden, formula, arch):
    """Logits of a golden TSM net on the golden clips."""
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())[f"tsm_{arch}"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    video = formula.clip(meta["input"]["T"], meta["input"]["size"]).astype(np.float32) / 255
    return logits_of("tsm", arch, tensors, video, mean=0.45, std=0.225)


def test_tsm_golden(golden, formula):
    with np.load(golden / "expected" / "ref_repos.npz") as arrays:
        expected = arrays["tsm_resnet18/out"]
    near(tsm(golden, formula, "resnet18"), expected, "logits")


def test_tsm_resnet50(golden, formula):
    """The repository's own TSN class with is_shift=True, run on the golden manifest, gave these first logits."""
    expected = np.array(
        [
            [0.8095747, -1.004061, -0.02618472, 0.1916803, -1.435306],
            [1.441017, -1.707159, -0.3336002, 0.2296665, -2.57583],
        ]
    )
    near(tsm(golden, formula, "resnet50")[:, :5], expected, "logits")
