"""videomae: sizes by formula, what masks hide, what the loss compares, pre-trained weights in a classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vidjax import checkpoint, models, transfer
from vidjax.models import videomae

TINY = {"width": 16, "depth": 2, "heads": 4, "hidden": 24, "tubelet": (2, 8, 8), "frames": 4, "size": 32}
DECODER = {"decoder": (8, 1, 2), "mask_ratio": 0.75}  # 16 places of which 12 are hidden, twice


def tiny(variant="b", **fields):
    return models.build({"name": "videomae", "variant": variant, **TINY | {"num_classes": 3} | fields})


def video(frames=4, size=32):
    return np.random.RandomState(0).rand(2, frames, size, size, 3).astype(np.float32)


def init(model):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video())


@pytest.mark.parametrize("variant", videomae.VARIANTS)
def test_parameters_by_formula(variant):
    model = models.build({"name": "videomae", "variant": variant})

    def blocks(d, hidden, depth):
        return depth * (4 * d * d + 3 * d + 2 * d * hidden + d + hidden + 4 * d)

    pixels, d, classes = 3 * np.prod(model.tubelet), model.width, videomae.SIZES[variant].get("classes", 0)
    total = (pixels + 1) * d + blocks(d, model.hidden, model.depth) + 2 * d + ((d + 1) * classes)
    if model.decoder:
        width, depth, _ = model.decoder
        total += d * width + width + blocks(width, 4 * width, depth) + 2 * width + (width + 1) * pixels
    assert videomae.SIZES[variant]["params"] == total


# [P] table 6 of the paper: millions of parameters, 10^9 multiply-adds, which count norms too; of V2's giant from its
# model zoo; of pre-training nets those of transformers' classes.
@pytest.mark.parametrize(
    ("variant", "params", "flops"),
    [
        ("s", 22, 57),
        ("b", 86.5, 180),
        ("l", 304, 597),
        ("h", 632, 1192),
        ("g", 1012, None),
        ("pretrain_b", 94.2, None),
        ("pretrain_l", 343, None),
    ],
)
def test_published_sizes(variant, params, flops):
    row = videomae.SIZES[variant]
    assert abs(row["params"] / 1e6 - params) < 0.5
    assert flops is None or abs(row["gmac"] / flops - 1) < 3e-3


def test_hidden_patches_are_not_seen():
    """What is encoded depends on visible tubes alone; these are at the same places in every frame, 4 of 16."""
    model, clip = tiny(**DECODER), jnp.asarray(video())
    variables, key = init(model), {"dropout": jax.random.key(1)}
    pre_logits = lambda x: model.apply(variables, x, train=True, rngs=key)[1]["pre_logits"]  # noqa: E731
    seen = jax.jit(jax.grad(lambda x: jnp.square(pre_logits(x)).sum()))(clip)
    seen = np.abs(seen).reshape(2, 2, 2, 4, 8, 4, 8, 3).sum((2, 4, 6, 7)) > 0
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])
    np.testing.assert_array_equal(seen.sum((2, 3)), np.full((2, 2), 4))
    assert (seen[0] != seen[1]).any()  # each clip has a mask of its own


@pytest.mark.parametrize(("masking", "kept"), [("tube", 8), ("random", 8), ("frame", 16)])
def test_kinds_of_masks(masking, kept):
    """Three quarters of 16 places, for all frames or for each; or half of the two frames."""
    model, key = tiny(**DECODER, masking=masking), {"dropout": jax.random.key(1)}
    model = model.clone(mask_ratio=0.5 if masking == "frame" else 0.75)
    variables = init(model)
    _, out = jax.jit(lambda x: model.apply(variables, x, train=True, rngs=key))(video())
    assert out["tokens"].shape == (2, kept, 16)
    pre_logits = lambda x: model.apply(variables, x, train=True, rngs=key)[1]["pre_logits"]  # noqa: E731
    seen = jax.jit(jax.grad(lambda x: jnp.square(pre_logits(x)).sum()))(jnp.asarray(video()))
    seen = np.abs(seen).reshape(2, 2, 2, 4, 8, 4, 8, 3).sum((2, 4, 6, 7)) > 0
    assert seen.sum((1, 2, 3)).tolist() == [kept, kept]
    assert (seen[:, 0] == seen[:, 1]).all() == (masking == "tube")
    assert (seen.reshape(2, 2, 16).any(2) == seen.reshape(2, 2, 16).all(2)).all() == (masking == "frame")


def test_masks_follow_the_key():
    model, clip = tiny(**DECODER), video()
    variables = init(model)
    loss = jax.jit(lambda key: model.apply(variables, clip, train=True, rngs={"dropout": key})[1]["loss/mae"])
    first, second, again = (loss(jax.random.key(i)) for i in (1, 2, 1))
    assert first.shape == (2,)
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("normalised", [True, False])
def test_given_mask(normalised):
    """The loss is the mean squared error of the hidden patches in their order, of what the net sees or normalised."""
    model, clip = tiny(**DECODER, normalised=normalised), video()
    mask = np.arange(32)[None] % 4 != np.array([[1], [2]])
    variables = init(model)
    _, out = jax.jit(lambda: model.apply(variables, clip, train=True, mask=mask))()
    patches = clip.reshape(2, 2, 2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(2, 32, 128, 3)
    if normalised:
        patches = (patches - patches.mean(2, keepdims=True)) / (patches.std(2, keepdims=True, ddof=1) + 1e-6)
    else:
        patches = (patches - model.mean) / model.std
    target = patches[mask].reshape(2, 24, 384)
    np.testing.assert_allclose(out["loss/mae"], np.square(out["reconstruction"] - target).mean((1, 2)), rtol=1e-5)


def test_every_parameter_learns():
    model, clip = tiny(**DECODER), video()
    variables = init(model)
    loss = lambda v: model.apply(v, clip, train=True, rngs={"dropout": jax.random.key(1)})[1]["loss/mae"].mean()  # noqa: E731
    grads = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables)["params"], sep="/")
    still = {path for path, grad in grads.items() if not np.abs(grad).max()}
    assert still == {"head/kernel", "head/bias"}


def test_pretrained_weights_start_a_classifier(tmp_path):
    learner, classifier = tiny(**DECODER), tiny()
    variables = jax.tree.map(lambda x: x + 1, init(learner))
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(0, variables, {"step": np.int32(0)}, {"config": {}}, wait=True)
    checkpoints.close()
    fresh = init(classifier)
    section = {"path": str(tmp_path), "skip": "params/(decoder/.*|norm/.*|head/.*)"}
    merged, _ = transfer.load(section, fresh)
    merged = traverse_util.flatten_dict(merged["params"], sep="/")
    theirs, own = (traverse_util.flatten_dict(tree["params"], sep="/") for tree in (variables, fresh))
    assert merged.keys() == own.keys()
    for path, value in merged.items():
        taken = not path.startswith(("norm", "head"))
        np.testing.assert_array_equal(value, (theirs if taken else own)[path], err_msg=path)


def test_other_sizes():
    """Positions of a clip twice as large lie between the native ones; the native clip's are the fixed table."""
    model = tiny()
    native = videomae.positions(model, (2, 4, 4), 16)
    rate = 10000 ** (-2 * (np.arange(16) // 2) / 16)
    angle = np.arange(32)[:, None] * rate
    np.testing.assert_allclose(native, np.where(np.arange(16) % 2, np.cos(angle), np.sin(angle)), atol=2e-6)
    double = videomae.positions(model, (4, 8, 8), 16).reshape(4, 8, 8, 16)
    assert models.shapes(model, (1, 8, 64, 64, 3)) == models.shapes(model, (1, 4, 32, 32, 3))
    middle = double[1:3, 3:5, 3:5].mean((0, 1, 2))
    np.testing.assert_allclose(middle, native.reshape(2, 4, 4, 16)[:, 1:3, 1:3].mean((0, 1, 2)), atol=1e-5)


def test_scan_and_remat_change_nothing():
    variables, grads = init(tiny()), []
    for ways in ({}, {"scan": True, "remat": True}):
        model = tiny(**ways)
        loss = lambda v, m=model: jnp.square(m.apply(v, video(), train=False)[0]).mean()  # noqa: E731
        grads.append(jax.jit(jax.grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)


def test_old_names_of_transformers():
    name = "videomae.encoder.layer.3.attention.attention."
    assert set(videomae.current({f"{name}q_bias": 0, f"{name}v_bias": 0, f"{name}key.weight": 0})) == {
        f"{name}query.bias",
        f"{name}value.bias",
        f"{name}key.weight",
    }


def test_split_and_joined_are_inverse():
    tensors = {"blocks.0.attn.qkv.weight": np.arange(12.0).reshape(6, 2), "blocks.0.attn.q_bias": np.ones(2)}
    tensors |= {"blocks.0.attn.v_bias": np.zeros(2), "head.weight": np.ones((3, 2))}
    there = videomae.split(tensors)
    np.testing.assert_array_equal(there["blocks.0.attn.key.weight"], [[4, 5], [6, 7]])
    back = videomae.joined(there)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)


def test_error():
    with pytest.raises(ValueError, match="A clip of 3x32x32 does not divide into patches of 2x8x8"):
        models.shapes(tiny(), (1, 3, 32, 32, 3))
    with pytest.raises(ValueError, match="config.model.masking is tube, random, frame, not 'row'"):
        models.shapes(tiny(**DECODER, masking="row"), (1, 4, 32, 32, 3))
