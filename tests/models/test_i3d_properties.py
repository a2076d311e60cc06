"""I3D: its sizes by hand, two streams and one, a gradient step as PyTorch takes it, where weights come from."""

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vidjax import checkpoint, config, data, models, transfer
from vidjax.models import i3d
from vidjax.nn import lowering

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def units(channels):
    """(inputs, outputs, kernel's size, positions of its output) of every convolution on 64x224x224, figure 3."""
    found = [(channels, 64, 343, 32 * 112**2), (64, 64, 1, 32 * 56**2), (64, 192, 27, 32 * 56**2)]
    c = 192
    for stage, places in zip(i3d.BLOCKS, (32 * 28**2, 16 * 14**2, 8 * 7**2), strict=True):
        for w0, r1, w1, r2, w2, w3 in stage:
            sizes = (c, w0, 1), (c, r1, 1), (r1, w1, 27), (c, r2, 1), (r2, w2, 27), (c, w3, 1)
            found += [(*size, places) for size in sizes]
            c = w0 + w1 + w2 + w3
    return found


@pytest.mark.parametrize("norms", [1, 2])  # numbers per channel: Sonnet's batch norm has no scale
@pytest.mark.parametrize("streams", [("rgb",), ("flow",), ("rgb", "flow")])
def test_sizes(streams, norms):
    params = macs = 0
    for stream in streams:
        layers = units({"rgb": 3, "flow": 2}[stream])
        params += sum(i * o * k + norms * o for i, o, k, _ in layers) + 1024 * 400 + 400
        macs += sum(i * o * k * places for i, o, k, places in layers) + 1024 * 400  # the head after the mean
    row = i3d.SIZES[("two_stream" if len(streams) == 2 else streams[0]) + ("_sonnet" if norms == 1 else "")]
    assert row["params"] == params
    assert row["gmac"] == pytest.approx(macs / 1e9, abs=5e-4)  # three decimals
    published = {1: 12_689_984, 2: 12_697_264}[norms]  # card 7: the checkpoint's, and with an affine norm
    assert streams != ("rgb",) or params == published


TINY = {"stem": (4, 4, 8), "blocks": (((4, 4, 8, 2, 4, 4),),), "num_classes": 3}


def drawn(model, video):
    """Variables made from their paths alone."""

    def draw(path, leaf):
        name = "/".join(key.key for key in path)
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) - ("mean" in name or "bias" in name)
        return (rng.randn(*leaf.shape) * np.sqrt(2 / math.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, models.shapes(model, video))


def build(**fields):
    return models.build({"name": "i3d", "variant": "small", **fields})


def apply(model, variables, video):
    def run(variables, video):
        with lowering("native"):  # compiles faster
            return model.apply(variables, video, train=False)

    return jax.jit(run, compiler_options=QUICK)(variables, video)


def test_two_streams_add_the_logits_of_one():
    rng = np.random.RandomState(0)
    video = {"rgb": rng.rand(2, 4, 16, 16, 3), "flow": rng.uniform(-1, 1, (2, 4, 16, 16, 2))}
    video = jax.tree.map(np.float32, video)
    both = build(streams=("rgb", "flow"), **TINY)
    variables = drawn(both, video)
    logits, out = apply(both, variables, video)
    single, features = [], []
    for stream, scale in (("rgb", {}), ("flow", {"mean": 0.0, "std": 1.0})):
        mine = {kind: {stream: tree[stream]} for kind, tree in variables.items()}
        score, activations = apply(build(streams=(stream,), **TINY, **scale), mine, video[stream])
        single.append(score)
        features.append(activations["pre_logits"])
        np.testing.assert_allclose(out[f"{stream}/logits"], score, rtol=1e-5, atol=1e-5)  # compiled apart
    np.testing.assert_allclose(logits, single[0] + single[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["pre_logits"], np.concatenate(features, 1), rtol=1e-5, atol=1e-5)
    assert np.abs(single[0]).max() > 0.1
    assert np.abs(single[1]).max() > 0.1


def test_one_gradient_step():
    """Loss before and after: PyTorch 2.13's, float64, with a net written from the paper and these weights."""
    video = np.random.RandomState(0).rand(3, 4, 20, 20, 3).astype(np.float32)
    model = build(**TINY)
    variables = drawn(model, video)

    def loss(params):
        with lowering("native"):
            (logits, _), _ = model.apply(variables | {"params": params}, video, train=True, mutable=["batch_stats"])
        return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()

    step = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)
    before, gradient = step(variables["params"])
    after, _ = step(jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient))
    np.testing.assert_allclose(
        [before, after], [1.3738444472, 0.8949419626], rtol=1e-4
    )  # float32 through seven batch norms


def test_field_errors():
    video = (1, 4, 16, 16, 3)
    with pytest.raises(ValueError, match="padding is 'same' or 'fixed', not 'valid'"):
        models.shapes(build(padding="valid"), video)
    with pytest.raises(ValueError, match=r"streams names some of rgb, flow, not \('audio',\)"):
        models.shapes(build(streams=("audio",)), video)
    with pytest.raises(ValueError, match=r"need an input each, a dict by name; there is \['rgb'\]"):
        models.shapes(build(streams=("rgb", "flow")), video)


@pytest.mark.parametrize(
    ("file", "inflated", "averaged"),
    [
        ("i3d_rgb_kinetics400", 20, 0),
        ("i3d_flow_kinetics400", 20, 1),
        ("i3d_transfer_ucf101.py:original", 20, 0),
        ("s3d_kinetics400", 0, 0),
        ("quo_vadis_kinetics400.py:lstm", 0, 0),
        ("quo_vadis_kinetics400.py:two_stream", 0, 1),
        ("quo_vadis_kinetics400.py:fused", 0, 1),
    ],
)
def test_recipes_start_from_a_2d_inception(file, inflated, averaged, monkeypatch):
    """Every weight of the 2-D net finds its place: what the recipe's `rename` and `skip` say is complete."""
    cfg = config.from_file(f"{tiny.ROOT}/configs/{file}")
    net = models.build({"name": "frame_pool", "variant": "inception_v1"}, num_classes=1000)
    fill = lambda tree: jax.tree.map(lambda x: np.zeros(x.shape, np.float32), tree)  # noqa: E731
    source = fill(models.shapes(net, (1, 2, 224, 224, 3)))
    section = data.options(cfg.data)
    sizes = {"rgb": 3, "flow": 2 * section["flow"]["stack"]}
    video = {name: (1, 2, 32, 32, sizes[name]) for name in section["modalities"]}
    model = models.build(cfg.model, num_classes=4)
    target = fill(models.shapes(model, video if len(video) > 1 else next(iter(video.values()))))
    monkeypatch.setattr(checkpoint, "load_variables", lambda path, step: (source, {}, 7))
    cfg.init.path = "runs/imagenet"
    _, lines = transfer.load(cfg.init, target)
    assert sum("inflated to" in line for line in lines[1:]) == inflated
    assert sum("averaged to" in line for line in lines[1:]) == averaged
