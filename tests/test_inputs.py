"""What the device makes of a batch; training on flow, mixtures, several labels, mixed clips; evaluation by protocol."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vidjax import checkpoint, config, data, evaluate, inputs, losses, models, predict, sharding, train
from vidjax.data import flow, flow_store, sources, video
from vidjax.models import motionnet
from vidjax.nn import lowering


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def motionnet_checkpoint(tmp_path_factory):
    """A small MotionNet with random weights, saved as a run saves it."""
    folder = str(tmp_path_factory.mktemp("motionnet"))
    cfg = {"name": "motionnet", "variant": "small"}
    model = models.build(cfg)
    rng, shapes = np.random.default_rng(0), models.shapes(model, (1, model.frames, 24, 24, 3))
    variables = jax.tree.map(lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    saved = checkpoint.Checkpoints(folder)
    saved.save(1, variables=variables, train={}, meta={"config": {"model": cfg}, "class_names": []})
    saved.close()
    return folder, model, variables


def test_i420_becomes_the_pixels_that_the_decoder_makes(golden):
    """The matrix and the layout: beside PyAV's own conversion of the same planes, chroma interpolation aside."""
    clip = str(golden / "video" / "clips" / "R6llTwEh07w.mp4")
    rgb = video.read(clip, [10, 40], 128) / np.float32(255)
    planes = video.read(clip, [10, 40], 128, "yuv420")
    found = np.asarray(inputs.rgb_of_i420(jnp.asarray(planes)))
    height, width = (min(x) for x in zip(rgb.shape[1:3], found.shape[1:3], strict=True))
    difference = np.abs(rgb[:, :height, :width] - found[:, :height, :width])
    assert difference.mean() < 0.01  # chroma is interpolated otherwise at edges: 2.5 of 255 levels


def test_grey_i420_is_exact():
    planes = np.full((1, 12, 8), 128, np.uint8)
    planes[:, :8] = np.arange(64).reshape(8, 8) * 4
    found = inputs.rgb_of_i420(jnp.asarray(planes))
    np.testing.assert_allclose(found, np.repeat(planes[:, :8, :, None] / 255, 3, -1), atol=1e-6)


def test_motionnet_makes_the_flow_that_a_model_sees(videos, motionnet_checkpoint):
    folder, model, variables = motionnet_checkpoint
    cfg = tiny.make_config(videos)
    cfg.data.modalities, cfg.data.clip.size = ("flow",), 3
    cfg.data.flow = {"source": "motionnet", "path": folder, "stack": 2}
    section = data.options(cfg.data)
    batches = data.train(cfg.data, data.source(cfg.data, "train"), seed=0)
    wire = next(batches)["inputs"]
    batches.close()
    seen = jax.jit(inputs.preparer(section))(wire, inputs.load_net(section))
    assert seen.shape == (8, 3, 24, 24, 4)
    frames = wire["flow_frames"].reshape(24, 3, 24, 24, 3) / np.float32(255)
    fields = np.asarray(motionnet.estimate(model, variables, jnp.asarray(frames)))
    expected = np.clip(fields / 20, -1, 1).transpose(0, 2, 3, 1, 4).reshape(8, 3, 24, 24, 4)
    assert np.abs(np.asarray(seen) - expected).max() <= 1.01 / 255  # rounded to 255 levels of [-1, 1]


def test_a_net_trains_and_predicts_on_a_motionnets_flow(videos, tmp_path, motionnet_checkpoint):
    cfg = tiny.make_config(videos, steps=2, optim__warmup=0, checkpoint_every=2, eval__every=2)
    cfg.data.modalities, cfg.data.clip.size, cfg.data.augment.color = ("flow",), 2, 0.0
    cfg.data.flow = {"source": "motionnet", "path": motionnet_checkpoint[0], "stack": 2}
    cfg.model.update({"mean": 0.0, "std": 1.0})
    cfg.mesh = {"data": 8}
    report = train.train(cfg, str(tmp_path))
    assert evaluate.run(cfg, str(tmp_path))["loss"] == report["loss"]
    path = sorted(videos.glob("eval/*/*.mp4"))[0]
    np.testing.assert_allclose(predict.Predictor(str(tmp_path))(str(path))["scores"].sum(1), 1, rtol=1e-5)


def test_the_motionnet_of_a_hidden_two_stream_net_makes_flow(tmp_path):
    cfg = {"name": "hidden_two_stream", "variant": "small", "frames": 3}
    whole = models.build(cfg)
    rng, shapes = np.random.default_rng(0), models.shapes(whole, (1, 3, 24, 24, 3))
    variables = jax.tree.map(lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    saved = checkpoint.Checkpoints(str(tmp_path))
    saved.save(1, variables=variables, train={}, meta={"config": {"model": cfg}, "class_names": []})
    saved.close()
    options = {"source": "motionnet", "path": str(tmp_path), "stack": 2}
    section = data.options({"modalities": ("flow",), "flow": options})
    frames = rng.integers(0, 256, (1, 1, 3, 24, 24, 3), np.uint8)
    net = inputs.load_net(section)
    tiny.assert_equal(net["params"], variables["params"]["motionnet"])
    apply = jax.jit(lambda v, x: motionnet.double(2 * whole.apply(v, x, train=False)[1]["motionnet/flow2"]))
    with lowering("native"):  # compiles faster
        seen = jax.jit(inputs.preparer(section))({"flow_frames": frames}, net)
        fields = np.asarray(apply(variables, frames[:, 0] / np.float32(255)))
    expected = np.clip(fields / 20, -1, 1).transpose(0, 2, 3, 1, 4).reshape(1, 1, 24, 24, 4)
    assert np.abs(np.asarray(seen) - expected).max() <= 1.01 / 255  # rounded to 255 levels of [-1, 1]


def test_another_checkpoint_makes_no_flow(videos, tmp_path):
    cfg = tiny.make_config(videos, steps=1, checkpoint_every=1, optim__warmup=0)
    train.train(cfg, str(tmp_path))
    cfg.data.modalities, cfg.data.flow = ("flow",), {"source": "motionnet", "path": str(tmp_path)}
    with pytest.raises(ValueError, match="holds a r3d model, not a motionnet"):
        inputs.preparer(data.options(cfg.data))


@pytest.mark.parametrize("source", ["online", "device", "stored"])
def test_a_net_trains_on_flow_and_predicts_from_its_checkpoint(videos, tmp_path, source):
    cfg = tiny.make_config(videos, steps=2, optim__warmup=0, checkpoint_every=2, eval__every=2)
    cfg.data.modalities, cfg.data.flow = ("flow",), {"source": source, "method": "farneback", "bound": 4.0}
    if source == "stored":
        cfg.data.flow.path = str(tmp_path / "flow")
        flow_store.build(sources.everything(videos), cfg.data.flow.path, flow.estimator("farneback"))
    cfg.data.clip.size, cfg.data.augment.color = 4, 0.0
    cfg.model.update({"mean": 0.0, "std": 1.0})
    report = train.train(cfg, str(tmp_path))
    assert report["data"]["videos"] == 13
    again = evaluate.run(cfg, str(tmp_path), 2)
    assert again["loss"] == report["loss"]
    predictor = predict.Predictor(str(tmp_path))  # of a video that no store knows, if need be
    shutil.copy(sorted(videos.glob("eval/*/*.mp4"))[0], tmp_path / "new.mp4")
    np.testing.assert_allclose(predictor(str(tmp_path / "new.mp4"))["scores"].sum(1), 1, rtol=1e-5)
    kernels = [leaf for leaf in jax.tree.leaves(predictor.variables["params"]["stem"]) if leaf.ndim == 5]
    assert [kernel.shape[-2] for kernel in kernels] == [2]


def mixture(videos):
    cfg = tiny.make_config(videos, steps=2, optim__warmup=0, checkpoint_every=2, eval__every=2)
    own = {"source": "folder", "path": str(videos)}
    cfg.data.mixture = {"one": own | {"weight": 3.0}, "two": own | {"weight": 1.0}}
    return cfg


def test_a_mixture_trains_each_set_on_its_own_classes(videos, tmp_path):
    cfg = mixture(videos)
    source = data.source(cfg.data, "train")
    assert source.classes[:2] == ("one/clockwise", "one/counterclockwise")
    assert (len(source), len(source.classes), source.tasks) == (80, 16, (0,) * 8 + (1,) * 8)
    batches = data.train(cfg.data, source, seed=0)
    tasks = np.concatenate([next(batches)["task"] for _ in range(10)])
    batches.close()
    assert np.bincount(tasks).tolist() == [60, 20]
    report = train.train(cfg, str(tmp_path))
    confusion = np.array(report["confusion"])
    assert confusion.sum() == 26
    assert confusion[:8, 8:].sum() == confusion[8:, :8].sum() == 0  # never another set's class


def test_other_sets_classes_leave_the_softmax_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5)).astype(np.float32)
    allowed = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]], bool)
    targets = np.eye(5, dtype=np.float32)[[0, 4, 2]]
    found = losses.softmax_cross_entropy(logits, targets, label_smoothing=0.1, allowed=allowed)
    for i, part in enumerate((slice(0, 3), slice(3, 5), slice(0, 3))):
        alone = losses.softmax_cross_entropy(logits[i : i + 1, part], targets[i : i + 1, part], label_smoothing=0.1)
        np.testing.assert_allclose(found[i], alone[0], rtol=1e-5)
    whole = losses.softmax_cross_entropy(logits, targets, label_smoothing=0.1, allowed=np.ones((3, 5), bool))
    np.testing.assert_allclose(whole, losses.softmax_cross_entropy(logits, targets, label_smoothing=0.1), rtol=1e-5)


def sports(videos, folder):
    """Sports-1M's official layout, of 487 classes, with two labels for every second video."""
    (folder / "videos").mkdir(parents=True)
    for side, name in (("train", "train"), ("eval", "test")):
        lines = []
        for i, file in enumerate(sorted(videos.glob(f"{side}/*/*.mp4"))):
            key = f"{side}{i:06d}"[:11].ljust(11, "x")
            (folder / "videos" / f"{key}.mp4").symlink_to(file)
            lines.append(f"http://www.youtube.com/watch?v={key} {i % 8}{f',{8 + i % 3}' if i % 2 else ''}")
        (folder / f"{name}_partition.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_videos_of_several_labels_train_and_count_as_hits(videos, tmp_path):
    cfg = tiny.make_config(videos, steps=2, optim__warmup=0, checkpoint_every=2, eval__every=2)
    cfg.data.update({"source": "sports1m", "path": str(sports(videos, tmp_path / "sports"))})
    source = data.source(cfg.data, "train")
    assert source.multi_label
    assert source[1]["label"] == (1, 9)
    batches = data.train(cfg.data, source, seed=0)
    batch = next(batches)
    batches.close()
    for i, row in zip(batch["index"], batch["label"], strict=True):
        assert tuple(np.flatnonzero(row)) == source[int(i)]["label"]
    report = train.train(cfg, str(tmp_path / "run"))
    assert report["data"]["videos"] == 13
    saved = np.load(tmp_path / "run" / "scores_2.npz")
    assert saved["labels"].shape == (13, 487)
    hit = saved["labels"][np.arange(13), saved["scores"].argmax(1)] > 0
    assert report["top1"] == hit.mean()
    assert saved["scores"].sum(1).max() > 1.01  # probabilities of each class alone


def test_mixed_clips_train_and_masked_rows_stay_out(videos):
    cfg = tiny.make_config(videos, model__dropout=0.0)
    cfg.mix = config.from_dict({"mixup": 0.8, "cutmix": 1.0})
    model = models.build(cfg.model, num_classes=8)
    tx, _ = train.optim.build(cfg.steps, **cfg.optim)
    mesh = sharding.make_mesh(data=1)
    step, _, init = train.make_step(cfg, model, tx, mesh)
    rng = np.random.default_rng(0)
    batch = {
        "inputs": {"rgb": rng.integers(0, 256, (4, 8, 24, 24, 3), np.uint8)},
        "label": np.array([1, 2, 3, 4], np.int32),
        "mask": np.array([1, 1, 0, 0], np.float32),
    }
    _, masked = step(init(), batch, None)
    batch["label"][2:] = 7
    _, other = step(init(), batch, None)
    assert masked["loss"] == other["loss"]
    batch["mask"] = np.ones(4, np.float32)
    _, whole = step(init(), batch, None)
    cfg.mix = config.from_dict({"mixup": 0.0, "cutmix": 0.0})
    plain, _, _ = train.make_step(cfg, model, tx, mesh)
    assert whole["loss"] != plain(init(), batch, None)[1]["loss"]


@pytest.mark.parametrize(("protocol", "views"), [("slowfast_10x3", 30), ("two_stream_25x10", 250), ("lrcn", 20)])
def test_evaluation_by_a_named_protocol(videos, tmp_path, protocol, views):
    cfg = tiny.make_config(videos, steps=1, optim__warmup=0, checkpoint_every=1, eval__every=1)
    cfg.data.clip.size = 1 if protocol.startswith("two") else 4
    cfg.eval.protocol, cfg.eval.batch_size = protocol, 1
    found = evaluate.with_protocol(cfg)
    assert cfg.eval.size == 24  # the training config is left alone
    found.eval.size = found.eval.resize = 24
    batch = next(iter(data.evaluation(found.data, found.eval, data.source(cfg.data, "eval"))))
    assert batch["view_mask"].shape == (1, views)
    assert batch["view_mask"].all()


def test_a_protocols_report_stands_beside_trainings(videos, tmp_path):
    cfg = tiny.make_config(videos, steps=1, optim__warmup=0, checkpoint_every=1, eval__every=1)
    cfg.eval.average = "logit"
    before = train.train(cfg, str(tmp_path))
    cfg.eval.protocol = "mvit_5x1"
    cfg.data.clip.size = 4
    report = evaluate.run(cfg, str(tmp_path))
    assert (report["views"]["clips"], report["views"]["size"], report["views"]["average"]) == (5, 224, "prob")
    assert sorted(path.name for path in tmp_path.glob("*_1*.*")) == [
        "report_1.html",
        "report_1.json",
        "report_1_mvit_5x1.html",
        "report_1_mvit_5x1.json",
        "scores_1.npz",
        "scores_1_mvit_5x1.npz",
    ]
    assert before["views"]["protocol"] == ""
    assert "by the protocol mvit_5x1, 5 clips" in (tmp_path / "report_1_mvit_5x1.html").read_text()


def test_windows_of_videos_of_different_length_are_masked(videos):
    cfg = tiny.make_config(videos)
    cfg.eval.update({"protocol": "lrcn", "batch_size": 13})
    found = evaluate.with_protocol(cfg)
    found.eval.update({"size": 24, "resize": 24, "crops": 1})
    source = data.source(cfg.data, "eval")
    batch = next(iter(data.evaluation(found.data, found.eval, source)))
    assert batch["view_mask"].sum(1).tolist() == [-(-source[i]["num_frames"] // 8) for i in range(13)]
    model = models.build(cfg.model, num_classes=8)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(jnp.zeros((1, 16, 24, 24, 3)))
    step = jax.jit(lambda v, b: evaluate.eval_step(v, b, model=model, average="prob")["scores"])
    arrays = {key: batch[key] for key in ("inputs", "view_mask", "mask")}
    scores = step(variables, arrays)
    arrays["inputs"] = {
        "rgb": np.where(batch["view_mask"][..., None, None, None, None] > 0, batch["inputs"]["rgb"], 77)
    }
    np.testing.assert_array_equal(scores, step(variables, arrays.copy()))


def test_protocol_errors(videos):
    cfg = tiny.make_config(videos)
    cfg.eval.protocol = "slowfast"
    with pytest.raises(ValueError, match="slowfast_10x3"):
        evaluate.with_protocol(cfg)
    cfg.eval.protocol = "c3d_fc6"
    with pytest.raises(evaluate.EvaluationError, match="averages the activation fc6"):
        evaluate.with_protocol(cfg)


def test_two_splits_are_listed_once(videos, monkeypatch):
    calls = []
    listing = sources.lists.listing
    monkeypatch.setattr(sources.lists, "listing", lambda *words: calls.append(words) or listing(*words))
    data.open_sources(tiny.make_config(videos).data)
    assert len(calls) == 1
