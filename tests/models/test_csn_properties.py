"""csn: sizes by formula and as published, depthwise as a diagonal convolution, ip less ir is one convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import models, nn
from vidjax.models import csn


def build(variant, **fields):
    return models.build({"name": "csn", "variant": variant}, **fields)


def counts(net, depth, frames, size, classes=400):
    """(parameters of convolutions and the last layer, channels of batch norms, multiply-adds) from table 1 and
    figure 2 of the paper; VMZ's 26-layer nets do not widen by 4."""
    blocks = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    wide, t, s, c = (1 if depth == 26 else 4), frames, size // 4, 64
    weights, norms, macs = 3 * 64 * 3 * 49, 64, 3 * 64 * 3 * 49 * t * (size // 2) ** 2
    for stage, (n, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for j in range(count):
            outer, before = n * wide, t * s * s
            if stage and not j:
                t, s = t // 2, s // 2
            after = t * s * s
            layers = [
                (c * n, n, before),
                (27 * n * (n if net == "resnet3d" else 1), n, after),
                (n * outer, outer, after),
            ]
            layers += [(n * n, n, before)] if net == "ip" else []
            layers += [(c * outer, outer, after)] if c != outer or (stage and not j) else []
            weights += sum(w for w, _, _ in layers)
            norms += sum(channels for _, channels, _ in layers)
            macs += sum(w * positions for w, _, positions in layers)
            c = outer
    return weights + (c + 1) * classes, norms, macs + c * classes


@pytest.mark.parametrize("variant", [v for v in csn.VARIANTS if v != "small"])
def test_sizes_by_formula(variant):
    net, depth = variant.split("_")
    weights, norms, macs = counts(net, int(depth), 32, 224)
    assert csn.SIZES[variant]["params"] == weights + 2 * norms
    assert abs(csn.SIZES[variant]["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(("variant", "params", "gmac"), [("ir_152", 29.6, 96.7), ("ip_152", 32.8, 108.8)])
def test_published_sizes(variant, params, gmac):
    """VMZ's table, which leaves batch norm out of the parameters and counts views of 256x256."""
    net, depth = variant.split("_")
    weights, _, macs = counts(net, int(depth), 32, 256)
    assert round(weights / 1e6, 1) == params
    assert round(macs / 1e9, 1) == gmac
    assert models.macs(build(variant), (1, 32, 256, 256, 3)) == macs


def test_published_parameters_with_batch_norm():
    assert round(csn.SIZES["ir_101"]["params"] / 1e6, 2) == 22.21  # pytorchvideo's CSN R101
    assert round(csn.SIZES["ir_50"]["params"] / 1e6, 1) == 13.1  # mmaction2's ir-CSN-50


def test_stages_halve_space_and_time():
    video = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32)
    (_, out), _ = jax.eval_shape(lambda x: build("ip_50").init_with_output(jax.random.key(0), x, train=False), video)
    sizes = {"stem": (32, 56, 56, 64), "layer1": (32, 56, 56, 256), "layer2": (16, 28, 28, 512)}
    sizes |= {"layer3": (8, 14, 14, 1024), "layer4": (4, 7, 7, 2048)}
    assert {name: out[name].shape[1:] for name in sizes} == sizes


@pytest.mark.parametrize("lowering", ["native", "folded"])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2)])
def test_depthwise_is_dense_with_diagonal_kernels(lowering, strides):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, 6, 5, 7)), rng.normal(size=(3, 3, 3, 1, 7))
    x, kernel = (jnp.asarray(v, jnp.float32) for v in (x, kernel))
    pads = ((1, 1),) * 3
    with nn.lowering(lowering):
        single = jax.jit(lambda x, k: nn.conv3d(x, k, strides, pads, groups=7))(x, kernel)
        dense = jax.jit(lambda x, k: nn.conv3d(x, k, strides, pads))(x, kernel * jnp.eye(7).reshape(1, 1, 1, 7, 7))
    np.testing.assert_allclose(single, dense, rtol=0, atol=1e-5)


def test_ip_less_ir_is_one_pointwise_convolution_per_block():
    shapes = [models.shapes(build(f"{net}_50"), (1, 8, 64, 64, 3))["params"] for net in ("ip", "ir")]
    ip, ir = (traverse_util.flatten_dict(s, sep="/") for s in shapes)
    assert ir.items() <= ip.items()
    more = {name: ip[name].shape for name in ip.keys() - ir.keys()}
    expected = {}
    for stage, (n, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
        for j in range(depth):
            path = f"layer{stage}_{j}/mix"
            expected |= {f"{path}/conv/kernel": (1, 1, 1, n, n), f"{path}/bn/scale": (n,), f"{path}/bn/bias": (n,)}
    assert more == expected


def test_ip_with_identity_mixing_is_ir():
    video = np.random.RandomState(0).rand(2, 4, 16, 16, 3).astype(np.float32)
    ip = build("small", widths=(8, 8, 8), num_classes=3)
    ir = ip.clone(core="depthwise")
    variables = jax.jit(lambda x: ip.init(jax.random.key(0), x, train=False))(video)
    flat = traverse_util.flatten_dict(variables, sep="/")
    for name in [n for n in flat if n.endswith("mix/conv/kernel")]:
        flat[name] = jnp.sqrt(1 + 1e-5) * jnp.eye(8).reshape(1, 1, 1, 8, 8)  # undoes the norm of variance 1
    mixed = traverse_util.unflatten_dict(flat, sep="/")
    plain = traverse_util.unflatten_dict({n: v for n, v in flat.items() if "/mix/" not in n}, sep="/")
    apply = jax.jit(lambda m, v, x: m.apply(v, x, train=False)[0], static_argnums=0)
    np.testing.assert_allclose(apply(ip, mixed, video), apply(ir, plain, video), rtol=1e-4, atol=1e-5)  # 12 layers


@pytest.mark.parametrize(
    ("fields", "sentence"), [({"widths": (4, 8)}, "of one length"), ({"core": "sparse"}, "not 'sparse'")]
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build("small", **fields), (1, 2, 8, 8, 3))
