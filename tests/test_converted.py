"""`vidjax convert` makes a run of foreign weights, which predicts and is evaluated like any other."""

import json
import sys
import types

import jax
import numpy as np
import pytest

import vidjax
from vidjax import convert, data, evaluate, main, models, predict
from vidjax.convert import converted, weights

VIDEOS = {
    "SoccerJuggling_g23": "v_SoccerJuggling_g23_c01.avi",
    "BaseballPitch_g01": "v_BaseballPitch_g01_c01.avi",
    "TaiChi_kinetics": "ta_chi.mp4",
}


@pytest.fixture(scope="module")
def keras(golden):
    return golden / "weights" / "keras"


@pytest.fixture(scope="module")
def run(keras, tmp_path_factory):
    """The converted LRCN's folder."""
    folder = tmp_path_factory.mktemp("converted") / "run"
    assert main.main(["convert", "--from=keras_lrcn:amine_lrcn6", str(keras / "amine_lrcn6.h5"), f"--to={folder}"]) == 0
    return folder


def test_prediction_is_the_references(golden, run):
    """From the video file on: frames, OpenCV's resize, BGR, net; the pixels come out bit for bit, see README."""
    predictor = predict.Predictor(str(run))
    with np.load(golden / "expected" / "lrcn_convlstm_ucf50.npz") as arrays:
        for clip, name in VIDEOS.items():
            scores = predictor(str(golden / "video" / "clips" / name))["scores"]
            np.testing.assert_allclose(scores, arrays[f"amine_lrcn6/{clip}"][None], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("arch", "clip", "name"),
    [
        ("hac_convlstm31", "SoccerJuggling_g23", "SoccerJuggling"),
        ("hac_convlstm31", "BaseballPitch_g01", "BaseballPitch"),
        ("ndanh_lrcn4", "TaiChi_kinetics", "TaiChi"),
    ],
)
def test_real_clips_are_named(golden, tmp_path, capsys, arch, clip, name):
    weights = golden / "weights" / "lrcn_convlstm_ucf50.npz"
    converted.write("keras_lrcn", arch, weights, tmp_path / "run")
    video = str(golden / "video" / "clips" / VIDEOS[clip])
    assert main.main(["predict", video, f"--workdir={tmp_path / 'run'}", "--top=1"]) == 0
    with np.load(golden / "expected" / "lrcn_convlstm_ucf50.npz") as arrays:
        share = arrays[f"{arch}/{clip}"].max()
    assert f"whole video        {name} {share:.1%}" in capsys.readouterr().out


def test_evaluation_is_the_references(golden, run, tmp_path, capsys):
    """On two clips: one is right at .90; a baseball pitch under the name of another class is wrong."""
    clips = golden / "video" / "clips"
    rows = {"SoccerJuggling": clips / VIDEOS["SoccerJuggling_g23"], "PushUps": clips / VIDEOS["BaseballPitch_g01"]}
    lines = ["path,label,split", *(f"{path.resolve()},{name},eval" for name, path in rows.items())]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    flags = [f"--config.data.path={tmp_path / 'list.csv'}", "--config.mesh.data=1"]
    assert main.main(["eval", f"--workdir={run}", *flags]) == 0
    assert "top-1 50.0% of 2 videos" in capsys.readouterr().out.replace(", top-5 100.0%", "")
    with np.load(run / "scores_0.npz") as found, np.load(golden / "expected" / "lrcn_convlstm_ucf50.npz") as arrays:
        expected = {5: arrays["amine_lrcn6/SoccerJuggling_g23"], 0: arrays["amine_lrcn6/BaseballPitch_g01"]}
        for label, scores in zip(found["labels"], found["scores"], strict=True):
            np.testing.assert_allclose(scores, expected[int(label)], atol=1e-5)


def test_the_run_says_where_it_comes_from(keras, run):
    meta = predict.Predictor(str(run)).meta
    assert meta["converted"] == {
        "source": "keras_lrcn",
        "arch": "amine_lrcn6",
        "file": str(keras / "amine_lrcn6.h5"),
    }
    assert meta["class_names"] == ["PushUps", "PullUps", "TennisSwing", "Basketball", "HighJump", "SoccerJuggling"]
    seen = meta["preprocess"]
    assert (seen["frames"], seen["sampler"], seen["size"]) == (20, "part_starts", 64)
    assert (seen["resize"], seen["interpolation"], seen["mean"], seen["std"]) == ([64, 64], "linear", [0.0], [1.0])
    assert meta["config"]["model"] == {"name": "lrcn", "variant": "ucf50", "order": "BGR"}


def sentence(capsys, *words):
    """What a failing `vidjax convert` prints: one line that begins with its name."""
    assert main.main(["convert", *map(str, words)]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("vidjax convert: ")
    return line


def test_what_does_not_fit_is_one_sentence(capsys, keras, run, tmp_path):
    lstm, conv, to = keras / "amine_lrcn6.h5", keras / "hac_convlstm31.h5", f"--to={tmp_path / 'new'}"
    six = "--from=keras_lrcn:amine_lrcn6"
    assert "give one file of weights and a folder" in sentence(capsys, six, to)
    assert "give --from=SOURCE:ARCH, SOURCE one of" in sentence(capsys, lstm, to)
    line = sentence(capsys, "--from=keras_lrcn", lstm, to)
    assert "ARCH one of" in line
    assert "hac_convlstm31" in line
    assert "nearest is 'keras_lrcn amine_lrcn6'" in sentence(capsys, "--from=keras_lrcn:amin_lrcn6", lstm, to)
    line = sentence(capsys, six, conv, to)
    assert "hac_convlstm31.h5 does not hold keras_lrcn amine_lrcn6: " in line
    assert "names that no rule matches (convlstm0/" in line
    assert "There is no file" in sentence(capsys, six, tmp_path / "no.h5", to)
    (tmp_path / "text.h5").write_text("no weights")
    assert "is not a Keras model's weights or is damaged" in sentence(capsys, six, tmp_path / "text.h5", to)
    assert "none of .npz" in sentence(capsys, six, tmp_path / "model.onnx", to)
    assert "already holds a run; give another folder" in sentence(capsys, six, lstm, f"--to={run}")
    (tmp_path / "five.txt").write_text("\n".join("abcde"))
    line = sentence(capsys, six, lstm, to, f"--classes={tmp_path / 'five.txt'}")
    assert "names 5 classes, but the head of" in line
    assert "has 6" in line
    assert "cannot be read as class names" in sentence(capsys, six, lstm, to, "--classes=/no/file.txt")
    assert not (tmp_path / "new").exists()


def test_without_h5py_a_sentence_says_so(monkeypatch, capsys, keras, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    line = sentence(capsys, "--from=keras_lrcn:amine_lrcn6", keras / "amine_lrcn6.h5", f"--to={tmp_path}")
    assert line.endswith("needs h5py: pip install h5py, or save the weights as .npz.")


def test_an_h5_that_points_elsewhere_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = ["dense"]
        group.create_dataset("dense/kernel:0", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])
    with pytest.raises(weights.WeightsError, match="keeps dense/kernel:0 in another file"):
        weights.load(tmp_path / "m.h5")


def test_class_names(tmp_path):
    row, file = {"classes": ("a", "b")}, tmp_path / "net.npz"
    assert converted.class_names(row, "arch", file, 2) == ["a", "b"]
    (tmp_path / "net.json").write_text(json.dumps({"arch": {"classes": ["c", "d"]}, "other": {"classes": ["e"]}}))
    assert converted.class_names(row, "arch", file, 2) == ["c", "d"]
    (tmp_path / "names.txt").write_text("f\n\ng \n")
    assert converted.class_names(row, "arch", file, 2, str(tmp_path / "names.txt")) == ["f", "g"]
    (tmp_path / "list.json").write_text('["h", "i"]')
    assert converted.class_names({}, "arch", file, 2, str(tmp_path / "list.json")) == ["h", "i"]
    elsewhere = tmp_path / "other.npz"
    assert converted.class_names({"classes": "ut_interaction"}, "arch", elsewhere, 6)[0] == "hand_shaking"
    with pytest.raises(convert.ConvertError, match="does not say its 3 classes: give --classes=FILE"):
        converted.class_names({}, "arch", elsewhere, 3)


def test_every_reference_makes_a_config_that_builds():
    """Its preprocessing is enough: the model builds and the data section is accepted, for a net of rgb or of flow."""
    for key, row in models.references().items():
        cfg = converted.make_config(row, ["a", "b"], 20 if "flow" in "_".join(key) else 3)
        section, seen = data.options(cfg.data), row["preprocess"]
        model = models.build(cfg.model, num_classes=2)
        assert (section["clip"]["size"], cfg.eval.size) == (seen["frames"], seen["size"]), key
        assert getattr(model, "order", "RGB") == (seen["order"] if seen["order"] == "BGR" else "RGB"), key
        meta = evaluate.meta(cfg, model, types.SimpleNamespace(classes=["a", "b"], multi_label=False))
        assert meta["preprocess"]["resize"] == seen["resize"], key


@pytest.mark.parametrize(
    ("row", "channels", "expected"),
    [
        ({}, 3, {"modalities": ("rgb",)}),
        ({"bound": 15.0}, 20, {"modalities": ("flow",), "flow": {"stack": 10, "bound": 15.0}}),
        (
            {"flow": {"method": "tvl1", "frames": 9}},
            2,
            {"modalities": ("flow",), "flow": {"stack": 1, "method": "tvl1"}},
        ),
    ],
)
def test_inputs_of_a_config(row, channels, expected):
    whole = {"preprocess": {"frames": 4, "size": 8} | row}
    assert converted.inputs_of(whole, channels) == {"flow": {}} | expected


def test_inputs_of_two_streams():
    row = {"preprocess": {}, "input": {"rgb": (4, 8, 8, 3), "flow": (4, 8, 8, 10)}}
    assert converted.inputs_of(row, 3) == {"modalities": ("rgb", "flow"), "flow": {"stack": 5}}


def test_a_file_in_one_call(golden, keras):
    """The net of the four that a file fits is found by its names and shapes; a video goes in, its logits come out."""
    model, variables, preprocess, names = vidjax.load(keras / "amine_lrcn6.h5")
    logits, _ = model.apply(
        variables, preprocess(golden / "video" / "clips" / VIDEOS["SoccerJuggling_g23"]), train=False
    )
    with np.load(golden / "expected" / "lrcn_convlstm_ucf50.npz") as arrays:
        expected = arrays["amine_lrcn6/SoccerJuggling_g23"]
    np.testing.assert_allclose(jax.nn.softmax(logits)[0], expected, atol=1e-5)
    assert names[int(logits[0].argmax())] == "SoccerJuggling"


def test_a_run_in_one_call(golden, run):
    model, variables, preprocess, names = vidjax.load(run)
    assert preprocess(golden / "video" / "clips" / VIDEOS["TaiChi_kinetics"]).shape == (1, 20, 64, 64, 3)
    assert (len(names), model.num_classes) == (6, 6)


def test_a_file_that_fits_nothing_or_another_net(keras, tmp_path, capsys):
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    with pytest.raises(convert.ConvertError, match="w.npz fits no net that vidjax knows"):
        vidjax.load(tmp_path / "w.npz")
    call = ["convert", "--from=keras_lrcn:hac_convlstm31", str(keras / "amine_lrcn6.h5"), f"--to={tmp_path / 'run'}"]
    assert main.main(call) == 1
    assert "It looks like keras_lrcn amine_lrcn6 instead." in capsys.readouterr().err
