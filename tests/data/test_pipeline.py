"""Batches are a pure function of (seed, step), whatever the process and worker count."""

import jax
import numpy as np
import pytest
import tiny

from vidjax import data


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


def test_batches_do_not_depend_on_the_number_of_processes(videos):
    cfg = tiny.make_config(videos)
    source = data.source(cfg.data, "train")
    whole = tiny.batches(cfg, source, 6)
    assert whole[0]["inputs"]["rgb"].shape == (8, 8, 24, 24, 3)
    assert whole[0]["inputs"]["rgb"].dtype == np.uint8
    for blocks in (2, 4):
        parts = [tiny.batches(cfg, source, 6, block=i, blocks=blocks) for i in range(blocks)]
        tiny.assert_equal(
            whole, [jax.tree.map(lambda *rows: np.concatenate(rows), *step) for step in zip(*parts, strict=True)]
        )


def test_batches_can_be_entered_at_any_step(videos):
    cfg = tiny.make_config(videos)
    source = data.source(cfg.data, "train")
    whole = tiny.batches(cfg, source, 12)  # more than two epochs
    for step in (1, 5, 11):
        tiny.assert_equal(whole[step : step + 1], tiny.batches(cfg, source, 1, step=step))


def test_batches_do_not_depend_on_workers_and_threads(videos):
    cfg = tiny.make_config(videos)
    source = data.source(cfg.data, "train")
    whole = tiny.batches(cfg, source, 4)
    cfg.data.workers, cfg.data.threads = 1, 2
    tiny.assert_equal(whole, tiny.batches(cfg, source, 4))


def test_an_epoch_sees_every_video_once_and_epochs_differ(videos):
    cfg = tiny.make_config(videos)
    source = data.source(cfg.data, "train")
    order = np.concatenate([batch["index"] for batch in tiny.batches(cfg, source, 10)])
    assert sorted(order[:40]) == sorted(order[40:]) == list(range(40))
    assert list(order[:40]) != list(order[40:])


def test_flip_exchanges_left_and_right(videos):
    cfg = tiny.make_config(videos, data__augment__flip=1.0)
    source = data.source(cfg.data, "train")
    names = {"left": "right", "clockwise": "counterclockwise"}
    names |= {b: a for a, b in names.items()}
    for batch in tiny.batches(cfg, source, 2):
        for label, i in zip(batch["label"], batch["index"], strict=True):
            before = source.classes[source[int(i)]["label"]]
            assert source.classes[label] == names.get(before, before)


def test_one_bad_file_is_masked_and_leaves_other_rows_alone(videos):
    cfg = tiny.make_config(videos)
    source = data.source(cfg.data, "train")
    rows = [dict(row) for row in source.rows]
    rows[7]["path"] = str(videos / "none.mp4")
    broken = type(source)(tuple(rows), source.classes, source.name)
    for good, bad in zip(tiny.batches(cfg, source, 5), tiny.batches(cfg, broken, 5), strict=True):
        there = good["index"] == 7
        assert (bad["mask"] == ~there).all()
        assert (bad["inputs"]["rgb"][there] == 0).all()
        assert all("none.mp4" in error for error in bad["error"][there])
        np.testing.assert_array_equal(good["inputs"]["rgb"][~there], bad["inputs"]["rgb"][~there])


def test_evaluation_covers_each_video_once_in_order(videos):
    cfg = tiny.make_config(videos, eval__clips=2, eval__crops=3)
    source = data.source(cfg.data, "eval")
    for blocks in (1, 2):
        parts = [list(data.evaluation(cfg.data, cfg.eval, source, block=i, blocks=blocks)) for i in range(blocks)]
        index = np.concatenate([batch["index"] for step in zip(*parts, strict=True) for batch in step])
        mask = np.concatenate([batch["mask"] for step in zip(*parts, strict=True) for batch in step])
        assert list(index[:13]) == list(range(13))
        assert (index[13:] == -1).all()
        assert mask.sum() == 13
        assert parts[0][0]["inputs"]["rgb"].shape == (8 // blocks, 6, 8, 24, 24, 3)
