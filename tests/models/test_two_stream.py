"""Two streams: sizes by hand, fusion rules in NumPy, streams that train apart, and two-stream-pytorch's nets."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import special

from vidjax import convert, models
from vidjax.models import two_stream


def build(variant="small", **fields):
    return models.build({"name": "two_stream", "variant": variant, **fields}, num_classes=3)


def clips(frames=2, flow=3, size=12):
    rng = np.random.RandomState(0)
    shapes = {"rgb": (2, frames, size, size, 3), "flow": (2, flow, size, size, 4)}
    return {key: rng.rand(*shape).astype(np.float32) for key, shape in shapes.items()}


def drawn(model, video):
    """Random variables of a net; those of one axis, among them variances, are positive."""
    rng, shapes = (
        np.random.RandomState(1),
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), video),
    )
    draw = lambda s: rng.uniform(0.1, 0.4, s.shape) if len(s.shape) == 1 else 0.2 * rng.randn(*s.shape)  # noqa: E731
    return jax.tree.map(lambda s: draw(s).astype(np.float32), shapes)


def run(model, variables, video):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)


def test_sizes_by_hand():
    sizes = {variant: row["params"] for variant, row in two_stream.SIZES.items()}
    assert sizes["spatial"] == 92_469_864 - 2049 * 899  # Caffe's net, less 899 of its 1,000 classes
    assert sizes["temporal"] == sizes["spatial"] + 7 * 7 * 17 * 96  # 20 channels of flow for 3 of colour
    assert sizes["vgg16_spatial"] == 138_357_544 - 4097 * 899
    assert sizes["resnet152_spatial"] == 60_192_808 - 2049 * 899  # torchvision's
    for pair, net in (("two_stream", ""), ("vgg16", "vgg16_")):
        assert sizes[pair] == sizes[f"{net}spatial"] + sizes[f"{net}temporal"]
    assert sizes["resnet18_concat"] == 2 * (11_176_512 + 513 * 101) - 7 * 7 * 64 + 1025 * 101


def test_the_mean_of_softmaxes():
    model, video = build(), clips()
    logits, out = run(model, drawn(model, video), video)
    mean = np.mean([special.softmax(np.float64(out[f"{s}_logits"]), -1) for s in ("spatial", "temporal")], 0)
    np.testing.assert_allclose(special.softmax(np.float64(logits), -1), mean, rtol=1e-5)  # float32 logarithms
    np.testing.assert_array_equal(out["aux_logits/spatial"], out["spatial_logits"])
    np.testing.assert_array_equal(out["aux_logits/temporal"], out["temporal_logits"])


def test_concatenated_features():
    model, video = build(fusion="concat"), clips()
    variables = drawn(model, video)
    logits, out = run(model, variables, video)
    assert out["pre_logits"].shape == (2, 128)
    joined = np.concatenate([np.mean(out[f"{stream}/features"], 1) for stream in ("spatial", "temporal")], -1)
    np.testing.assert_allclose(out["pre_logits"], joined, rtol=1e-6)  # order of a sum
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, joined @ head["kernel"] + head["bias"], rtol=1e-5)  # order of a sum
    assert {"aux_logits/spatial", "aux_logits/temporal"} <= out.keys()


@pytest.mark.parametrize(("stream", "key"), [("spatial", "rgb"), ("temporal", "flow")])
def test_a_stream_alone_is_its_part_of_both(stream, key):
    both, video = build(), clips()
    variables = drawn(both, video)
    logits, out = run(both, variables, video)
    other = {"spatial": "temporal", "temporal": "spatial"}[stream]
    alone = build(**{other: ""})
    kept = {c: {name: tree for name, tree in variables[c].items() if name.startswith(stream)} for c in variables}
    assert jax.tree.structure(models.shapes(alone, video[key].shape)) == jax.tree.structure(kept)
    for given in (video[key], video):
        single, one = run(alone, kept, given)
        np.testing.assert_allclose(single, out[f"{stream}_logits"], rtol=1e-5)  # compiled apart
        assert not any(name.startswith("aux_logits") for name in one)
    assert np.abs(np.asarray(logits) - single).max() > 1e-3


def test_frames_in_any_order():
    model, video = build(fusion="concat"), clips(frames=3, flow=4)
    variables = drawn(model, video)
    logits, _ = run(model, variables, video)
    shuffled, _ = run(model, variables, {"rgb": video["rgb"][:, [2, 0, 1]], "flow": video["flow"][:, [1, 3, 0, 2]]})
    np.testing.assert_allclose(shuffled, logits, rtol=1e-5)  # order of a sum
    twice, _ = run(model, variables, {key: np.repeat(x, 2, 1) for key, x in video.items()})
    np.testing.assert_allclose(twice, logits, rtol=1e-5)  # order of a sum


def test_streams_train_apart():
    """The loss of one stream moves no parameter of the other's, so that each may train while the other is frozen."""
    model, video = build(fusion="concat"), clips()
    variables = drawn(model, video)

    @jax.jit
    def gradient(params):
        def score(params):
            (_, out), _ = model.apply(variables | {"params": params}, video, train=True, mutable=["batch_stats"])
            return jnp.square(out["aux_logits/temporal"]).sum()

        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(score)(params))

    moved = {path for path, g in traverse_util.flatten_dict(gradient(variables["params"]), sep="/").items() if g > 0}
    assert {path.split("/")[0] for path in moved} == {"temporal", "temporal_head"}
    assert {"temporal/conv1/kernel", "temporal_head/kernel"} <= moved


@pytest.mark.parametrize("fusion", ["concat", "average"])
def test_the_fused_loss_stops_at_the_fusion(fusion):
    video, names = clips(), {}
    for joint in (True, False):
        model = build(fusion=fusion, joint=joint)
        variables = drawn(model, video)
        score = lambda p, m=model, v=variables: jnp.square(m.apply(v | {"params": p}, video, train=False)[0]).sum()  # noqa: E731
        found = traverse_util.flatten_dict(jax.jit(jax.grad(score))(variables["params"]), sep="/")
        names[joint] = {path.split("/")[0] for path, g in found.items() if np.abs(g).max() > 0}
    heads = {"head"} if fusion == "concat" else {"spatial_head", "temporal_head"}
    assert names[True] == {"spatial", "temporal"} | heads
    assert names[False] == (heads if fusion == "concat" else set())


def test_caffe_sees_blue_first_and_255_levels():
    video = {key: x[:, :1] for key, x in clips(size=16).items()}
    caffe = two_stream.VARIANTS["two_stream"]
    model = build(**{key: caffe[key] for key in ("order", "mean", "std", "flow_std")})
    variables = drawn(model, video)
    logits, _ = run(model, variables, video)
    blue_first = 255 * video["rgb"][..., ::-1] - np.float32([103.939, 116.779, 123.68])
    plain = model.clone(order="RGB", mean=0.0, std=1.0, flow_std=1.0)
    expected, _ = run(plain, variables, {"rgb": blue_first, "flow": 127.5 * video["flow"]})
    np.testing.assert_allclose(logits, expected, rtol=1e-4)  # 255 * (x - m / 255) in float32


@pytest.mark.parametrize(
    ("fields", "keys", "sentence"),
    [
        ({"spatial": "", "temporal": ""}, ("rgb",), "at least one of its fields spatial and temporal"),
        ({"fusion": "sum"}, ("rgb", "flow"), "'average' or 'concat', not 'sum'"),
        ({}, ("rgb",), "needs the input 'flow'; name it in data.modalities"),
        ({"temporal": "vgg61"}, ("rgb", "flow"), "no backbone 'vgg61'"),
    ],
)
def test_errors(fields, keys, sentence):
    shapes = {key: x.shape for key, x in clips().items() if key in keys}
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(**fields), shapes)


def test_one_array_is_not_enough_for_two_streams():
    with pytest.raises(ValueError, match="needs the input 'rgb'"):
        models.shapes(build(), (2, 1, 8, 8, 3))


@pytest.fixture(scope="module")
def formula(golden):
    spec = importlib.util.spec_from_file_location("formula", golden / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_of_resnet18(channels, classes):
    """{name: shape} of two-stream-pytorch's ResNet-18."""
    found = {"conv1.weight": (64, channels, 7, 7), "fc_action.weight": (classes, 512), "fc_action.bias": (classes,)}
    norms, before = {"bn1": 64}, 64
    for i, n in enumerate((64, 128, 256, 512), 1):
        for j in range(2):
            for k in (1, 2):
                found[f"layer{i}.{j}.conv{k}.weight"] = (n, n if j or k > 1 else before, 3, 3)
                norms[f"layer{i}.{j}.bn{k}"] = n
        if i > 1:
            found[f"layer{i}.0.downsample.0.weight"] = (n, before, 1, 1)
            norms[f"layer{i}.0.downsample.1"] = n
        before = n
    parts = ("weight", "bias", "running_mean", "running_var")
    return found | {f"{name}.{part}": (n,) for name, n in norms.items() for part in parts}


# The first three logits of both clips, from the repository's own rgb_resnet18 and flow_resnet18 in PyTorch 2.13 with
# the weights of `formula`; the VGG-16s, too large for a test, agreed to 1.4e-6 in the same run.
PINNED = {
    "rgb_resnet18": [[-11.706839, 9.0082, -42.155106], [-31.36998, 14.78323, -119.86846]],
    "flow_resnet18": [[-16.490416, 15.077085, -83.37001], [-27.430426, 25.727623, -127.86136]],
}


@pytest.mark.parametrize("arch", PINNED)
def test_two_stream_pytorch(formula, arch):
    channels = 3 if arch.startswith("rgb") else 20
    tensors = {name: formula.torch_tensor(name, s) for name, s in names_of_resnet18(channels, 7).items()}
    clip = formula.clip(7, 224).astype(np.float32)
    flow = clip.transpose(0, 2, 3, 1, 4).reshape(2, 1, 224, 224, 21)[..., :20] / 127.5 - 1  # any 20 channels will do
    variables = convert.from_reference("two_stream_pytorch", arch, tensors)
    model = models.for_reference("two_stream_pytorch", arch, 7)
    logits, _ = run(model, variables, clip[:, :1] / 255 if channels == 3 else flow)
    worst = np.abs(np.asarray(logits)[:, :3] - PINNED[arch]).max() / np.abs(logits).max()
    assert worst < 1e-5


@pytest.mark.parametrize(("arch", "channels"), [("rgb_vgg16", 3), ("flow_vgg16", 20)])
def test_every_tensor_of_vgg16_has_a_place(arch, channels):
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    names = [f"features.{i}" for i in places] + ["classifier.0", "classifier.3", "fc_action"]
    row, filled = models.reference("two_stream_pytorch", arch), []
    for name in (f"{name}.{part}" for name in names for part in ("weight", "bias")):
        filled += [path for pattern, path, _ in row["table"] if re.fullmatch(pattern, name)]
    model = models.for_reference("two_stream_pytorch", arch, 101)
    leaves = traverse_util.flatten_dict(models.shapes(model, (1, 1, 224, 224, channels)), sep="/")
    assert sorted(filled) == sorted(leaves)


def test_references():
    rows = [(arch, row["variant"]) for (_, arch), row in models.references().items() if row["model"] == "two_stream"]
    nets = ("vgg16", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    assert sorted(arch for arch, _ in rows) == sorted(f"{stream}_{net}" for stream in ("rgb", "flow") for net in nets)
    assert models.for_reference("two_stream_pytorch", "flow_resnet50", 5).temporal == "resnet50"
