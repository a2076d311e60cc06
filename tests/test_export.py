"""Export: rules read backwards, whole nets there and back again, and refusals."""

import json

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from vidjax import convert, main, models, rules
from vidjax.convert import converted, export


@pytest.mark.parametrize(
    ("pattern", "template", "path", "name"),
    [
        (r"fc\.weight", "params/head/kernel", "params/head/kernel", "fc.weight"),
        (r"layer(\d)\.(\d+)\.conv", r"params/layer\1_\2/conv", "params/layer3_12/conv", "layer3.12.conv"),
        (r"bn(?P<n>\d)\.running_(?P<s>mean|var)", r"\g<s>/bn\g<n>", "var/bn2", "bn2.running_var"),
        (r"(a|b)\.(\d)", r"\2/\1", "7/b", "b.7"),
        (r"x(\d)", r"\1/\1", "4/4", "x4"),
        (r"features.3\.w", "w", "w", "features.3.w"),  # the tables' plain dots
        (r"x(\d)", r"\1/\1", "4/5", ""),
        (r"x(\d)", r"\1", "12", ""),
        (r"bn2?", "bn", "bn", ""),  # the path leaves the name open
        (r"a(\d)", "a", "a", ""),
        (r"conv(\d)(_t)?", r"conv\1", "conv1", ""),
    ],
)
def test_a_name_from_a_path(pattern, template, path, name):
    assert export.name_of(pattern, template, path) == name


def test_what_does_not_fit_is_named():
    table = [*rules.dense("fc", "head"), (r"(a|b)\.weight", r"params/\1/kernel", None)]
    tree = {"params": {"head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "a": {"kernel": np.ones(4)}}}
    found = export.invert(table, tree, "it")
    assert {name: value.shape for name, value in found.items()} == {
        "fc.weight": (3, 2),
        "fc.bias": (3,),
        "a.weight": (4,),
    }
    with pytest.raises(export.ExportError, match="it has no place for params/c"):
        export.invert(table, {"params": {"c": np.ones(1)}}, "it")
    with pytest.raises(export.ExportError, match="it has several names for params/a/kernel"):
        export.invert([*table, ("other", "params/a/kernel", None)], tree, "it")


MANIFESTS = [  # nets of golden that lead back to every name of theirs
    ("torchvision", "r3d_18"),
    ("torchvision", "mc3_18"),
    ("torchvision", "r2plus1d_18"),
    ("torchvision", "s3d"),
    ("pytorchvideo", "csn_r50"),
    ("pytorchvideo", "slow_r50"),
    ("pytorchvideo", "i3d_r50"),
    ("pytorchvideo", "r2plus1d_r50"),
    ("pytorchvideo", "slowfast_r50_8x8"),
    ("pytorchvideo", "x3d_xs"),
    ("repos", "hara_densenet121"),
    ("repos", "okankop_mobilenetv2"),
    ("repos", "okankop_squeezenet"),
    ("repos", "howto100m_s3dg"),
    ("repos", "tsm_resnet18"),
    ("repos", "hara_resnet18"),
    ("repos", "hara_r2p1d18"),
    ("repos", "piergiaj_i3d_rgb"),
    ("repos", "hassony2_i3d_rgb"),
    ("repos", "davidea_c3d_487"),
    ("repos", "jfzhang_r3d"),
    ("repos", "jfzhang_r2plus1d"),
]


def manifest(golden, file, net):
    return json.loads((golden / "expected" / f"ref_{file}.json").read_text())[net]["manifest"]


@pytest.mark.parametrize(("file", "net"), MANIFESTS)
def test_names_of_whole_nets(golden, file, net):
    source, _, arch = net.partition("_") if file == "repos" else (file, "", net)
    source, arch = {"i3d_rgb": (f"{source}_i3d", "rgb")}.get(arch, (source, arch))
    row, names = models.reference(source, arch), dict(manifest(golden, file, net))
    model = models.for_reference(source, arch, names[row["head"]][0])
    size, frames = row["preprocess"]["size"], row["preprocess"]["frames"]
    shapes = models.shapes(model, models.batched(row.get("input", (frames, size, size, 3))))
    own = [rule for rule in row["table"] if rule[1] is not None]
    ours = {
        name
        for path in traverse_util.flatten_dict(shapes, sep="/")
        for rule in own
        if (name := export.name_of(*rule[:2], path))
    }
    ours = {*row["restore"](dict.fromkeys(ours, ()))} if "restore" in row else ours
    assert ours == {name for name in names if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def tensors(golden):
    """A small net's random tensors by the reference's names, batches counted as 0."""
    rng = np.random.RandomState(0)
    return {
        name: np.zeros(shape, np.int64) if name.endswith("num_batches_tracked") else rng.rand(*shape).astype(np.float32)
        for name, shape in manifest(golden, "repos", "okankop_mobilenetv2")
    }


def same(back, tensors):
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_there_and_back_to_the_last_bit(tensors):
    same(
        export.to_reference("okankop", "mobilenetv2", convert.from_reference("okankop", "mobilenetv2", tensors)),
        tensors,
    )


def test_a_run_goes_out_as_a_file(tensors, tmp_path, capsys):
    np.savez(tmp_path / "net.npz", **tensors)
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(16)))
    converted.write("okankop", "mobilenetv2", tmp_path / "net.npz", tmp_path / "run", tmp_path / "names.txt")
    file, call = tmp_path / "net.safetensors", ["export", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*call, "--as=okankop:mobilenetv2", str(file)]) == 0
    assert f"{len(tensors)} tensors" in capsys.readouterr().out
    same(load_file(file), tensors)
    for flag, sentence in (
        ("--as=okankop:mobilenetv2", "net.safetensors is already there; give another name or remove it"),
        ("--as=torchvision:r3d_18", "give --as=SOURCE:ARCH of that net"),
        ("--as=torchvision", "give --as=SOURCE:ARCH, ARCH one of"),
    ):
        assert main.main([*call, flag, str(file if "okankop" in flag else tmp_path / "new.safetensors")]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
