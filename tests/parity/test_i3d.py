"""i3d equals its references: the PyTorch ports with golden weights, and the TensorFlow checkpoints' variables."""

import importlib.util
import json
import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from reference import near

from vidjax import convert, models

# compiling takes longer than one pass, and the products of matrices are a library's either way
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# First logits from the originals run in PyTorch 2.13 on the golden formula's weights and clips. hassony2's clip is 13
# frames of 200x200, where the number of frames, rows and columns turns odd on the way and its padding is its own.
LOGITS = {
    "piergiaj_i3d_flow": [[3.396208, 34.788002, -0.09570408], [9.999931, 44.08161, -0.61199385]],
    "hassony2_i3d_rgb": [[-4.188746, 0.7053358, -16.400486]],
}


@pytest.mark.parametrize("key", ["piergiaj_i3d_rgb", "piergiaj_i3d_flow", "hassony2_i3d_rgb"])
def test_torch(golden, formula, key):
    meta = json.loads((golden / "expected" / "ref_repos.json").read_text())[key]
    source, arch = key.rsplit("_", 1)
    channels = 2 if arch == "flow" else 3
    video = formula.clip(meta["input"]["T"], meta["input"]["size"])[..., :channels].astype(np.float32) / 255
    video = video[:1, :13, :200, :200] if source == "hassony2_i3d" else video
    tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
    variables = convert.from_reference(source, arch, tensors)
    model = models.for_reference(source, arch, 16).clone(mean=0.45, std=0.225)
    logits, out = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=QUICK)(variables, video)
    with np.load(golden / "expected" / "ref_repos.npz") as arrays:
        expected = {name: arrays[f"{key}/{name}"] for name in ("logits", "features") if f"{key}/{name}" in arrays}
    if expected:
        near(logits, expected["logits"].mean(axis=2), "logits")
        near(out["pool"], expected["features"].transpose(0, 2, 3, 4, 1), "features")
    else:
        near(logits[:, :3], np.array(LOGITS[key]), "logits")


def variables_of(golden, checkpoint):
    """{name: shape} of a TensorFlow checkpoint of the golden list."""
    text = (golden / "i3d" / "vars.txt").read_text()
    lines = re.search(rf"## {checkpoint} \d+ entries\n(.*?)(?=\n## |\Z)", text, re.S)[1].strip().splitlines()
    found = [re.match(r"(\S+) float32 \[([\d, ]*)\]", line) for line in lines]
    assert all(found)
    return {m[1]: tuple(int(n) for n in m[2].split(",") if n.strip()) for m in found}


@pytest.mark.parametrize(
    ("arch", "classes"),
    [("rgb_imagenet", 400), ("flow_imagenet", 400), ("rgb_scratch", 400), ("flow_scratch", 400),
     ("rgb_scratch_kin600", 600)],
)  # fmt: skip
def test_tensorflow(golden, arch, classes):
    """Every variable of the checkpoint finds its place and every parameter its variable."""
    shapes = variables_of(golden, arch)
    rng = np.random.RandomState(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    variables = convert.from_reference("kinetics_i3d", arch, tensors)
    stream = arch.split("_")[0]
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert flat[f"params/{stream}/head/bias"].shape == (classes,)
    used = {name: value for name, value in tensors.items() if not name.endswith("/Momentum")}
    assert len(flat) == len(used) - ("global_step" in used)
    prefix = {"rgb": "RGB/inception_i3d/", "flow": "Flow/inception_i3d/"}[stream] if classes == 400 else ""
    for name, path in [
        ("Conv3d_1a_7x7/conv_3d/w", "params/{}/conv_1a/conv/kernel"),
        ("Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/w", "params/{}/mixed_4d/b1b/conv/kernel"),
        ("Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w", "params/{}/mixed_5b/b2b/conv/kernel"),
        ("Mixed_5b/Branch_2/Conv3d_0a_1x1/batch_norm/beta", "params/{}/mixed_5b/b2a/bn/bias"),
        ("Mixed_3c/Branch_3/Conv3d_0b_1x1/batch_norm/moving_variance", "batch_stats/{}/mixed_3c/b3b/bn/var"),
        ("Logits/Conv3d_0c_1x1/conv_3d/w", "params/{}/head/kernel"),
    ]:
        value = flat[path.format(stream)]
        assert (value == tensors[prefix + name].reshape(value.shape)).all()


def test_tensorflow_two_streams(golden):
    """Both checkpoints of the paper's best model in one: as many numbers as their variables hold."""
    shapes = variables_of(golden, "rgb_imagenet") | variables_of(golden, "flow_imagenet")
    tensors = {f"{name}:0": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    variables = convert.from_reference("kinetics_i3d", "two_stream_imagenet", tensors)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    statistics = sum(np.prod(shape) for name, shape in shapes.items() if "/moving_" in name)
    assert count == sum(np.prod(shape) for shape in shapes.values()) - statistics == 25_358_016
