"""c3d equals its references: golden DavideA, jfzhang95's and VMZ's nets, and tiny ones against NumPy and PyTorch."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import Torch, loss_after_step, near

from vidjax import convert, models
from vidjax.models import c3d
from vidjax.nn import normalise

TINY = {"stages": ((3,), (4,), (5, 6)), "depths": (3, 3, 3), "hidden": (7, 6), "dropout": 0.0, "num_classes": 5}
NAMES = ("conv1", "conv2", "conv3a", "conv3b")
MMACTION = {"fc8": "cls_head.fc_cls", "fc7": "backbone.fc7", "fc6": "backbone.fc6"}
MMACTION |= {old: f"backbone.{new}.conv" for old, new in zip(NAMES, ("conv1a", "conv2a", *NAMES[2:]), strict=True)}
CAFFE2 = {"fc8": "last_out_L5", "fc7": "fc7", "fc6": "fc6"}
CAFFE2 |= dict(zip(NAMES, ("conv1a", "conv2a", *NAMES[2:]), strict=True))
CAFFE2 |= {f"{old}_bn": f"{CAFFE2[old]}_bn" for old in NAMES}
FC8 = {"weight": (101, 4096), "bias": (101,)}  # jfzhang95's, of UCF101


def tiny(variant, **fields):
    return models.build({"name": "c3d", "variant": variant, "mean": 0.45, "std": 0.225, **TINY}, **fields)


def tiny_video():
    return np.random.RandomState(0).rand(4, 4, 14, 14, 3).astype(np.float32)


def pooled(x, frames, rounding):
    """Max pool of (N, C, T, H, W) one output at a time; windows are clipped to the picture."""
    lo = 1 if rounding == "symmetric" else 0
    n, c, t, h, w = x.shape
    out = [-(-s // 2) if rounding == "ceil" else (s + 2 * lo) // 2 for s in (h, w)]
    y = np.empty((n, c, t // frames, *out))
    for k, i, j in np.ndindex(*y.shape[2:]):
        a, b = 2 * i - lo, 2 * j - lo
        window = x[:, :, k * frames : (k + 1) * frames, max(a, 0) : a + 2, max(b, 0) : b + 2]
        y[:, :, k, i, j] = window.max((2, 3, 4))
    return y


def reference(net, video, rounding, normed):
    """Logits and fc6 of the tiny net under DavideA's names, norms named conv1_bn and so on."""
    x = ((video.astype(np.float64) - 0.45) / 0.225).transpose(0, 4, 1, 2, 3)
    for name, width in zip(NAMES, (3, 4, 5, 6), strict=True):
        x = net.conv(name, x, width, (3, 3, 3), (1, 1, 1)) + net.draw(f"{name}.bias", (width,)).reshape(-1, 1, 1, 1)
        x = np.maximum(net.norm(f"{name}_bn", x) if normed else x, 0)
        if name != "conv3a":
            last = name == "conv3b"
            x = pooled(x, 1 if name == "conv1" else 2, rounding if last or rounding == "ceil" else "floor")
    fc6 = np.maximum(net.linear("fc6", x.reshape(len(x), -1), 7), 0)
    fc7 = np.maximum(net.linear("fc7", fc6, 6), 0)
    return net.linear("fc8", fc7, 5), fc6


def renamed(tensors, names, ends):
    """Tensors of other names: `names` of layers, `ends` of their parameters."""
    pairs = {name: name.rsplit(".", 1) for name in tensors}
    return {f"{names[layer]}{ends[end]}": tensors[name] for name, (layer, end) in pairs.items()}


def blobs(tensors):
    """Tensors by VMZ's names: a norm's weight is its scale _s, a layer's _w."""
    ends = {"weight": "_w", "bias": "_b", "running_mean": "_rm", "running_var": "_riv"}
    found = renamed(tensors, CAFFE2, ends)
    return {name.replace("_bn_w", "_bn_s"): tensor for name, tensor in found.items()}


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_davidea_and_jfzhang(golden, formula):
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())["davidea_c3d_487"]
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    video = formula.clip(meta["input"]["T"], meta["input"]["size"], golden).astype(np.float32) / 255
    with np.load(golden / "expected" / "ref_repos.npz") as arrays:
        expected = arrays["davidea_c3d_487/out"]

    variables = convert.from_reference("davidea", "c3d_487", tensors)
    model = models.for_reference("davidea", "c3d_487", 487).clone(mean=0.45, std=0.225)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(jax.nn.softmax(logits), expected, "probabilities")  # the reference ends in a softmax
    assert out["pool5"].shape == (2, 1, 4, 4, 512)
    assert out["fc6"].shape == (2, 4096)
    assert (out["fc6"].min(), out["fc7"].min()) == (0, 0)

    # jfzhang95's C3D of 101 classes with formula weights, run on this input; the same net below its fc8
    theirs = [[0.4305450916, 2.0330231190, -1.2976881266, -1.6971802711]]
    theirs += [[1.1142441034, 2.6098890305, -2.7715172768, -3.9432458878]]
    tensors["fc8.weight"], tensors["fc8.bias"] = (formula.torch_tensor(f"fc8.{n}", s) for n, s in FC8.items())
    other = convert.from_reference("jfzhang", "c3d", tensors)["params"]
    np.testing.assert_array_equal(other["fc6"]["kernel"], variables["params"]["fc6"]["kernel"])
    np.testing.assert_array_equal(other["conv5b"]["kernel"], variables["params"]["conv5b"]["kernel"])
    near(out["pre_logits"] @ other["head"]["kernel"][:, :4] + other["head"]["bias"][None, :4], np.array(theirs), "fc8")


def test_preprocessing_of_each_source():
    """A Model on [0, 1] gives its net what the source's own code does to pixels of 0 to 255."""
    pixels = np.random.RandomState(0).randint(0, 256, (1, 1, 2, 2, 3)).astype(np.float32)
    expected = {
        ("davidea", "c3d_487"): pixels,
        ("jfzhang", "c3d"): pixels[..., ::-1] - np.float32([90, 98, 102]),
        ("mmaction2", "c3d"): pixels - np.float32([104, 117, 128]),
    }
    for key, value in expected.items():
        model = models.for_reference(*key, 3)
        found = normalise(pixels / 255, model.mean, model.std, model.order)
        np.testing.assert_allclose(found, value, atol=1e-4, err_msg=str(key))  # float32 of 255
        row = models.reference(*key)["preprocess"]
        np.testing.assert_allclose(np.array(row["mean"]) / 255, np.broadcast_to(model.mean, 3), rtol=1e-12)
        assert row["order"] == model.order


@pytest.mark.parametrize("rounding", ["ceil", "floor", "symmetric"])
def test_numpy(rounding):
    model, video, net = tiny("c3d", rounding=rounding), tiny_video(), Torch(train=False)
    expected, fc6 = reference(net, video, rounding, normed=False)
    shapes = models.shapes(model, video.shape)
    variables = convert.convert(c3d.torch_table(channels=6), net.tensors, shapes)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(logits, expected, "logits")
    near(out["fc6"], fc6, "fc6")

    tensors = renamed(net.tensors, MMACTION, {"weight": ".weight", "bias": ".bias"})
    again = convert.convert(c3d.mmaction_table(channels=6), tensors, shapes)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


@pytest.mark.parametrize("train", [False, True])
def test_vmz(train):
    model, video, net = tiny("c3d_bn"), tiny_video(), Torch(train, eps=1e-3)
    expected, _ = reference(net, video, "floor", normed=True)
    table, shapes = c3d.caffe2_table(channels=6), models.shapes(model, video.shape)
    variables = convert.convert(table, c3d.without_class_count(blobs(net.tensors)), shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    (logits, _), state = apply(variables, video)
    near(logits, expected, "logits")
    after = convert.convert(table, c3d.without_class_count(blobs(net.state_dict())), shapes)
    assert train == bool(net.after)
    for (path, value), wanted in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(after["batch_stats"]), strict=True
    ):
        near(value, wanted, jax.tree_util.keystr(path))


def test_every_source_fills_every_variable():
    """At full size and by shapes alone; the head's class count comes from the head."""
    for (source, arch), ends in {("mmaction2", "c3d"): ".weight", ("vmz", "c3d"): "_w"}.items():
        shapes = models.shapes(models.for_reference(source, arch, 3), (1, 16, 112, 112, 3))
        layers = ["conv1a", "conv2a", *(f"conv{i}{letter}" for i in (3, 4, 5) for letter in "ab")]
        named = {name: f"backbone.{name}.conv" if source == "mmaction2" else name for name in layers}
        head = {"mmaction2": "cls_head.fc_cls", "vmz": "last_out_L3"}[source]
        named |= {fc: f"backbone.{fc}" if source == "mmaction2" else fc for fc in ("fc6", "fc7")} | {"head": head}
        tensors = {}
        for layer, name in named.items():
            kernel, bias = shapes["params"][layer]["kernel"].shape, shapes["params"][layer]["bias"].shape
            shape = (kernel[4], kernel[3], *kernel[:3]) if len(kernel) == 5 else kernel[::-1]
            tensors[f"{name}{ends}"] = np.broadcast_to(np.float32(1), shape)
            tensors[f"{name}{ends[0]}{'bias' if ends[0] == '.' else 'b'}"] = np.zeros(bias, np.float32)
            if source == "vmz" and layer.startswith("conv"):
                tensors |= {f"{name}_bn_{end}": np.ones(bias, np.float32) for end in ("s", "b", "rm", "riv")}
        variables = convert.from_reference(source, arch, tensors)
        assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, variables, shapes))


def test_pinned_step():
    """Loss after one SGD step of 0.1; recorded with PyTorch in float64 on the same weights, clip and labels."""
    model, video, net = tiny("c3d_bn"), tiny_video(), Torch(train=True, eps=1e-3)
    reference(net, video, "floor", normed=True)
    tensors = c3d.without_class_count(blobs(net.tensors))
    variables = convert.convert(c3d.caffe2_table(channels=6), tensors, models.shapes(model, video.shape))
    assert loss_after_step(model, variables, video) == pytest.approx(1.33799916, rel=1e-5)
