"""x3d: sizes by formula and as published, windows of larger crops, field errors."""

import jax
import numpy as np
import pytest

from vidjax import models
from vidjax.models import x3d
from vidjax.nn import lowering


def build(variant, **fields):
    return models.build({"name": "x3d", "variant": variant}, **fields)


FACTORS = {  # width, depth; XXL's depth is found, not published
    "xs": (2, 2.2),
    "s": (2, 2.2),
    "m": (2, 2.2),
    "l": (2, 5),
    "xl": (2.9, 5),
    "xxl": (2.9, 10.1),
}


def rounded(width):
    """A multiple of 8 near to a width, at least 8 (round_width of the references)."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


def formula(variant, frames, size, classes=400):
    """(parameters, of them batch norm's, multiply-adds) from the definition alone."""
    width, depth = FACTORS[variant]
    c = rounded(12 * width)
    places = frames * (size // 2) ** 2
    params, norms, macs, s = (27 + 5) * c, 2 * c, (27 + 5) * c * places, size // 2
    for base, blocks in ((12, 1), (24, 2), (48, 5), (96, 3)):
        n, depths = rounded(base * width), -int(-depth * blocks // 1)
        inner = int(2.25 * n)
        for j in range(depths):
            before, s = frames * s * s, s if j else -(-s // 2)
            after = frames * s * s
            layers = [(c * inner, inner, before), (27 * inner, inner, after), (inner * n, n, after)]
            layers += [] if j else [(c * n, n, after)]
            params += sum(weights for weights, _, _ in layers)
            norms += sum(2 * channels for _, channels, _ in layers)
            macs += sum(weights * count for weights, _, count in layers)
            if j % 2 == 0:
                squeeze = 2 * inner * rounded(inner / 16)
                params, macs = params + squeeze + rounded(inner / 16) + inner, macs + squeeze
            c = n
    head = inner * 2048 + 2048 * classes
    params, norms = params + c * inner + head + classes, norms + 2 * inner
    return params + norms, norms, macs + c * inner * after + head


@pytest.mark.parametrize("variant", FACTORS)
def test_sizes_by_formula(variant):
    row = x3d.SIZES[variant]
    params, _, macs = formula(variant, *row["input"][:2])
    assert row["params"] == params
    assert abs(row["gmac"] - macs / 1e9) <= 5e-4 + 1e-9  # printed to three decimals


@pytest.mark.parametrize(("variant", "millions"), [("m", 3.76), ("l", 6.1), ("xl", 11.0), ("xxl", 20.3)])
def test_published_parameters(variant, millions):
    """The paper's, which leave batch norm out."""
    params, norms, _ = formula(variant, *x3d.SIZES[variant]["input"][:2])
    assert round((params - norms) / 1e6, 2 if variant == "m" else 1) == millions


@pytest.mark.parametrize(("variant", "millions"), [("s", 3.79), ("l", 6.15)])
def test_published_parameters_of_pytorchvideo(variant, millions):
    model = build(variant, first_norm=False)
    assert round(models.parameters(model, (1, *x3d.SIZES[variant]["input"])) / 1e6, 2) == millions


@pytest.mark.parametrize(("variant", "billions"), [("xs", 0.60), ("s", 1.96), ("m", 4.73), ("l", 18.37)])
def test_published_multiply_adds(variant, billions):
    """PySlowFast's model zoo, whose 0.60 is rounded down from 0.605."""
    assert x3d.SIZES[variant]["gmac"] == pytest.approx(billions, abs=6e-3)  # their two decimals


def test_found_size_of_xxl():
    """10 x 3 views of 356 pixels cost 5,823 G in the tables of others' papers: 194.1 each."""
    assert round(formula("xxl", 32, 356)[2] / 1e9, 1) == 5823 / 30


def test_windows():
    """The head sees the mean of what it makes of every window, as in the references' dense tests."""
    video = np.random.RandomState(0).rand(1, 3, 36, 44, 3).astype(np.float32)  # a map of 3x5x6
    fields = {"strides": (1, 2, 2), "depths": (1, 1, 1), "num_classes": 3}
    model = build("small", window=(2, 4, 4), **fields)

    @jax.jit
    def run(video):
        _, variables = model.init_with_output(jax.random.key(0), video, train=False)
        whole, out = model.apply(variables, video, train=False)
        return variables, whole, out

    with lowering("native"):  # compiles faster
        variables, logits, out = run(video)
    kernel = np.asarray(variables["params"]["lin5"]["kernel"])[0, 0, 0]
    conv5, found = np.asarray(out["conv5"], np.float64), []
    assert conv5.shape[1:4] == (3, 5, 6)
    for t, i, j in np.ndindex(2, 2, 3):
        found.append(np.maximum(conv5[:, t : t + 2, i : i + 4, j : j + 4].mean((1, 2, 3)) @ kernel, 0))
    np.testing.assert_allclose(out["pre_logits"], np.mean(found, 0), rtol=1e-5)  # float32 sums
    assert logits.shape == (1, 3)
    larger = models.shapes(build("small", window=(99, 99, 99), **fields), video.shape)  # at most the whole map
    assert jax.tree.structure(larger) == jax.tree.structure(variables)


def test_field_errors():
    with pytest.raises(ValueError, match="of one length"):
        models.shapes(build("small", widths=(4, 8)), (1, 2, 8, 8, 3))
