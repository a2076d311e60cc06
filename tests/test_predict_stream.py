"""`vidjax predict --stream`: a net with a state sees each frame once and says at the end what the whole clip gives."""

import jax
import numpy as np
import pytest

from vidjax import checkpoint, data, main, predict
from vidjax.convert import converted
from vidjax.data import video
from vidjax.predict import live

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A short file of moving noise."""
    path, noise = tmp_path_factory.mktemp("clip") / "noise.mp4", np.random.RandomState(0).rand(8, 8, 3)
    big = np.kron(noise, np.ones((8, 8, 1)))
    video.write(path, np.stack([(255 * np.roll(big, 3 * t, 1)).astype(np.uint8) for t in range(FRAMES)]))
    return str(path)


@pytest.fixture(scope="module")
def run(golden, tmp_path_factory):
    """The published MoViNet-A0-Stream of seven kinds of behaviour, converted from its flatbuffer."""
    folder, weights = tmp_path_factory.mktemp("movinet") / "run", golden / "weights"
    names = weights / "movinet_a0_stream_livestock_labels.txt"
    file = weights / "movinet_a0_stream_livestock_dynamic.tflite"
    converted.write("movinet_tflite", "a0_stream", file, folder, names)
    return str(folder)


def test_a_stream_ends_with_what_the_whole_clip_gives(run, clip):
    predictor = predict.Predictor(run)
    predictor.section["clip"]["stride"] = 2
    seen = list(live.begin(predictor, clip, live.Options(pace=False))[1])
    np.testing.assert_allclose([part.time for part in seen], np.arange(0, FRAMES, 2) / 25)
    record = {"id": "noise", "path": clip, "error": ""} | video.probe(clip)
    views = data.read_views(predictor.section, predictor.meta["preprocess"], record, np.arange(0, FRAMES, 2)[None])
    logits, _ = jax.jit(lambda v, x: predictor.model.apply(v, x, train=False))(
        predictor.variables, predictor.prepare(views, None)
    )
    np.testing.assert_allclose(seen[-1].scores, jax.nn.softmax(logits)[0], atol=1e-5)


def test_the_command_prints_a_line_for_each_part(run, clip, capsys, tmp_path):
    assert main.main(["predict", clip, f"--workdir={run}", "--stream", "--top=1"]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == clip
    stride = checkpoint.read_meta(run)["preprocess"]["stride"]
    last = range(0, FRAMES, stride)[-1] + 1
    assert len(lines) == -(-FRAMES // (8 * stride))
    assert lines[-1].startswith(f"  up to {last / 25:7.2f} s    ")


def test_a_net_without_a_state_sees_windows(golden, clip, capsys, tmp_path):
    weights = golden / "weights" / "keras" / "hac_convlstm31.h5"
    converted.write("keras_lrcn", "hac_convlstm31", weights, tmp_path / "run")
    assert main.main(["predict", clip, f"--workdir={tmp_path / 'run'}", "--stream"]) == 0
    path, line = capsys.readouterr().out.splitlines()
    assert path == clip
    assert line.startswith("  up to ")
