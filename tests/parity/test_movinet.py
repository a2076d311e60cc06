"""movinet equals its references: TF Garden's nets, the PyTorch port's, and a trained TFLite net frame by frame."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from reference import near

from vidjax import convert, models
from vidjax.convert import tflite
from vidjax.models import _movinet_tables as tables


@pytest.fixture(scope="module")
def formula(golden):
    """The golden folder's module that makes every tensor from its name."""
    spec = importlib.util.spec_from_file_location("golden_formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(golden, source, arch):
    key = arch if source == "movinet_tf" else f"{source}_{arch}"
    name = "ref_movinet_tf" if source == "movinet_tf" else "ref_repos"
    return json.loads((golden / "expected" / f"{name}.json").read_text())[key]


def converted(golden, formula, source, arch):
    """(model, variables) of a reference with the formula's weights."""
    meta = manifest(golden, source, arch)
    if source == "movinet_tf":
        tensors = {name: formula.tf_tensor(name, shape) for name, shape in meta["manifest"]}
        model = models.for_reference(source, arch, 16)
    else:
        tensors = {name: formula.torch_tensor(name, shape, meta["gamma"]) for name, shape in meta["manifest"]}
        model = models.for_reference(source, arch, 16).clone(mean=0.45, std=0.225)
    return model, convert.from_reference(source, arch, tensors)


def clip(golden):
    with np.load(golden / "expected" / "clips_2x32x112x112_uint8.npz") as clips:
        return clips["clips"][:, :8].astype(np.float32) / 255


def expected(golden, name):
    with np.load(golden / "expected" / f"{name}.npz") as arrays:
        return dict(arrays)


def forward(model, variables, video):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)


def stream(model, variables, video, parts):
    """Logits after each of `parts`, numbers of frames, and the last state."""
    step = jax.jit(lambda v, x, s: model.apply(v, x, s, method="stream"), donate_argnums=2)
    state, logits = model.initial_state(len(video), *video.shape[2:4]), []
    for part in np.split(video, np.cumsum(parts)[:-1], axis=1):
        found, state = step(variables, part, state)
        logits.append(np.asarray(found))
    return logits, state


def test_tf_base(golden, formula):
    model, variables = converted(golden, formula, "movinet_tf", "a0_base")
    logits, out = forward(model, variables, clip(golden))
    wanted = expected(golden, "ref_movinet_tf")
    near(logits, wanted["a0_base/logits"], "logits")
    near(out["pool"], wanted["a0_base/head_mean"], "pool")
    near(out["stem"].mean((1, 2, 3)), wanted["a0_base/stem_mean"], "stem", 1e-4)  # a plain sum of 25,000 in float32
    for i, j, *_ in model.blocks():
        mean = np.asarray(out[f"stage{i}_block{j}"]).mean((1, 2, 3))
        near(mean, wanted[f"a0_base/block{i}_layer{j}_mean"], f"stage{i}_block{j}")


def test_tf_stream(golden, formula):
    model, variables = converted(golden, formula, "movinet_tf", "a0_stream")
    video, wanted = clip(golden), expected(golden, "ref_movinet_tf")
    logits, _ = forward(model, variables, video)
    near(logits, wanted["a0_stream/full"], "logits")
    frames, _ = stream(model, variables, video, [1] * 8)
    near(np.stack(frames, axis=1), wanted["a0_stream/per_frame"], "logits of each frame")


# First logits of the first clip, from tf-models-official 2.20 run in TensorFlow 2.21 on the golden formula's weights.
LOGITS = {"a3_stream": [2.9163487, -4.4012356, 1.0587326, -3.4928691]}  # the smallest that adds positions


@pytest.mark.parametrize("arch", LOGITS)
def test_tf_further(golden, formula, arch):
    model, variables = converted(golden, formula, "movinet_tf", arch)
    logits, _ = forward(model, variables, clip(golden)[:1])
    near(logits[0, :4], np.array(LOGITS[arch]), "logits")


@pytest.mark.parametrize("arch", ["a3_base"])
def test_tf_base_variables(golden, formula, arch):
    _, variables = converted(golden, formula, "movinet_tf", arch)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == manifest(golden, "movinet_tf", arch)["params"]


@pytest.mark.parametrize("arch", ["a0_stream", "a3_stream"])
def test_tf_stream_variables_and_states(golden, formula, arch):
    model, variables = converted(golden, formula, "movinet_tf", arch)
    meta = manifest(golden, "movinet_tf", arch)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == meta["params"]
    state = jax.eval_shape(lambda: model.initial_state(2, 112, 112))
    assert {name: [list(x.shape), str(x.dtype)] for name, x in state.items()} == meta["states"]


OBJECTS = {"bneck": "", "se": "_attention/", "skip": "_skip/", "skip_project": "_projection/", "scale": ""}
OBJECTS |= {"bn": "_batch_norm/", "bn_temporal": "_batch_norm_temporal/", "conv2d_temporal": "_conv_temporal/"}


def checkpoint_name(name, layers):
    """A variable's path of objects in the checkpoint that TF Garden writes, from its name."""
    first, *middle, kind = name.partition(":")[0].split("/") if "/" in name else ("scale", "scale")
    places = ["stem", *(f"block{i}_layer{j}" for i, count in enumerate(layers) for j in range(count)), "head"]
    if first == "scale":
        root, middle = f"backbone/layer_with_weights-{int(name.partition('#')[2] or 0) + 1}/", []
        found = "_attention/_pos_encoding/_rezero/"
    else:
        root = (
            f"backbone/layer_with_weights-{places.index(first)}/" if first in places else "model/layer_with_weights-1/"
        )
        found = "" if middle else "_mobile_bottleneck/_rezero/"
    if middle and middle[-1].startswith("bn"):  # the norm is the block's own, not its convolution's
        middle = [part for part in middle if not part.startswith("conv2d")]
    for part in middle:
        conv = "_conv/" if part.startswith(("conv", "depthwise_conv")) else f"_{part}/"
        found += OBJECTS.get(part, conv)
    return f"{root}{found}{kind}/.ATTRIBUTES/VARIABLE_VALUE"


# Names that TensorFlow 2.21 gave to those nets' variables (tf.train.list_variables of a written checkpoint).
CHECKPOINT = {
    "a0_base": [
        "backbone/layer_with_weights-0/_stem/_conv/kernel",
        "backbone/layer_with_weights-1/_attention/_se_expand/_conv/bias",
        "backbone/layer_with_weights-1/_feature/_batch_norm/moving_variance",
        "backbone/layer_with_weights-1/_mobile_bottleneck/_rezero/scale",
        "backbone/layer_with_weights-1/_skip/_projection/_conv/kernel",
        "backbone/layer_with_weights-16/_project/_batch_norm/gamma",
        "model/layer_with_weights-1/_classifier/_conv/bias",
    ],
    "a3_stream": [
        "backbone/layer_with_weights-1/_attention/_pos_encoding/_rezero/scale",
        "backbone/layer_with_weights-1/_attention/_se_reduce/_conv/_conv/kernel",
        "backbone/layer_with_weights-1/_feature/_conv/_conv/depthwise_kernel",
        "backbone/layer_with_weights-10/_feature/_batch_norm_temporal/beta",
        "backbone/layer_with_weights-10/_feature/_conv_temporal/_conv/depthwise_kernel",
        "backbone/layer_with_weights-34/_project/_conv/_conv/kernel",
        "model/layer_with_weights-1/_head/_conv/_conv/bias",
    ],
}


@pytest.mark.parametrize("arch", CHECKPOINT)
def test_checkpoint_names(golden, arch):
    """Every name of a written checkpoint is that of its variable; what is not the net's is left out."""
    layers = tuple(map(len, tables.NETS[arch[:2]]["kernels"]))
    names = [name for name, _ in manifest(golden, "movinet_tf", arch)["manifest"]]
    places = {checkpoint_name(name, layers): name for name in names}
    assert {f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in CHECKPOINT[arch]} <= places.keys()
    tensors = {path: np.full((), i) for i, path in enumerate(places)}
    more = {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(()), "_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(())}
    found = tables.tf_names(tensors | more, layers)
    plain = tables.tf_names({name: np.full((), i) for i, name in enumerate(names)}, layers)
    assert found == plain


def test_3d_2plus1d_checkpoint():
    """Nets trained as 3d_2plus1d have kernels with an axis more (the original's convert_3d_2plus1d)."""
    rng = np.random.RandomState(0)
    here, end = "model/layer_with_weights-1/_feature/", "/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    plane, time = rng.rand(1, 3, 3, 1, 8), rng.rand(3, 1, 1, 1, 8)
    norm = {f"{here}_batch_norm_temporal/gamma/.ATTRIBUTES/VARIABLE_VALUE": np.ones(8)}
    found = tables.tf_names({f"{here}_conv{end}": plane, f"{here}_conv_temporal{end}": time} | norm, (1,))
    root = "block0_layer0/bneck/feature/conv2d"
    np.testing.assert_array_equal(
        found[f"{root}/depthwise_conv2d/depthwise_kernel:0"], plane.transpose(0, 1, 2, 4, 3)[0]
    )
    name = f"{root}_temporal/depthwise_conv2d_1/depthwise_kernel:0"
    np.testing.assert_array_equal(found[name], time.transpose(0, 1, 2, 4, 3)[:, 0])


@pytest.mark.parametrize("arch", ["A3_base", "A2_stream"])
def test_port_variables(golden, formula, arch):
    _, variables = converted(golden, formula, "atze_movinet", arch)
    meta = manifest(golden, "atze_movinet", arch)
    counters = sum(name.endswith("num_batches_tracked") for name, _ in meta["manifest"])
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == meta["params"] - counters


def test_port_base(golden, formula):
    model, variables = converted(golden, formula, "atze_movinet", "A0_base")
    logits, _ = forward(model, variables, clip(golden))
    near(logits, expected(golden, "ref_repos")["atze_movinet_A0_base/out"], "logits")


def test_port_stream(golden, formula):
    model, variables = converted(golden, formula, "atze_movinet", "A0_stream")
    video, wanted = clip(golden), expected(golden, "ref_repos")
    logits, _ = forward(model, variables, video)
    near(logits, wanted["atze_movinet_A0_stream/full"], "logits")
    parts, _ = stream(model, variables, video, [2, 2, 2, 2])
    for place, name in ((0, "first"), (-1, "last")):
        near(parts[place], wanted[f"atze_movinet_A0_stream/chunks_of_2_{name}"], f"{name} logits")


def livestock(golden, kind):
    """The trained net's tensors: arrays by name, or the flatbuffer."""
    path = golden / "weights" / "movinet_a0_stream_livestock"
    if kind == "flatbuffer":
        return tflite.load(f"{path}_dynamic.tflite")
    with np.load(f"{path}.npz") as arrays:
        return dict(arrays)


def test_trained_net_frame_by_frame(golden):
    """Logits of the float model after each of 12 real frames and all 43 states after the last."""
    variables = convert.from_reference("movinet_tflite", "a0_stream", livestock(golden, "flatbuffer"))
    model = models.for_reference("movinet_tflite", "a0_stream", 7)
    wanted = expected(golden, "movinet_a0_stream_livestock_soccer_juggling")
    video = wanted["frames_uint8"].astype(np.float32)[None] / 255
    logits, state = stream(model, variables, video, [1] * 12)
    for i, found in enumerate(logits):
        near(found[0], wanted["logits_float"][i], f"logits of frame {i}")
    states = {name.removeprefix("state_"): x for name, x in wanted.items() if name.startswith("state_")}
    assert (state.keys(), len(state)) == (states.keys(), 43)
    for name, x in states.items():
        near(state[name], x, name)


def test_flatbuffer_is_the_arrays(golden):
    found, wanted = (
        convert.from_reference("movinet_tflite", "a0_stream", livestock(golden, kind))
        for kind in ("flatbuffer", "arrays")
    )
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_other_weights_are_refused(golden):
    tensors = livestock(golden, "arrays")
    with pytest.raises(convert.ConvertError, match="left empty"):
        convert.from_reference("movinet_tflite", "a1_stream", tensors)
    with pytest.raises(convert.ConvertError, match="is missing"):
        convert.from_reference("movinet_tf", "a0_stream", tensors)
