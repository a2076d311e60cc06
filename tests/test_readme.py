"""The README's architecture is a working one, and its commands exist."""

import re
import sys

import jax
import jax.numpy as jnp
import tiny

from vidjax import main, models

TEXT = (tiny.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_architecture_of_the_readme_works_as_written(tmp_path, monkeypatch):
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "class Model" in text)
    (tmp_path / "toy.py").write_text(block)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "vidjax.models.toy", None)
    del sys.modules["vidjax.models.toy"]
    row = next(models.table(["toy"]))
    stated = models.family("toy").SIZES["base"]
    assert row["params"] == stated["params"]
    assert round(row["gmac"], 3) == stated["gmac"]
    model = models.build({"name": "toy", "variant": "base", "widths": (2, 3)}, num_classes=5)
    logits, out = model.init_with_output(jax.random.key(0), jnp.zeros((1, 2, 8, 8, 3)), train=False)[0]
    assert logits.shape == (1, 5)
    assert set(out) == {"layer0", "layer1", "pre_logits"}


def test_every_command_of_the_readme_exists():
    named = set(re.findall(r"^(?:.*&& )?vidjax (\w+)", TEXT, re.MULTILINE))
    assert named <= set(main.COMMANDS)
    assert {"train", "eval", "predict", "models", "data"} <= named
