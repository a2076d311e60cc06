"""Starting from other weights: what is taken, made to fit or left fresh, and the refusal of anything else."""

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util

from vidjax import checkpoint, main, transfer


def tree(**leaves):
    return traverse_util.unflatten_dict({tuple(k.split("__")): np.asarray(v, np.float32) for k, v in leaves.items()})


def draw(*shape):
    return np.random.RandomState(len(shape) + sum(shape)).rand(*shape).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def write(variables, name="run"):
        checkpoints = checkpoint.Checkpoints(tmp_path / name)
        checkpoints.save(3, variables, {"step": np.int32(3)}, {"config": {}}, wait=True)
        checkpoints.close()
        return str(tmp_path / name)

    return write


def test_takes_what_fits_and_says_so(save):
    theirs = tree(
        params__conv__kernel=draw(1, 3, 3, 3, 4), params__head__kernel=draw(4, 9), batch_stats__bn__mean=draw(4)
    )
    ours = jax.tree.map(np.zeros_like, theirs) | {}
    ours["params"]["head"]["kernel"] = np.ones((4, 5), np.float32)
    variables, lines = transfer.load({"path": save(theirs), "skip": "params/head/.*"}, ours)
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], theirs["params"]["conv"]["kernel"])
    np.testing.assert_array_equal(variables["batch_stats"]["bn"]["mean"], theirs["batch_stats"]["bn"]["mean"])
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], np.ones((4, 5)))
    assert lines[0].endswith("step 3: 2 taken, 1 fresh")
    assert any("params/head/kernel (4, 5)" in line for line in lines[1:])


def test_inflates_averages_and_renames(save):
    kernel = draw(1, 3, 3, 3, 4)
    ours = tree(params__stem__kernel=np.zeros((5, 3, 3, 10, 4)))
    section = {"path": save(tree(params__conv1__kernel=kernel)), "inflate": True, "channels": True}
    section["rename"] = ((r"params/conv1/(.*)", r"params/stem/\1"),)
    variables, lines = transfer.load(section, ours)
    expected = np.broadcast_to(kernel.mean(3, keepdims=True) / 5, (5, 3, 3, 10, 4))
    np.testing.assert_allclose(variables["params"]["stem"]["kernel"], expected, rtol=1e-6)
    assert "averaged to 10 channels and inflated to 5 frames" in lines[0]


def test_two_runs_complete_one_another_and_one_net_starts_two_towers(save):
    a, b, c = draw(2, 3), draw(3, 3), draw(4, 4)
    one, two = (
        save(tree(params__spatial__kernel=a, params__norm__scale=c)),
        save(tree(params__temporal__kernel=b), "two"),
    )
    rename = ((r"params/norm/(.*)", r"params/left/\1"), (r"params/norm/(.*)", r"params/right/\1"))
    names = ("spatial__kernel", "temporal__kernel", "left__scale", "right__scale")
    wanted = dict(zip(names, (a, b, c, c), strict=True))
    ours = tree(**{f"params__{name}": np.zeros_like(value) for name, value in wanted.items()})
    variables, lines = transfer.load({"path": f"{one},{two}", "rename": rename}, ours)
    for (path, leaf), value in zip(sorted(traverse_util.flatten_dict(variables).items()), (c, c, a, b), strict=True):
        np.testing.assert_array_equal(leaf, value, err_msg=str(path))
    assert lines[0].endswith("two, step 3: 4 taken")
    with pytest.raises(transfer.TransferError, match="params/temporal/kernel comes twice"):
        transfer.load({"path": f"{two},{two}"}, ours)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({"params__conv__kernel": np.zeros((2, 3))}, r"params/conv/kernel is \(2, 4\) there and \(2, 3\) here"),
        ({"params__conv__kernel": np.zeros((2, 4)), "params__bn__scale": np.zeros(4)}, "params/bn/scale is not in it"),
        ({}, "params/conv/kernel is only in it"),
    ],
)
def test_refuses_what_does_not_fit(save, ours, message):
    path = save(tree(params__conv__kernel=draw(2, 4)))
    with pytest.raises(transfer.TransferError, match=message):
        transfer.load({"path": path}, tree(**ours))


def test_unknown_key():
    with pytest.raises(ValueError, match="config.init has no key 'skipp'"):
        transfer.options({"skipp": ""})


def test_a_run_starts_from_another(tmp_path):
    from vidjax import train

    videos = tiny.render(tmp_path / "videos")
    cfg = tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0)
    train.train(cfg, str(tmp_path / "first"))
    first, _, _ = checkpoint.load_variables(tmp_path / "first")
    cfg.init = {"path": str(tmp_path / "first"), "skip": "params/head/.*"}
    cfg.optim.lr, cfg.optim.trained = 0.1, "head/.*"
    train.train(cfg, str(tmp_path / "second"))
    second, _, _ = checkpoint.load_variables(tmp_path / "second")
    same = jax.tree.map(np.array_equal, first["params"], second["params"])
    assert all(all(jax.tree.leaves(value)) for name, value in same.items() if name != "head")
    assert not any(jax.tree.leaves(same["head"]))


def test_finetuning_takes_the_net_and_its_pixels_from_a_checkpoint(golden, tmp_path, capsys):
    """Six published classes become five of a folder's: the same frames and pixels, a new head, all else as it was."""
    videos, run, mine = tmp_path / "videos", tmp_path / "run", tmp_path / "mine"
    tiny.render(tmp_path / "videos")
    weights = golden / "weights" / "keras" / "amine_lrcn6.h5"
    assert main.main(["convert", "--from=keras_lrcn:amine_lrcn6", str(weights), f"--to={run}"]) == 0
    form = "--config=configs/finetune.py:linear"
    flags = [f"--config.data.path={videos}", f"--workdir={mine}", "--config.steps=2", "--config.optim.warmup=0"]
    assert main.main(["train", form, *flags]) == 1
    assert "give --config.init_from=DIR" in capsys.readouterr().err
    assert main.main(["train", "--config=configs/quickstart.py", f"--config.init_from={run}", *flags]) == 1
    assert "is for configs/finetune.py" in capsys.readouterr().err
    assert (
        main.main(["train", form, f"--config.init_from={run}", *flags, "--config.mesh.data=1", "--config.eval.clips=1"])
        == 0
    )
    meta, before = checkpoint.read_meta(str(mine)), checkpoint.load_variables(str(run))[0]
    after = checkpoint.load_variables(str(mine))[0]
    assert meta["config"]["model"] == checkpoint.read_meta(str(run))["config"]["model"]
    for key in ("frames", "sampler", "size", "resize", "interpolation"):
        assert meta["preprocess"][key] == checkpoint.read_meta(str(run))["preprocess"][key]
    jax.tree.map(np.testing.assert_array_equal, *(tree["params"]["frame"] for tree in (before, after)))
    assert after["params"]["head"]["bias"].shape == (len(meta["class_names"]),)
    assert not np.array_equal(before["params"]["head"]["bias"], after["params"]["head"]["bias"])


def test_an_attentive_probe_on_a_run(tmp_path):
    """The net of a run rests below a new probe, and its checkpoint evaluates by itself."""
    from vidjax import train

    videos, run, mine = tiny.render(tmp_path / "videos"), str(tmp_path / "run"), str(tmp_path / "mine")
    train.train(tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0), run)
    flags = [f"--config.init_from={run}", f"--config.data.path={videos}", f"--workdir={mine}", "--config.mesh.data=1"]
    flags += ["--config.steps=2", "--config.optim.warmup=0", "--config.model.heads=2", "--config.eval.clips=1"]
    form = "--config=configs/finetune.py:attentive"
    assert main.main(["train", form, *flags]) == 0
    net, probed = (checkpoint.load_variables(path)[0] for path in (run, mine))
    assert {"pooler", "head", "net"} == set(probed["params"])
    resting = {name: tree for name, tree in net["params"].items() if name != "head"}
    jax.tree.map(np.testing.assert_array_equal, probed["params"]["net"], resting)
    jax.tree.map(np.testing.assert_array_equal, probed["batch_stats"]["net"], net["batch_stats"])
    assert main.main(["eval", f"--workdir={mine}"]) == 0
