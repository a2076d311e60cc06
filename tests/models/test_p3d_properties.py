"""p3d: published sizes, the cycle of blocks, A with a neutral temporal kernel is 2-D, the weights of C, the pools."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import models
from vidjax.models import p3d


def build(variant, **fields):
    return models.build({"name": "p3d", "variant": variant}, **fields)


def flat_shapes(variant, channels=3):
    tree = models.shapes(build(variant), (1, 16, 160, 160, channels))["params"]
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def test_published_sizes():
    """Card 9: 202 convolutions, 86,144 normalised channels, 66,319,952 parameters without norms."""
    shapes = flat_shapes("199")
    kernels = [shape for name, shape in shapes.items() if name.endswith("conv/kernel")]
    norms = sum(shape[0] for name, shape in shapes.items() if name.endswith("bn/scale"))
    assert (len(kernels), norms) == (202, 86_144)
    assert sum(int(np.prod(s)) for s in kernels) + 2049 * 400 == 66_319_952
    assert p3d.SIZES["199"]["params"] == 66_319_952 + 2 * norms == 66_492_240
    assert p3d.SIZES["199"]["params"] - p3d.SIZES["199_flow"]["params"] == 3136  # 7 x 7 x 64
    assert round(4 * p3d.SIZES["50"]["params"] / 2**20) == 98  # table 1 of the paper, in MB


def formula(depths, *, temporal=True, channels=3, classes=400):
    """(parameters, multiply-adds) of a full-size net on 16 frames of 160x160 from the definition alone."""
    params, macs = 49 * channels * 64 + 2 * 64, 49 * channels * 64 * 16 * 80 * 80
    t, s, c = 8, 40, 64
    for stage, (n, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
        t, s = (t // 2, -(-s // 2)) if stage else (t, s)
        for j in range(depth):
            extra = int(temporal and stage < 3)
            core = 9 * n * n + 3 * n * n * extra
            shortcut = 0 if j else 4 * c * n
            weights = c * n + core + 4 * n * n + shortcut
            norms = 2 * n + n * extra + 4 * n + (0 if j else 4 * n)
            params, macs, c = params + weights + 2 * norms, macs + weights * t * s * s, 4 * n
    return params + 2049 * classes, macs + 2048 * classes


@pytest.mark.parametrize("variant", [v for v in p3d.VARIANTS if v != "small"])
def test_sizes_by_formula(variant):
    channels = 2 if "flow" in variant else 3
    depths = p3d.VARIANTS[variant]["depths"]
    params, macs = formula(depths, temporal=variant != "50_2d", channels=channels)
    assert p3d.SIZES[variant]["params"] == params
    assert abs(p3d.SIZES[variant]["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


def test_sizes_of_the_stages():
    """Card 9: 16 frames of 160 become 8 of 40, then 4, 2 and 1 of 20, 10 and 5; the pool's rest is kept."""
    video = jax.ShapeDtypeStruct((1, 16, 160, 160, 3), jnp.float32)
    (_, out), _ = jax.eval_shape(lambda x: build("50").init_with_output(jax.random.key(0), x, train=False), video)
    sizes = {"stem": (8, 40, 40, 64), "layer1": (8, 40, 40, 256), "layer2": (4, 20, 20, 512)}
    sizes |= {"layer3": (2, 10, 10, 1024), "layer4": (1, 5, 5, 2048)}
    assert {name: out[name].shape[1:] for name in sizes} == sizes


def small(kinds, **fields):
    return build("small", kinds=kinds, num_classes=3, mean=0.45, std=0.225, **fields)


def variables_of(model, video):
    """Random variables with norms that differ from the identity."""
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    rng = np.random.RandomState(0)
    return jax.tree.map(lambda v: v * rng.uniform(0.8, 1.2, v.shape).astype(np.float32), variables)


@pytest.fixture(scope="module")
def video():
    return np.random.RandomState(1).rand(2, 8, 16, 16, 3).astype(np.float32)


apply = jax.jit(lambda m, v, x: m.apply(v, x, train=False), static_argnums=0)


def test_kinds_cycle_through_all_stages(video):
    """A net of kinds ABC equals itself with any longer cycle that gives the same kinds, and no other."""
    model = small("ABC", depths=(2, 2, 1, 1))  # A B | C A | B | 2-D
    variables = variables_of(model, video)
    logits = apply(model, variables, video)[0]
    np.testing.assert_array_equal(apply(small("ABCAB", depths=(2, 2, 1, 1)), variables, video)[0], logits)
    for kinds in ("BBCAB", "AACAB", "ABBAB", "ABCBB", "ABCAC"):
        other = apply(small(kinds, depths=(2, 2, 1, 1)), variables, video)[0]
        assert np.abs(other - logits).max() > 1e-3 * np.abs(logits).max()


def neutral(flat, name):
    """The variables of a temporal unit that lets values pass: a delta kernel and the norm of variance 1 undone."""
    for path in [p for p in flat if f"/{name}/" in p]:
        value = np.zeros_like(flat[path])
        if path.endswith("kernel"):
            value[1, 0, 0] = np.sqrt(1 + 1e-5) * np.eye(value.shape[-1])
        elif path.endswith(("scale", "var")):
            value += 1
        flat[path] = value
    return flat


def test_block_a_with_a_delta_is_the_2d_bottleneck(video):
    model, plane = small("A"), small("S")
    flat = neutral(traverse_util.flatten_dict(variables_of(model, video), sep="/"), "temporal")
    kept = {name: value for name, value in flat.items() if "/temporal/" not in name}
    logits = apply(model, traverse_util.unflatten_dict(flat, sep="/"), video)[0]
    expected = apply(plane, traverse_util.unflatten_dict(kept, sep="/"), video)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_weights_of_the_sums(video):
    """With T neutral, C is the mean of two equal paths, so 2-D too; as a plain sum it is twice that."""
    flat = neutral(traverse_util.flatten_dict(variables_of(small("C"), video), sep="/"), "temporal")
    kept = {name: value for name, value in flat.items() if "/temporal/" not in name}
    half = apply(small("C"), traverse_util.unflatten_dict(flat, sep="/"), video)[0]
    plane = apply(small("S"), traverse_util.unflatten_dict(kept, sep="/"), video)[0]
    np.testing.assert_allclose(half, plane, rtol=1e-5, atol=1e-5 * np.abs(plane).max())
    for path in [p for p in kept if "/expand/conv" in p and "layer4" not in p]:
        kept[path] = 2 * kept[path]
    doubled = apply(small("S"), traverse_util.unflatten_dict(kept, sep="/"), video)[0]
    whole = apply(small("C", c_weight=1.0), traverse_util.unflatten_dict(flat, sep="/"), video)[0]
    np.testing.assert_allclose(whole, doubled, rtol=1e-5, atol=1e-5 * np.abs(doubled).max())


def test_block_b_without_time_is_2d(video):
    """B with a temporal path of zeros."""
    flat = traverse_util.flatten_dict(variables_of(small("B"), video), sep="/")
    flat = {n: np.zeros_like(v) if "/temporal/bn/" in n and "params" in n else v for n, v in flat.items()}
    kept = {name: value for name, value in flat.items() if "/temporal/" not in name}
    logits = apply(small("B"), traverse_util.unflatten_dict(flat, sep="/"), video)[0]
    plane = apply(small("S"), traverse_util.unflatten_dict(kept, sep="/"), video)[0]
    np.testing.assert_allclose(logits, plane, rtol=1e-5, atol=1e-5 * np.abs(plane).max())


@pytest.mark.parametrize(
    ("fields", "sentence"), [({"widths": (4, 8)}, "of one length"), ({"kinds": "ABD"}, "not 'ABD'")]
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 8, 8, 8, 3))
