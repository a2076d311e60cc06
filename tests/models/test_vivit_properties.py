"""vivit: sizes by formula, weights of image transformers, clips of other sizes, blocks in loops, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import models
from vidjax.models import vivit

TINY = {
    "width": 16,
    "depth": 2,
    "temporal_depth": 1,
    "heads": 4,
    "hidden": 24,
    "frames": 4,
    "size": 16,
    "num_classes": 3,
}
TINY |= {"tubelet": (2, 8, 8)}


def tiny(attention="joint", **fields):
    return models.build({"name": "vivit", "variant": "b_16x2", "attention": attention, **TINY | fields})


def forward(model, video, variables=None):
    """(variables, activations) of `model` on `video`."""
    variables = variables or jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    _, out = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    return variables, out


def video(frames=4, height=16, width=16):
    return np.random.RandomState(0).rand(2, frames, height, width, 3).astype(np.float32)


@pytest.mark.parametrize("variant", vivit.VARIANTS)
def test_parameters_by_formula(variant):
    model = models.build({"name": "vivit", "variant": variant}, num_classes=vivit.SIZES[variant]["classes"])
    d, (t, h, w) = model.width, vivit.native(model)
    attention, norm, mlp = 4 * d * (d + 1), 2 * d, 2 * d * model.hidden + d + model.hidden
    block = attention + mlp + 2 * norm
    total = d * (3 * np.prod(model.tubelet) + 1) + model.depth * block + norm + (d + 1) * model.num_classes
    total += {
        "joint": d * (2 + t * h * w),
        "encoder": d * (2 + h * w) + norm + d * (2 + t) + model.temporal_depth * block,
        "self_attention": d * t * h * w + model.depth * (attention + norm),
        "dot_product": d * t * h * w,
    }[model.attention]
    assert vivit.SIZES[variant]["params"] == total


# [P] table 2 of the paper, for ViViT-B with tubelets of 16x16x2: millions of parameters, 10^9 multiply-adds, which
# count softmax and norms too.
@pytest.mark.parametrize(
    ("variant", "params", "flops"),
    [
        ("b_16x2", 88.9, 455.2),
        ("b_16x2_encoder", 115.1, 284.4),
        ("b_16x2_self_attention", 117.3, 372.3),
        ("b_16x2_dot_product", 88.9, 277.1),
    ],
)
def test_published_sizes(variant, params, flops):
    row = vivit.SIZES[variant]
    assert abs(row["params"] / 1e6 - params) < 0.1
    assert 0.99 < row["gmac"] / flops < 1


def image_vit():
    """Tensors of an image ViT under timm's names, for pictures of 16x16 in patches of 8x8, and another's."""
    shapes = {"cls_token": (1, 1, 16), "pos_embed": (1, 5, 16), "norm.weight": (16,), "norm.bias": (16,)}
    shapes |= {"patch_embed.proj.weight": (16, 3, 8, 8), "patch_embed.proj.bias": (16,), "head.weight": (9, 16)}
    layers = {"norm1": (16,), "attn.qkv": (48, 16), "attn.proj": (16, 16), "norm2": (16,), "mlp.fc1": (24, 16)}
    for i in range(2):
        for name, shape in (layers | {"mlp.fc2": (16, 24)}).items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    rng = np.random.RandomState(0)
    return {name: (rng.randn(*shape) / 4).astype(np.float32) for name, shape in shapes.items()}


def as_image_model(tensors):
    """The image ViT itself: a joint ViViT of one frame."""
    model = tiny(tubelet=(1, 8, 8), frames=1)
    variables, _ = forward(model, video(1))
    return model, vivit.init_from_image(tensors, model, variables)


def test_central_frame():
    """Every time step of the encoder sees what the image ViT sees in its second frame."""
    tensors, clip, model = image_vit(), video(), tiny("encoder")
    variables, _ = forward(model, clip)
    _, out = forward(model, clip, vivit.init_from_image(tensors, model, variables))
    image, weights = as_image_model(tensors)
    for step in range(2):
        _, seen = forward(image, clip[:, 2 * step + 1, None], weights)
        np.testing.assert_allclose(out["spatial_tokens"][:, step], seen["tokens"], atol=1e-5)


def test_filter_inflation():
    """A clip that stands still is seen as its picture."""
    tensors, model = image_vit(), tiny("encoder")
    clip = np.repeat(video(1), 4, axis=1)
    variables, _ = forward(model, clip)
    _, out = forward(model, clip, vivit.init_from_image(tensors, model, variables, "filter_inflation"))
    image, weights = as_image_model(tensors)
    _, seen = forward(image, clip[:, :1], weights)
    for step in range(2):
        np.testing.assert_allclose(out["spatial_tokens"][:, step], seen["tokens"], atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "self_attention", "dot_product"])
def test_image_positions_repeat(attention):
    tensors, model = image_vit(), tiny(attention)
    variables, _ = forward(model, video())
    made = vivit.init_from_image(tensors, model, variables)["params"]
    grid = tensors["pos_embed"][:, 1:]
    expected = [tensors["pos_embed"][:, :1]] * (attention == "joint") + [grid, grid]
    np.testing.assert_array_equal(made["positions"], np.concatenate(expected, axis=1))
    np.testing.assert_array_equal(made["head"]["kernel"], variables["params"]["head"]["kernel"])
    if attention == "self_attention":
        block = made["block1"]
        assert not np.any(block["attention_time"]["proj"]["kernel"])
        assert not np.any(block["attention_time"]["proj"]["bias"])
        np.testing.assert_array_equal(block["attention_time"]["query"]["kernel"], block["attention"]["query"]["kernel"])


def test_image_of_another_size_or_method():
    tensors, model = image_vit(), tiny()
    variables, _ = forward(model, video())
    with pytest.raises(ValueError, match="central_frame or filter_inflation, not 'mean'"):
        vivit.init_from_image(tensors, model, variables, "mean")
    tensors["norm.bias"] = np.ones(8, np.float32)
    with pytest.raises(ValueError, match=r"image ViT's norm/bias is \(8,\), but this ViViT needs \(16,\)"):
        vivit.init_from_image(tensors, model, variables)


@pytest.mark.parametrize("attention", vivit.ATTENTION)
def test_other_sizes_keep_constant_positions(attention):
    """Positions that are the same everywhere are so on any grid: each patch of a grey clip looks alike."""
    model, grey = tiny(attention), np.full((1, 6, 24, 16, 3), 0.3, np.float32)
    variables, _ = forward(model, grey)
    variables["params"]["positions"] = jnp.ones_like(variables["params"]["positions"])
    _, out = forward(model, grey, variables)
    embedding = out["embedding"].reshape(-1, out["embedding"].shape[-2], 16)[0]
    assert out["embedding"].size // 16 == {"joint": 19, "encoder": 3 * 7}.get(attention, 18)
    patches = embedding[int(attention in ("joint", "encoder")) :]
    np.testing.assert_allclose(patches, np.broadcast_to(patches[:1], patches.shape), atol=1e-6)


@pytest.mark.parametrize("attention", vivit.ATTENTION)
def test_scan_and_remat_change_nothing(attention):
    clip, grads = video(), []
    variables, _ = forward(tiny(attention), clip)
    for ways in ({}, {"scan": True, "remat": True}):
        model = tiny(attention, **ways)
        loss = lambda v, m=model: jnp.square(m.apply(v, clip, train=False)[0]).mean()  # noqa: E731
        grads.append(jax.jit(jax.grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)


def test_time_and_space_attend_apart():
    """With dot-product factorisation a patch sees its own frame and its own place, no other place of another."""
    model, clip = tiny("dot_product", depth=1), jnp.asarray(video())
    variables, _ = forward(model, clip)
    token = lambda x: model.apply(variables, x, train=False)[1]["block0"][0, 0, 0].sum()  # noqa: E731
    slope = np.abs(jax.jit(jax.grad(token))(clip)[0]).sum(-1)
    seen = slope.reshape(2, 2, 2, 8, 2, 8).sum((1, 3, 5))
    assert (seen[0] > 0).all()
    np.testing.assert_array_equal(seen[1] > 0, [[True, False], [False, False]])


def test_errors():
    with pytest.raises(ValueError, match="one of joint, encoder, self_attention, dot_product, not 'axial'"):
        models.shapes(tiny("axial"), (1, 4, 16, 16, 3))
    with pytest.raises(ValueError, match="A clip of 5x16x16 does not divide into patches of 2x8x8"):
        models.shapes(tiny(), (1, 5, 16, 16, 3))
