"""Next-step regression: time is split, not shuffled, and the LSTM beats foretelling no change."""

import numpy as np
import pytest

from vidjax import series

WAVE = np.sin(0.4 * np.arange(300, dtype=np.float32))[:, None] * 3 + 5


def test_windows():
    x, y = series.windows(np.arange(12, dtype=np.float32).reshape(6, 2), 4)
    assert x.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]], [[2, 3], [4, 5], [6, 7], [8, 9]]]
    assert y.tolist() == [[8, 9], [10, 11]]


def test_a_wave_is_learnt(tmp_path):
    path = tmp_path / "wave.csv"
    path.write_text("height\n" + "\n".join(f"{x:.6f}" for x in WAVE[:, 0]))
    predict, report = series.fit(series.read(path), epochs=60, lr=5e-3)
    assert (report["windows"], report["tested"]) == (240 - 20, 60 - 20)
    assert report["last_value"] == pytest.approx(np.mean((WAVE[260:] - WAVE[259:-1]) ** 2), rel=1e-4)
    assert report["mse"] < 0.05 * report["last_value"]
    following = predict(WAVE[None, -20:])
    assert following.item() == pytest.approx(np.sin(0.4 * 300) * 3 + 5, abs=0.4)


def test_the_test_part_does_not_touch_training():
    changed = WAVE.copy()
    changed[240:] *= 7
    one, other = (series.fit(x, epochs=1)[0] for x in (WAVE, changed))
    np.testing.assert_array_equal(one(WAVE[None, :20]), other(WAVE[None, :20]))


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="30 steps are too few: both parts of 80% need more than 20"):
        series.fit(WAVE[:30])
    (tmp_path / "bad.csv").write_text("1,2\n3\n")
    with pytest.raises(ValueError, match="bad.csv must hold one number in every column of every row"):
        series.read(tmp_path / "bad.csv")
