"""Every config builds, names its command, and its smoke form trains one step."""

import ast
import pathlib

import jax
import pytest
import tiny

from vidjax import config, fit, sharding, train

FILES = sorted(pathlib.Path(tiny.ROOT, "configs").glob("*.py"))
FITTED = [file for file in FILES if "svm" in config.from_file(str(file))]  # for `vidjax fit`, not for `vidjax train`
CONFIGS = [file for file in FILES if file not in FITTED]
KEYS = {
    "seed",
    "steps",
    "model",
    "data",
    "eval",
    "optim",
    "loss",
    "mesh",
    "sharding",
    "checkpoint_every",
    "keep",
    "log_every",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_config_builds_and_says_how_to_run_it(file):
    assert KEYS <= set(config.from_file(str(file))) <= KEYS | {"init", "init_from", "mix", *sharding.DEFAULTS}
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert f"vidjax train --config=configs/{file.name}" in text
    assert "Hardware and cost:" in text
    assert "Expected:" in text


@pytest.mark.parametrize("file", FITTED, ids=lambda file: file.stem)
def test_fitted_config_says_how_to_run_it(file):
    cfg = config.complete(config.from_file(str(file)), fit.DEFAULTS)  # refuses keys that vidjax fit does not know
    assert {"seed", "model", "data", "features", "svm", "eval"} <= set(cfg)
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert f"vidjax fit --config=configs/{file.name}" in text
    assert "Hardware and cost:" in text
    assert "Expected:" in text


@pytest.fixture
def quick_compilation():
    """Nothing here runs twice: optimising it would take longer than running it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_smoke_form_trains(file, videos, tmp_path, quick_compilation):
    cfg = config.from_file(f"{file}:smoke")
    for key in ("label_column", "group_column", "eval_groups", "split", "mixture"):
        if key in cfg.data:
            del cfg.data[key]
    if "init" in cfg:
        cfg.init.path = ""  # another run's weights are not here
    cfg.data.update({"source": "folder", "path": str(videos)})
    cfg.mesh.data, cfg.steps, cfg.optim.warmup = 1, 1, 0
    report = train.train(cfg, str(tmp_path))
    assert report["data"]["videos"] == 13


def test_a_config_survives_its_file(tmp_path):
    cfg = config.from_file(str(CONFIGS[0]))
    config.save(cfg, str(tmp_path))
    assert config.load(str(tmp_path)) == cfg
    assert config.digest(config.load(str(tmp_path))) == config.digest(cfg)
    cfg.optim.lr *= 2
    assert config.digest(config.load(str(tmp_path))) != config.digest(cfg)


def test_the_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    expected = config.from_file(f"{tiny.ROOT}/configs/finetune.py:linear")
    monkeypatch.chdir(tmp_path)
    assert config.from_file("configs/finetune.py:linear").to_dict() == expected.to_dict()
    with pytest.raises(config.ConfigError, match="there is no config file configs/none.py; "):
        config.from_file("configs/none.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "finetune.py").write_text("def get_config(arg):\n    return {'mine': arg}\n")
    assert config.from_file("configs/finetune.py:linear") == {"mine": "linear"}  # a user's own comes first
