"""trn: sizes by formula, its consensus modules beside the originals', what is drawn when, and what it refuses."""

import importlib.util
import itertools
import json

import jax
import numpy as np
import pytest

from vidjax import convert, models
from vidjax.convert import converted
from vidjax.models import trn

apply = jax.jit(lambda model, variables, x: model.apply(variables, x, train=False), static_argnums=0)


@pytest.mark.parametrize(
    ("backbone", "width", "base"), [("bn_inception", 1024, 10_270_240), ("resnet50", 2048, 23_508_032)]
)
def test_sizes_by_formula(backbone, width, base):
    project, classes = width * 256 + 256, 174
    scales = sum(n * 256 * 256 + 256 + 256 * classes + classes for n in range(2, 9))
    assert trn.SIZES[backbone]["params"] == base + project + scales
    single = 8 * 256 * 512 + 512 + 512 * classes + classes
    assert trn.SIZES[f"{backbone}_relation"]["params"] == base + project + single


# The first three logits of the original's modules (PyTorch 2.13, NumPy's seed 0) on formula weights and features.
RECORDED = {
    "relation": [[-0.09738417, -0.00596721, -0.58154154], [-0.60604906, 0.80915231, -0.30407947]],
    "multiscale_f4": [[-1.74785495, 2.18285036, -0.15887623], [-0.40816614, -2.0556922, 2.786028385]],
}


@pytest.mark.parametrize("arch", [*RECORDED])
def test_modules_equal_the_originals(arch, golden):
    spec = importlib.util.spec_from_file_location("formula", golden / "formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    entry = json.loads((golden / "expected" / "ref_repos.json").read_text())[f"trn_{arch}"]
    tensors = {name: formula.torch_tensor(name, shape, entry["gamma"]) for name, shape in entry["manifest"]}
    frames = np.random.RandomState(0).randn(2, 8, 64).astype(np.float32)[:, : 4 if arch == "multiscale_f4" else 8]
    model, variables = models.for_reference("trn", arch, 16), convert.from_reference("trn", arch, tensors)
    logits, _ = apply(model, variables, frames)
    np.testing.assert_allclose(logits[:, :3], RECORDED[arch], atol=1e-5 * np.abs(logits).max())
    stored = np.load(golden / "expected" / "ref_repos.npz")
    if f"trn_{arch}/out" in stored:
        np.testing.assert_allclose(logits, stored[f"trn_{arch}/out"], atol=1e-5 * np.abs(logits).max())


@pytest.fixture(scope="module")
def net():
    """(a TRN on features alone, its variables, features (2, 5, 6))."""
    fields = {"name": "trn", "variant": "bn_inception", "backbone": "", "hidden": 4, "num_classes": 3}
    model, x = models.build(fields), np.random.RandomState(0).randn(2, 5, 6).astype(np.float32)
    return model, jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x), x


def test_the_sum_of_relations(net):
    model, variables, x = net
    logits, out = apply(model, variables, x)
    total = 0
    for i, indices in enumerate(trn.choices(5, 3)):
        p = jax.tree.map(np.asarray, variables["params"][f"relation{i}"])
        for chosen in indices:
            hidden = np.maximum(
                np.maximum(x[:, chosen], 0).reshape(2, -1) @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0
            )
            total = total + hidden @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(logits, total, rtol=1e-5, atol=1e-5)  # float32 in another order
    assert {f"scores_{n}_frames" for n in (2, 3, 4, 5)} < out.keys()


def test_tuples_are_ordered_distinct_and_drawn_anew_only_in_training(net):
    drawn = [trn.choices(6, 3, jax.random.key(seed)) for seed in range(3)] + [trn.choices(6, 3)]
    for found in drawn:
        assert [np.shape(indices) for indices in found] == [(1, 6), (3, 5), (3, 4), (3, 3), (3, 2)]
        for indices in map(np.asarray, found):
            assert (np.diff(indices) > 0).all()
            assert len({*map(tuple, indices)}) == len(indices)
    pairs = [tuple(map(tuple, np.asarray(found[-1]))) for found in drawn[:3]]
    assert len(set(pairs)) > 1
    assert {pair for choice in pairs for pair in choice} <= {*itertools.combinations(range(6), 2)}
    model, variables, x = net
    train = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key})[0])
    first, second = (train(jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 0


def test_the_order_of_frames_matters(net):
    model, variables, x = net
    logits, back = (apply(model, variables, frames)[0] for frames in (x, x[:, ::-1]))
    assert np.abs(logits - back).max() > 0.01 * np.abs(logits).max()


def test_one_frame_has_no_relation(net):
    with pytest.raises(ValueError, match=r"at least two of them; set data\.clip\.size"):
        net[0].apply(net[1], net[2][:, :1], train=False)


def test_a_module_alone_is_no_run(tmp_path):
    with pytest.raises(convert.ConvertError, match="a head without a net on frames"):
        converted.read("trn", "relation", tmp_path / "none.npz", tensors={})
