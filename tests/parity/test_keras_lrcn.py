"""The trained Keras nets: LRCN and ConvLSTM on classes of UCF50, their probabilities on four real clips."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from vidjax import convert, models
from vidjax.convert import weights

ARCHS = ["amine_lrcn6", "ndanh_lrcn4", "hac_convlstm31", "armel_convlstm4"]
CLIPS = ["SoccerJuggling_g23", "BaseballPitch_g01", "TaiChi_kinetics", "SkateBoarding_kinetics"]


@pytest.fixture(scope="module")
def tensors(golden):
    with np.load(golden / "weights" / "lrcn_convlstm_ucf50.npz") as arrays:
        return dict(arrays)


def of_net(tensors, arch):
    return {name.removeprefix(f"{arch}/"): x for name, x in tensors.items() if name.startswith(f"{arch}/")}


@pytest.mark.parametrize("arch", ARCHS)
def test_probabilities(golden, tensors, arch):
    published = json.loads((golden / "weights" / "lrcn_convlstm_ucf50.json").read_text())[arch]
    with np.load(golden / "expected" / "lrcn_convlstm_ucf50.npz") as arrays:
        video = np.stack([arrays[f"in/{clip}"] for clip in CLIPS]).astype(np.float32) / 255  # BGR already
        expected = np.stack([arrays[f"{arch}/{clip}"] for clip in CLIPS])
    row = models.reference("keras_lrcn", arch)
    assert list(row["classes"]) == published["classes"]
    variables = convert.from_reference("keras_lrcn", arch, of_net(tensors, arch))
    assert sum(x.size for x in jax.tree.leaves(variables)) == published["params"]
    model = models.for_reference("keras_lrcn", arch, published["n_classes"])
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-5)
    assert row["preprocess"]["order"] == "BGR"
    rgb, _ = jax.jit(lambda v, x: model.clone(order="BGR").apply(v, x, train=False))(variables, video[..., ::-1])
    np.testing.assert_array_equal(rgb, logits)


@pytest.mark.parametrize("arch", ["amine_lrcn6", "hac_convlstm31"])
def test_a_keras_file_holds_the_same(golden, tensors, arch):
    found = weights.load(golden / "weights" / "keras" / f"{arch}.h5")
    own = of_net(tensors, arch)
    assert [x.shape for x in found.values()] == [x.shape for x in sorted_by_layer(found, own)]
    variables = (convert.from_reference("keras_lrcn", arch, x) for x in (found, tensors))
    one, other = (traverse_util.flatten_dict(v, sep="/") for v in variables)
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name])


def sorted_by_layer(found, own):
    """The .npz's tensors in the order of the file's: its layers are numbered, its weights named by their place."""
    place = {"kernel": "0", "recurrent_kernel": "1", "bias": "2"}
    layers = list(dict.fromkeys(name.split("/")[0] for name in found))
    numbered = sorted({name.split("/")[0] for name in own})
    assert [name[3:] for name in numbered] == layers
    for name in found:
        layer, weight = name.split("/")[0], place[name.rpartition("/")[2]]
        folder = numbered[layers.index(layer)]
        yield own.get(f"{folder}/{weight}", own.get(f"{folder}/1"))  # a dense layer's bias is its second


def test_the_wrong_net_is_refused_in_one_sentence(tensors):
    with pytest.raises(convert.ConvertError, match="names that no rule matches .convlstm0/kernel"):
        convert.from_reference("keras_lrcn", "amine_lrcn6", of_net(tensors, "hac_convlstm31"))
    with pytest.raises(convert.ConvertError, match="dense0/bias' is missing"):
        convert.from_reference("keras_lrcn", "amine_lrcn6", {"fc/weight": np.zeros((2, 2))})
