"""The conversion engine refuses what does not fit, in one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import convert, models

TABLE = [
    (r"conv\.weight", "params/conv/kernel", "oithw_to_thwio"),
    (r"fc\.(weight|w)", "params/head/kernel", "oi_to_io"),
    (r"fc\.bias", "params/head/bias", None),
    (r".*\.steps", None, None),
]
TARGET = {
    "params": {
        "conv": {"kernel": jax.ShapeDtypeStruct((1, 2, 3, 4, 5), jnp.float32)},
        "head": {
            "kernel": jax.ShapeDtypeStruct((5, 6), jnp.float32),
            "bias": jax.ShapeDtypeStruct((6,), jnp.float32),
        },
    }
}


def tensors(**changes):
    rng = np.random.RandomState(0)
    shapes = {"conv.weight": (5, 4, 1, 2, 3), "fc.weight": (6, 5), "fc.bias": (6,)}
    good = {name: rng.randn(*shape) for name, shape in shapes.items()} | {"bn.steps": np.zeros((), np.int64)}
    return {name: value for name, value in (good | changes).items() if value is not None}


def test_convert():
    source = tensors()
    variables = convert.convert(TABLE, source, TARGET)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(lambda x: (x.shape, x.dtype), TARGET)
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel[0, 1, 2, 3, 4] == np.float32(source["conv.weight"][4, 3, 0, 1, 2])
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], np.float32(source["fc.weight"].T))


def test_convert_copies():
    source = tensors(**{"fc.bias": np.zeros(6, np.float32)})
    variables = convert.convert(TABLE, source, TARGET)
    source["fc.bias"] += 1
    assert not variables["params"]["head"]["bias"].any()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fc.bias": None}, "1 parameters left empty (params/head/bias)"),
        ({"fc.gain": np.ones(6)}, "1 names that no rule matches (fc.gain)"),
        ({"fc.w": np.ones((6, 5))}, "params/head/kernel from fc.weight and fc.w"),
        ({"fc.weight": np.ones((6, 4))}, "fc.weight -> params/head/kernel is (4, 6), needs (5, 6)"),
        ({"fc.weight": np.ones((6, 5, 1))}, "fc.weight -> params/head/kernel has 3 axes, needs 2"),
        ({"fc.bias": np.ones(6, int)}, "fc.bias -> params/head/bias is int64, not floating point"),
    ],
)
def test_refusals(changes, problem):
    with pytest.raises(convert.ConvertError) as error:
        convert.convert(TABLE, tensors(**changes), TARGET)
    assert str(error.value).startswith("The tensors do not fit the model: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_two_rules():
    with pytest.raises(convert.ConvertError, match=r"1 names that several rules match \(fc.bias\)"):
        convert.convert([*TABLE, (r"fc\..*as", "params/head/bias", None)], tensors(), TARGET)


def test_refuses_a_path_that_the_model_lacks():
    with pytest.raises(convert.ConvertError, match=r"1 names whose parameter the model lacks \(a -> params/b\)"):
        convert.convert([*TABLE, ("a", "params/b", None)], tensors(a=np.ones(1)), TARGET)


def test_long_lists_are_cut():
    extra = {f"extra{i:02d}": np.ones(1) for i in range(30)}
    with pytest.raises(convert.ConvertError, match=r"30 names that no rule matches \(extra00.* and 18 more\)"):
        convert.convert(TABLE, tensors(**extra), TARGET)


@pytest.mark.parametrize("name", convert.TRANSFORMS)
def test_transforms_invert(name):
    rank, forward, inverse = convert.TRANSFORMS[name]
    tensor = np.arange(np.prod(range(2, 2 + rank))).reshape(range(2, 2 + rank))
    np.testing.assert_array_equal(inverse(forward(tensor)), tensor)
    assert forward(tensor).shape != tensor.shape


def test_from_reference_needs_the_head():
    with pytest.raises(convert.ConvertError, match="not weights of torchvision r3d_18: .* 'fc.bias' is missing"):
        convert.from_reference("torchvision", "r3d_18", {"conv.weight": np.ones(3)})


def test_from_reference_refuses_another_net():
    with pytest.raises(convert.ConvertError, match=r"101 parameters left empty \(batch_stats/layer1_0/conv1/bn/mean, "):
        convert.from_reference("torchvision", "r3d_18", {"fc.bias": np.ones(4, np.float32)})


@pytest.mark.parametrize(("source", "arch"), models.references())
def test_references(source, arch):
    """Preprocessing of every reference agrees with its model, and its variant exists."""
    row = models.reference(source, arch)
    model = models.for_reference(source, arch, 4)
    assert model.num_classes == 4
    known = {"bound", "classes", "flow", "interpolation", "model", "sampler", "stride"}  # what `vidjax convert` reads
    needed = {"order", "range", "mean", "std", "frames", "resize", "size"}
    assert needed <= row["preprocess"].keys() <= needed | known
    flow = getattr(model, "spatial", None) == ""  # a temporal stream alone
    fields = [getattr(model, f"flow_{name}" if flow else name) for name in ("mean", "std")]
    stated = [np.divide(row["preprocess"][name], row["preprocess"]["range"][1]) for name in ("mean", "std")]
    for field, value in zip(fields, stated, strict=True):  # a model's are of pixels in [0, 1]
        np.testing.assert_allclose(field, value, rtol=1e-12)
