"""Every model file: variants against published and hand-computed sizes, the contract of Model, errors that help."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import attention, models
from vidjax.nn import Conv3D, lowering

ROWS = [(name, variant) for name in models.names() for variant in models.family(name).VARIANTS]
CLASSIFIERS = [row for row in ROWS if "classes" in models.family(row[0]).SIZES[row[1]]]  # motionnet gives flow
FAMILIES = sorted({name for name, _ in CLASSIFIERS})


def build(name, variant, **fields):
    return models.build({"name": name, "variant": variant}, **fields)


def traced(model, shape):
    """(jaxpr, outputs, variables) of one initialisation, which evaluates too: a third of the time of three tracings."""
    video = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x, jnp.float32), shape, is_leaf=lambda x: isinstance(x, tuple))
    run = lambda x: model.init_with_output(jax.random.key(0), x, train=False)  # noqa: E731
    with lowering("native"), attention.using("plain"):
        jaxpr, (outputs, variables) = jax.make_jaxpr(run, return_shape=True)(video)
    return jaxpr, outputs, variables


@pytest.mark.parametrize(("name", "variant"), ROWS)
def test_sizes_and_shapes(name, variant):
    row = models.family(name).SIZES[variant]
    classes = {"num_classes": row["classes"]} if "classes" in row else {}
    model, shape = build(name, variant, **classes), models.batched(row["input"])
    jaxpr, outputs, variables = traced(model, shape)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == row["params"]
    masked = variant.startswith("pretrain")  # VideoMAE hides tokens while it is initialised, not in evaluation
    macs = models.macs(model, shape) if masked else models.count(jaxpr)
    assert abs(macs / 1e9 - row["gmac"]) <= 5e-4 + 1e-9  # printed to three decimals
    if not classes:
        return  # motionnet gives flow
    logits, out = outputs
    assert (logits.shape, logits.dtype) == ((1, row["classes"]), jnp.float32)
    assert "pre_logits" in out
    assert len(out) > 1
    assert all(hasattr(value, "shape") for value in out.values())  # a flat dict of activations


@pytest.mark.parametrize(("name", "frames", "size"), [("r3d", 8, 40), ("two_stream", 8, 40)])
def test_a_row_of_the_table(name, frames, size):
    row, expected = models.size(name, "small"), models.family(name).SIZES["small"]
    assert (row["params"], row["frames"], row["size"]) == (expected["params"], frames, size)
    assert row["gmac"] == pytest.approx(expected["gmac"], abs=5e-4)


class Counted(nn.Module):
    """A net whose multiply-adds are counted by hand in `test_macs`."""

    @nn.compact
    def __call__(self, video, *, train):
        x = Conv3D(6, (3, 1, 3), (2, 1, 1), "VALID", groups=3, name="conv")(video)
        x = nn.remat(nn.Dense)(5, name="dense")(x.mean((1, 2, 3)))
        x, _ = jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, jnp.ones((5, 5))), None), x, length=7)
        return jax.lax.cond(x.sum() > 0, lambda y: y @ jnp.ones((5, 2)), lambda y: y[:, :2], x), {}


def test_macs():
    conv = 2 * (2 * 5 * 4) * 6 * (3 * 1 * 3) * (3 // 3)  # batch 2, outputs 2x5x4x6, three groups of one channel
    assert models.macs(Counted(), (2, 5, 5, 6, 3)) == conv + 2 * 6 * 5 + 7 * 2 * 5 * 5 + 2 * 5 * 2


class Looping(nn.Module):
    @nn.compact
    def __call__(self, video, *, train):
        x = video.mean((1, 2, 3))
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ jnp.ones((3, 3)), x), {}


def test_macs_refuses_while():
    with pytest.raises(ValueError, match="while loop cannot be counted"):
        models.macs(Looping(), (1, 1, 2, 2, 3))


@pytest.mark.parametrize(
    ("cfg", "sentence"),
    [
        ({"name": "r3", "variant": "r3d_18"}, "There is no model 'r3' in vidjax/models; the nearest is 'r3d'."),
        (
            {"name": "os", "variant": "path"},
            f"There is no model 'os' in vidjax/models; there are {', '.join(models.names())}.",
        ),
        ({"name": "r3d", "variant": "r3d_81"}, "Model 'r3d' has no variant 'r3d_81'; the nearest is 'r3d_18'."),
        (
            {"name": "r3d", "variant": "small", "witdhs": 3},
            "Model 'r3d' has no field 'witdhs'; the nearest is 'widths'.",
        ),
        ({"variant": "small"}, f"The model section needs the key 'name': one of {', '.join(models.names())}."),
    ],
)
def test_build_errors(cfg, sentence):
    with pytest.raises(ValueError) as error:
        models.build(cfg)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("r3d", {"widths": (4, 8)}, "stages"),
        ("r3d", {"stem": "4d"}, "not '4d'"),
        ("r3d", {"mid": "unit"}, "not 'unit'"),
        ("frame_pool", {"fields": (("widths", (4, 8)),)}, "widths"),
        ("frame_pool", {"pool": "sum"}, "not 'sum'"),
    ],
)
def test_field_errors(name, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(name, "small", **fields), (1, 2, 8, 8, 3))


def test_reference_errors():
    with pytest.raises(ValueError, match="the nearest is 'torchvision r3d_18'"):
        models.for_reference("torchvison", "r3d_18", 10)


@pytest.mark.parametrize(
    ("source", "arch", "key"),
    [
        ("piergiaj_i3d", "rgb", ("piergiaj_i3d", "rgb")),
        ("piergiaj", "i3d_flow", ("piergiaj_i3d", "flow")),
        ("piergiaj_i3d", "i3d", ("piergiaj_i3d", "rgb")),  # the usual one
        ("repos", "hara_resnet18_shortcutA", ("hara", "resnet18_shortcutA")),
        ("hara_3dresnets", "resnet50", ("hara", "resnet50")),
        ("davidea", "c3d", ("davidea", "c3d_487")),
        ("TorchVision", "R3D-18", ("torchvision", "r3d_18")),
    ],
)
def test_references_by_any_spelling(source, arch, key):
    assert models.reference(source, arch) == models.references()[key]


@pytest.mark.parametrize(
    ("source", "arch"), [("hara", "resnet"), ("torchvision", "r3d_18_v2"), ("", ""), ("tsm", "50")]
)
def test_references_are_not_guessed(source, arch):
    with pytest.raises(ValueError, match="No converter knows"):
        models.reference(source, arch)


def test_build_overrides_and_hashes():
    cfg = {"name": "r3d", "variant": "small", "widths": [4, 8, 8], "num_classes": 3}
    model = models.build(cfg, num_classes=7)
    assert (model.widths, model.num_classes) == ((4, 8, 8), 7)
    assert hash(model) == hash(models.build(cfg, num_classes=7))


def small_input(name, batch=2):
    """Random input of a family's small variant."""
    rng, shape = np.random.RandomState(0), models.batched(models.family(name).SIZES["small"]["input"], batch)
    draw = lambda s: rng.rand(*s).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shape, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize("name", FAMILIES)
def test_contract(name):
    video = small_input(name)
    model = build(name, "small", num_classes=3)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    apply = jax.jit(lambda m, v, x: m.apply(v, x, train=False), static_argnums=0)
    logits, out = apply(model, variables, video)
    assert logits.shape == (2, 3)

    headless = build(name, "small", num_classes=0)
    shapes = models.shapes(headless, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), video))
    kept = traverse_util.flatten_dict(shapes)
    bare = {path: leaf for path, leaf in traverse_util.flatten_dict(variables).items() if path in kept}
    assert bare.keys() == kept.keys()  # what is left are the same parameters
    features, _ = apply(headless, traverse_util.unflatten_dict(bare), video)
    np.testing.assert_allclose(features, out["pre_logits"], rtol=1e-5, atol=1e-6)  # compiled apart

    half, _ = apply(build(name, "small", num_classes=3, dtype="bfloat16"), variables, video)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - logits).max() < 0.1 * np.abs(logits).max()  # bfloat16 keeps eight bits
    shapes = models.shapes(build(name, "small", dtype="bfloat16"), jax.tree.map(jnp.asarray, video))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def tiny(name, **fields):
    stages = {"depths": (1, 1), "widths": (4, 8), "strides": (1, 2), "num_classes": 3}
    stages |= {"convs": ("3d", "3d")} if name == "r3d" else {}
    return build(name, "small", **stages | fields)


@pytest.mark.parametrize("name", ["frame_pool", "r3d"])
def test_sees_motion(name):
    video = np.random.RandomState(0).rand(2, 4, 16, 16, 3).astype(np.float32)
    model = build(name, "small")
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])
    logits, shuffled = apply(variables, video), apply(variables, video[:, [2, 0, 3, 1]])
    sees_motion = np.abs(shuffled - logits).max() > 1e-3 * np.abs(logits).max()
    assert sees_motion == (name == "r3d")


@pytest.mark.parametrize("name", ["r3d"])
def test_dropout(name):
    video = np.random.RandomState(0).rand(2, 2, 8, 8, 3).astype(np.float32)
    model = tiny(name, dropout=0.5)

    @jax.jit
    def share_alive(video):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        (_, kept), variables = model.init_with_output(keys, video, train=False)
        (_, dropped), _ = model.apply(variables, video, train=True, rngs=keys, mutable=["batch_stats"])
        return [(out["pre_logits"] > 0).mean() for out in (kept, dropped)]

    with lowering("native"):  # compiles faster
        kept, dropped = share_alive(video)
    assert kept > dropped > 0
