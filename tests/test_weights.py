"""Files of weights: every format, Hugging Face's folders, and nothing that runs code."""

import collections
import json
import os
import pickle
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from vidjax.convert import weights


def test_load_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **{"fc.bias": np.arange(3.0)})
    loaded = weights.load(tmp_path / "w.npz")
    np.testing.assert_array_equal(loaded["fc.bias"], np.arange(3.0))


def test_load_npz_refuses_objects(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], dtype=object))
    with pytest.raises(weights.WeightsError, match="w.npz is not an .npz of plain arrays"):
        weights.load(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("w.onnx", "is none of .npz, .safetensors, .pt, .pth"), ("w.npz", "There is no file .*w.npz")],
)
def test_load_refuses(tmp_path, name, sentence):
    with pytest.raises(weights.WeightsError, match=sentence):
        weights.load(tmp_path / name)


@pytest.mark.parametrize(("module", "name"), [("safetensors", "w.safetensors"), ("torch", "w.pt")])
def test_optional_readers_say_what_to_install(tmp_path, monkeypatch, module, name):
    (tmp_path / name).write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(weights.WeightsError, match=f"pip install {module}"):
        weights.load(tmp_path / name)


def test_a_folder_of_hugging_face(tmp_path):
    one, two = {"a": np.ones((2, 3), np.float32)}, {"b": np.arange(4, dtype=np.float32)}
    save_file(one, tmp_path / "model-1.safetensors")
    save_file(two, tmp_path / "model-2.safetensors")
    index = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = weights.load(tmp_path)
    assert {name: x.tolist() for name, x in found.items()} == {"a": one["a"].tolist(), "b": two["b"].tolist()}
    save_file(two, tmp_path / "model.safetensors")
    assert list(weights.load(tmp_path)) == ["b"]


@pytest.mark.parametrize(
    ("index", "sentence"),
    [('{"weight_map": {"a": "../x.npz"}}', "names files outside of its folder"), ("{}", "cannot be read as an index")],
)
def test_a_damaged_index(tmp_path, index, sentence):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(weights.WeightsError, match=sentence):
        weights.load(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(weights.WeightsError, match="holds neither model.safetensors nor pytorch_model.bin"):
        weights.load(tmp_path)


def test_a_pickle_of_caffe2(tmp_path):
    """As Python 2 wrote them: protocol 2, byte strings, the old name of NumPy's module."""
    blobs = {"conv1_w": np.random.RandomState(0).rand(2, 3).astype(np.float32), "lr": np.zeros(1)}
    text = pickle.dumps({"blobs": blobs, "other": collections.OrderedDict()}, protocol=2)
    (tmp_path / "w.pkl").write_bytes(text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    found = weights.load(tmp_path / "w.pkl")
    assert found.keys() == blobs.keys()
    np.testing.assert_array_equal(found["conv1_w"], blobs["conv1_w"])


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02garbage", pickle.dumps([1]), pickle.dumps({"a": 1})])
def test_a_pickle_that_is_more_or_less_than_arrays(tmp_path, content):
    attack = pickle.dumps({"blobs": {"a": Attack(str(tmp_path / "made"))}})
    (tmp_path / "w.pkl").write_bytes(attack if content is None else content)
    with pytest.raises(weights.WeightsError, match=r"w\.pkl (holds more than arrays or is damaged|is not a dict)"):
        weights.load(tmp_path / "w.pkl")
    assert not (tmp_path / "made").exists()


def test_a_tflite_file(golden, tmp_path):
    found = weights.load(golden / "weights" / "movinet_a0_stream_livestock_dynamic.tflite")
    assert sum(x.size for x in found.values()) > 1_000_000
    (tmp_path / "w.tflite").write_bytes(b"no flatbuffer")
    with pytest.raises(weights.WeightsError, match="not a TFLite file"):
        weights.load(tmp_path / "w.tflite")


def test_a_tensorflow_checkpoint_goes_by_its_prefix(tmp_path, monkeypatch):
    (tmp_path / "ckpt-1.index").write_bytes(b"index")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for name in ("ckpt-1", "ckpt-1.index"):
        with pytest.raises(weights.WeightsError, match="ckpt-1.index needs TensorFlow: pip install tensorflow"):
            weights.load(tmp_path / name)
