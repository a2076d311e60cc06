"""`vidjax explain`: which window and class, what is written, sentences for what cannot be."""

import types

import cv2
import jax
import numpy as np
import pytest
import tiny

from vidjax import config, data, evaluate, inputs, main, models, predict
from vidjax.checkpoint import Checkpoints
from vidjax.data import video
from vidjax.explain import command, overlay

NAMES = ["rise", "fall", "turn"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the tiny net with random weights, and beside it a video of three windows and a file that is none."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny.make_config("unused")
    model = models.build(cfg.model, num_classes=len(NAMES))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(np.zeros((1, 8, 24, 24, 3)))
    variables["params"]["head"]["kernel"] *= 30  # so that windows differ
    meta = evaluate.meta(cfg, model, types.SimpleNamespace(classes=NAMES, multi_label=False))
    config.save(cfg, str(folder))
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, variables, {"step": np.int32(3)}, meta, wait=True)
    checkpoints.close()
    frames = np.random.RandomState(0).randint(0, 255, (24, 30, 40, 3), np.uint8)
    frames[8:16] //= 4
    video.write(folder / "clip.mp4", frames, fps=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_the_window_where_the_class_scores_highest(run):
    predictor = predict.Predictor(str(run))
    scores = predictor(run / "clip.mp4")["scores"]
    explainer = command.Explainer(predictor, "occlusion", box=(4, 12, 12))
    for name in NAMES:
        found = explainer(str(run / "clip.mp4"), name)
        assert found["window"] == scores[:, NAMES.index(name)].argmax()
        np.testing.assert_allclose(found["score"], scores[:, NAMES.index(name)].max(), atol=1e-5)  # another batch size
    best = explainer(str(run / "clip.mp4"))
    assert best["label"] == NAMES[int(scores.max(0).argmax())]
    second = explainer(str(run / "clip.mp4"), window=1)
    assert (second["window"], second["label"]) == (1, NAMES[int(scores[1].argmax())])
    assert np.abs(second["map"]).max() == 1
    assert second["fps"] == 10
    assert (second["start"], second["end"]) == (0.8, 1.6)
    result = predictor(run / "clip.mp4", stride="4f")
    between = explainer(str(run / "clip.mp4"), window=1, result=result)
    assert (between["start"], between["score"]) == (0.4, result["scores"][1].max())


@pytest.mark.parametrize(("word", "modality"), [("r3d,flow", ""), ("two_stream", "rgb"), ("two_stream", "flow")])
def test_nets_that_see_flow(run, word, modality):
    cfg = config.from_file(f"{tiny.ROOT}/configs/motion_suite.py:{word},smoke")
    model = models.build(cfg.model, num_classes=len(NAMES))
    example = inputs.example(data.options(cfg.data), cfg.data.clip.size, cfg.data.augment.size)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), example)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(zeros)
    meta = evaluate.meta(cfg, model, types.SimpleNamespace(classes=NAMES, multi_label=False))
    predictor = predict.Predictor(loaded=(variables, meta))
    explainer = command.Explainer(predictor, "integrated", modality, steps=2)
    found = explainer(str(run / "clip.mp4"), "turn")
    assert found["clip"].shape == (*found["map"].shape, 3)
    assert 0 <= found["clip"].min() < found["clip"].max() <= 1
    np.testing.assert_allclose(np.abs(found["map"]).max(), 1, rtol=1e-6)  # XLA multiplies by a reciprocal
    with pytest.raises(ValueError, match="the net sees no pictures or flow 'sound' to explain; it sees "):
        command.Explainer(predictor, "integrated", "sound")(str(run / "clip.mp4"))


def test_the_command_writes_a_clip_a_strip_and_arrays(run, tmp_path, capsys):
    words = ["explain", str(run / "broken.mp4"), str(run / "clip.mp4"), f"--workdir={run}", f"--out={tmp_path}/out"]
    assert main.main([*words, "--class=turn", "--method=gradient"]) == 1
    said = capsys.readouterr()
    assert "skipped" in said.err
    assert "broken.mp4" in said.err
    assert f"{run}/clip.mp4: turn " in said.out
    movie = tmp_path / "out" / "clip_gradient.mp4"
    arrays = np.load(movie.with_suffix(".npz"))
    assert arrays["map"].shape == (8, 24, 24)
    assert video.probe(str(movie))["num_frames"] == 8
    strip = cv2.imread(str(movie.with_suffix(".png")))
    assert strip.shape == (2 * 240 + 2 * overlay.GAP + overlay.TALL, 8 * 240 + 7 * overlay.GAP, 3)
    assert main.main(["explain", str(run / "clip.mp4"), f"--workdir={run}", f"--out={tmp_path}/out"]) == 0


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("--class=fly", "the net has no class 'fly'; it has rise, fall, turn"),
        ("--window=7", "has windows 0 to 2, not 7"),
        ("--method=magic", "There is no method 'magic' of explanation; take gradcam, "),
        ("--layer=conv9", "The net has no activation 'conv9'; there are "),
        ("--regions=blocks", "gradcam has no option 'regions'; its options: layer, grid."),
        ("--method=rollout", "rollout needs attention of all tokens with all in each layer; this net's is none"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, tmp_path, capsys, word, sentence):
    assert main.main(["explain", str(run / "clip.mp4"), f"--workdir={run}", f"--out={tmp_path}", word]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_colours_say_for_and_against():
    clip = np.full((1, 2, 2, 3), 0.5, np.float32)
    heat = np.array([[[1.0, 0.0], [0.0, -1.0]]])
    drawn = overlay.drawn(clip, heat, strength=1.0)[0]
    assert tuple(drawn[0, 0]) == tuple(overlay.FOR)
    assert tuple(drawn[-1, -1]) == tuple(overlay.AGAINST)
    assert len(set(drawn[0, -1])) == 1  # grey


def test_the_curve_has_a_bar_a_frame():
    """Three frames: half as much for as the last is against, and nothing."""
    heat = np.zeros((3, 2, 2)) + np.array([0.25, 0, -0.5])[:, None, None]
    drawn = overlay.curve(heat, 100)
    middle = overlay.TALL // 2
    colours = [(drawn == colour).all(-1) for colour in (overlay.FOR, overlay.AGAINST)]
    red, blue = ({tuple(rows) for rows in np.argwhere(x).tolist()} for x in colours)
    assert red == {(y, x) for y in range(18, middle) for x in range(31)}
    assert blue == {(y, x) for y in range(middle + 1, overlay.TALL - 1) for x in range(69, 100)}
    assert (drawn[middle] == 128).all()
