"""One recipe over several splits: lists, means, and not doing again what is done."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from vidjax import splits


def test_lists():
    assert splits.parse("1,2,3") == ["1", "2", "3"]
    assert splits.parse("1-3,11") == ["1", "2", "3", "11"]
    for wrong in ("", "3-1", "1,,2", "a-b"):
        with pytest.raises(ValueError, match="a list such as 1,2,3 or 1-10"):
            splits.parse(wrong)


def test_a_run_for_each_split_then_their_mean(tmp_path):
    called = []

    def function(cfg, workdir):
        called.append((cfg.data.split, workdir))
        if cfg.data.split == "c" and len(called) == 3:
            return None  # stopped by a signal
        return {
            "top1": {"a": 0.5, "b": 1.0, "c": 0.75}[cfg.data.split],
            "map": {"a": 0.25, "b": 0.5, "c": 0.5}[cfg.data.split],
            "top5": None if cfg.data.split == "a" else 1.0,
            "data": {"videos": 4 if cfg.data.split == "a" else 8},
        }

    cfg = ConfigDict({"data": {"split": ""}})
    assert splits.run(function, cfg, str(tmp_path), ["a", "b", "c"]) is None
    assert not (tmp_path / "splits.json").exists()
    summary = splits.run(function, cfg, str(tmp_path), ["a", "b", "c"])
    assert [name for name, _ in called] == ["a", "b", "c", "c"]  # a and b are not trained again
    assert called[0][1] == str(tmp_path / "split_a")
    assert cfg.data.split == ""
    assert summary["top1"] == pytest.approx(0.75)
    assert summary["spread"] == pytest.approx(np.std([0.5, 1, 0.75], ddof=1))
    assert set(summary["figures"]) == {"top1", "map"}  # top-5 is not of every split
    assert summary["figures"]["map"]["mean"] == pytest.approx(1.25 / 3)
    assert summary["figures"]["map"]["spread"] == pytest.approx(np.std([0.25, 0.5, 0.5], ddof=1))
    assert summary["pooled"] == pytest.approx((2 + 8 + 6) / 20)
    assert json.loads((tmp_path / "splits.json").read_text()) == summary
    assert splits.headline(summary).startswith(
        "top-1 75.0% (mean of 3 splits, standard deviation 25.0%), 80.0% of all 20"
    )
