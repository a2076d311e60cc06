"""Training in one process: exact resume, the same optimisation on every mesh, stops that say why."""

import csv
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util

from vidjax import checkpoint, data, evaluate, train


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """A finished run of 8 steps, with everything that a resumed run must carry on: (config, workdir, report)."""
    workdir, cfg = str(tmp_path_factory.mktemp("finished")), tiny.make_config(videos)
    cfg.optim.update({"ema": 0.9, "accumulate": 2, "layer_decay": 0.8})
    cfg.eval.precise_bn = 2
    return cfg, workdir, train.train(cfg, workdir)


def saved(workdir, cfg):
    """Everything that a workdir's newest checkpoint holds, as NumPy arrays."""
    source = data.source(cfg.data, "train")
    model = train.models.build(cfg.model, num_classes=len(source.classes))
    tx, _ = train.optim.build(cfg.steps, **cfg.optim)
    _, abstract, _ = train.make_step(cfg, model, tx, train.sharding.make_mesh(data=1))
    variables, rest, _, step = checkpoint.Checkpoints(workdir, write=False).restore(train.bundle(abstract))
    return jax.device_get((variables, rest)), step


def losses(workdir):
    lines = map(json.loads, pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_four_steps_and_four_more_equal_eight(finished, tmp_path):
    cfg, workdir, report = finished
    half, rest = str(tmp_path / "half"), cfg.copy_and_resolve_references()
    train.train(cfg, half)
    for name in ("8", "4"):
        assert pathlib.Path(half, "checkpoints", name).is_dir()
    shutil.rmtree(pathlib.Path(half, "checkpoints", "8"))
    resumed = train.train(rest, half)
    (one, step), (two, again) = saved(workdir, cfg), saved(half, cfg)
    assert step == again == 8
    tiny.assert_equal(one, two)
    assert resumed["confusion"] == report["confusion"]
    assert resumed["loss"] == report["loss"]


def test_finished_run_evaluates_again_without_training(finished):
    cfg, workdir, report = finished
    assert train.train(cfg, workdir)["loss"] == report["loss"]


@pytest.mark.parametrize(
    ("mesh", "rules"), [({"data": 8}, "replicate"), ({"data": 2, "fsdp": 4}, "fsdp"), ({"fsdp": 2}, "optimizer")]
)
def test_every_mesh_takes_the_same_steps(videos, tmp_path, mesh, rules):
    curves = []
    for name, sizes, preset in (("one", {"data": 1}, "replicate"), ("many", mesh, rules)):
        cfg = tiny.make_config(videos, steps=3, log_every=1, mesh=sizes, sharding=preset, model__widths=(4, 64))
        train.train(cfg, str(tmp_path / name))
        curves.append(list(losses(tmp_path / name).values()))
    # sums over devices run in another order, and Adam's first steps divide by gradients near zero
    np.testing.assert_allclose(*curves, rtol=2e-4)


def test_fsdp_splits_large_parameters_from_birth(videos):
    cfg = tiny.make_config(videos, model__widths=(8, 64))
    mesh = train.sharding.make_mesh(data=2, fsdp=4)
    model = train.models.build(cfg.model, num_classes=8)
    tx, _ = train.optim.build(cfg.steps, **cfg.optim)
    cfg.sharding = "fsdp"
    _, abstract, init = train.make_step(cfg, model, tx, mesh)
    state = init()
    kernel = state.variables["params"]["layer2_0"]["conv2"]["conv"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert state.opt_state[1][0].mu["layer2_0"]["conv2"]["conv"]["kernel"].sharding == kernel.sharding
    assert abstract.variables["params"]["stem"]["bn"]["scale"].sharding.is_fully_replicated


def test_evaluation_job_repeats_trainings_own_digits(finished):
    cfg, workdir, report = finished
    stored = json.loads(pathlib.Path(workdir, "report_8.json").read_text())
    again = evaluate.run(cfg, workdir, 8)
    for key in ("top1", "top5", "loss", "mean_class", "confusion", "per_class", "mistakes"):
        assert again[key] == report[key] == stored[key]


def test_uneven_split_loses_no_video(finished):
    cfg, workdir, report = finished
    assert report["data"]["videos"] == report["data"]["found"] == 13
    assert sum(map(sum, report["confusion"])) == 13
    cfg = cfg.copy_and_resolve_references()
    cfg.mesh, cfg.eval.batch_size = {"data": 8}, 16
    spread = evaluate.run(cfg, workdir)
    assert spread["confusion"] == report["confusion"]
    np.testing.assert_allclose(spread["loss"], report["loss"], rtol=1e-5)


def test_partial_bn_freezes_all_norms_but_the_first(videos, tmp_path):
    """The statistics that rest stay 0 and 1; the scales of those norms still learn."""
    cfg = tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0)
    cfg.optim.frozen_norms = "(?!stem/).*"
    train.train(cfg, str(tmp_path))
    variables, _, _ = checkpoint.load_variables(tmp_path)
    stats = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    assert {path.split("/")[0] for path in stats} > {"stem"}
    for path, value in stats.items():
        rests = np.array_equal(value, np.full_like(value, path.endswith("/var")))
        assert rests == (not path.startswith("stem/")), path
    scales = [
        x for path, x in traverse_util.flatten_dict(variables["params"], sep="/").items() if path.endswith("scale")
    ]
    assert all(np.any(scale != 1) for scale in scales)


def test_masked_videos_weigh_nothing(videos):
    """The gradient of a batch with two masked rows is that of the rest, in a net without batch statistics."""
    cfg = tiny.make_config(videos, model__dropout=0.0)
    model = train.models.build(cfg.model, num_classes=8)
    tx, _ = train.optim.build(cfg.steps, **cfg.optim)
    state = jax.jit(
        functools.partial(
            train.init_state, model, tx, seed=0, example=jax.ShapeDtypeStruct((1, 8, 24, 24, 3), np.float32)
        )
    )()
    rng = np.random.default_rng(0)
    batch = {
        "inputs": {"rgb": rng.integers(0, 256, (4, 8, 24, 24, 3), np.uint8)},
        "label": np.array([1, 2, 3, 4], np.int32),
        "mask": np.array([1, 1, 0, 0], np.float32),
    }
    step = jax.jit(functools.partial(train.train_step, model=model, tx=tx, seed=0))
    _, masked = step(state, batch)
    batch["label"] = np.array([1, 2, 7, 7], np.int32)
    _, other = step(state, batch)
    assert masked["loss"] == other["loss"]
    assert masked["grad_norm"] == other["grad_norm"]
    assert masked["videos"] == 2


def test_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(videos, tmp_path):
    cfg = tiny.make_config(videos, checkpoint_every=2)
    train.train(tiny.make_config(videos, steps=4, checkpoint_every=2), str(tmp_path))
    cfg.optim.update({"lr": 1e38, "schedule": "constant", "warmup": 0, "clip_norm": 0.0})
    with pytest.raises(train.TrainingError, match=r"step \d gave loss .* the last good checkpoint is step 4"):
        train.train(cfg, str(tmp_path))
    assert checkpoint.Checkpoints(str(tmp_path), write=False).latest_step() == 4


def test_another_models_workdir_is_refused(finished, tmp_path):
    cfg, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "copy")
    cfg = cfg.copy_and_resolve_references()
    cfg.model = {"name": "frame_pool", "variant": "small"}
    with pytest.raises(checkpoint.CheckpointError, match=r"another model \(r3d/small\)"):
        train.train(cfg, str(tmp_path / "copy"))


def test_unreadable_training_videos_are_listed_masked_and_limited(videos, tmp_path):
    folder = tmp_path / "some bad vidéos"
    shutil.copytree(videos, folder)
    broken = sorted(folder.glob("train/*/*.mp4"))[:3]
    for file in broken:
        file.write_bytes(b"")
    cfg = tiny.make_config(folder, steps=4, data__max_bad=0.1)
    train.train(cfg, str(tmp_path / "run"))
    with open(tmp_path / "run" / "bad_videos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [file.relative_to(folder).as_posix() for file in broken]
    assert all(row["error"] for row in rows)
    cfg.data.max_bad = 0.05
    with pytest.raises(ValueError, match=r"3 of 40 videos cannot be read, more than config.data.max_bad=0.05"):
        train.train(cfg, str(tmp_path / "strict"))


def test_unreadable_evaluation_video_fails_before_training_unless_allowed(videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    sorted(folder.glob("eval/*/*.mp4"))[0].write_text("not a video")
    cfg = tiny.make_config(folder, steps=2, optim__warmup=1)
    with pytest.raises(evaluate.EvaluationError, match="1 of 13 evaluation videos cannot be read"):
        train.train(cfg, str(tmp_path / "run"))
    cfg.eval.allow_bad = True
    report = train.train(cfg, str(tmp_path / "run"))
    assert report["data"]["videos"] == 12
    assert len(report["data"]["bad"]) == 1


def test_other_classes_are_refused(finished, videos, tmp_path):
    cfg, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    shutil.copytree(videos, tmp_path / "videos")
    for split in ("train", "eval"):
        (tmp_path / "videos" / split / "up").rename(tmp_path / "videos" / split / "upwards")
    cfg = cfg.copy_and_resolve_references()
    cfg.data.path = str(tmp_path / "videos")
    for job in (train.train, evaluate.run):
        with pytest.raises(evaluate.EvaluationError, match=r"only the data have \['upwards'\], .* has \['up'\]"):
            job(cfg, str(tmp_path / "run"))


def test_evaluation_that_fails_does_not_cost_the_steps_before_it(videos, tmp_path, monkeypatch):
    cfg = tiny.make_config(videos, steps=4, checkpoint_every=100, eval__every=3)

    def fail(self, variables, step, workdir):
        raise OSError(f"cannot write {workdir}/report_{step}.html: no space left on the device")

    monkeypatch.setattr(evaluate.Evaluator, "__call__", fail)
    with pytest.raises(OSError, match="report_3.html"):
        train.train(cfg, str(tmp_path))
    monkeypatch.undo()
    assert checkpoint.Checkpoints(str(tmp_path), write=False).latest_step() == 3
    assert train.train(cfg, str(tmp_path))["step"] == 4


def test_bfloat16_computes_small_and_keeps_float32_parameters(videos, tmp_path):
    cfg = tiny.make_config(videos, steps=3, log_every=1, model__dtype="bfloat16")
    train.train(cfg, str(tmp_path / "half"))
    full = tiny.make_config(videos, steps=3, log_every=1)
    train.train(full, str(tmp_path / "full"))
    a, b = (list(losses(tmp_path / name).values()) for name in ("half", "full"))
    np.testing.assert_allclose(a, b, rtol=0.02)  # bfloat16 keeps 8 bits
    assert a != b
    (variables, _), _ = saved(str(tmp_path / "half"), cfg)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_changed_config_is_named_on_resume(videos, tmp_path, caplog):
    train.train(tiny.make_config(videos, steps=3), str(tmp_path))
    with caplog.at_level("INFO", "vidjax"):
        train.train(tiny.make_config(videos, steps=4, optim__lr=0.5), str(tmp_path))
    assert "optim.lr: 0.003 -> 0.5" in caplog.text
    assert "continuing from step 3" in caplog.text
