"""VMZ's Caffe2 blobs and PyTorch names give the same variables; blobs are numbered here as VMZ's builder counts."""

import pickle

import numpy as np
import pytest
from flax import traverse_util

from vidjax import convert, models
from vidjax.convert import export, weights
from vidjax.models import csn, r3d

PARTS = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
NETS = {  # arch: (depths, numbers of a block's convolutions, the one of two parts and where its second part lies)
    "r2plus1d_34": (r3d.VARIANTS["r2plus1d_34_paper"]["depths"], (1, 2), {1: 3, 2: 3}),
    "r2plus1d_152": (r3d.VARIANTS["r2plus1d_152_paper"]["depths"], (1, 2, 3), {2: 3}),
    "ir_csn_50": (csn.VARIANTS["ir_50"]["depths"], (1, 3, 4), {}),
    "ip_csn_152": (csn.VARIANTS["ip_152"]["depths"], (1, 2, 3), {2: 2}),
}


def layers(arch):
    """{layer in PyTorch: layer in Caffe2}, of convolutions and of norms."""
    depths, numbers, split = NETS[arch]
    convs, norms = {"stem.0": "conv1"}, {"stem.1": "conv1_spatbn_relu"}
    if "plus" in arch:
        convs = {"stem.0": "conv1_middle", "stem.3": "conv1"}
        norms = {"stem.1": "conv1_middle_spatbn_relu", "stem.4": "conv1_spatbn_relu"}
    count = 0
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            for i, number in enumerate(numbers, 1):
                conv, norm = f"comp_{count}_conv_{number}", f"comp_{count}_spatbn_{number}"
                if number in split:
                    convs |= {f"{at}.conv{i}.0.0": f"{conv}_middle", f"{at}.conv{i}.0.{split[number]}": conv}
                    norms |= {f"{at}.conv{i}.0.1": f"{norm}_middle"}
                else:
                    convs |= {f"{at}.conv{i}.0": conv}
                norms |= {f"{at}.conv{i}.1": norm}
            convs[f"{at}.downsample.0"] = f"shortcut_projection_{count}"
            norms[f"{at}.downsample.1"] = f"shortcut_projection_{count}_spatbn"
            count += 1
    return convs, norms


@pytest.fixture(scope="module", params=[*NETS])
def case(request):
    """(arch, tensors by PyTorch's names): one number in each, for size."""
    row = models.reference("vmz", request.param)
    model = models.for_reference("vmz", request.param, 7)
    leaves = traverse_util.flatten_dict(models.shapes(model, (1, 8, 32, 32, 3)), sep="/")
    found, rng = {}, np.random.RandomState(0)
    for path, leaf in leaves.items():
        (name, transform) = next(
            (name, rule[2]) for rule in row["table"] if rule[1] and (name := export.name_of(*rule[:2], path))
        )
        value = np.broadcast_to(np.float32(rng.rand()), leaf.shape)
        found[name] = convert.TRANSFORMS[transform][2](value) if transform else value
    return request.param, found


def blobs(arch, tensors):
    """The same tensors as Caffe2 has them."""
    convs, norms = layers(arch)
    found = {}
    for name, x in tensors.items():
        layer, _, part = name.rpartition(".")
        if layer == "fc":
            found[f"last_out_L7_{part[0]}"] = x
        else:
            found[f"{convs[layer]}_w" if layer in convs else f"{norms[layer]}_{PARTS[part]}"] = x
    return found


def test_both_names_give_the_same_variables(case):
    arch, tensors = case
    first, second = (
        traverse_util.flatten_dict(convert.from_reference("vmz", arch, given))
        for given in (tensors, blobs(arch, tensors))
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_what_is_not_of_the_net_is_named(case):
    arch, tensors = case
    given = blobs(arch, tensors) | {"comp_99_conv_1_w": np.ones(3, np.float32), "lr": np.ones(1, np.float32)}
    with pytest.raises(convert.ConvertError, match=r"1 names that no rule matches \(comp_99_conv_1_w\)"):
        convert.from_reference("vmz", arch, given)


def test_a_pickle_of_blobs_is_read(tmp_path):
    given = {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"blobs": given}, protocol=2))
    found = weights.load(tmp_path / "net.pkl")
    assert found.keys() == given.keys()
    np.testing.assert_array_equal(found["conv1_w"], given["conv1_w"])
