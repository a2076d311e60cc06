"""Multigrid: shapes and batch sizes by hand, which clips are in which batch, the same for any number of processes."""

import itertools

import numpy as np
import pytest
import tiny

from vidjax import config, data, optim
from vidjax.data import multigrid

PAPER = multigrid.Multigrid(16, 224, long=(10, 20, 30), short=True)


def test_shapes_of_the_paper():
    """Figure 2 of Wu et al.: 8, 4, 2 and 1 times the batch; short cycles of a half and a root of a half of the size."""
    expected = [
        [(4, 112, 16), (4, 158, 8), (4, 158, 8)],
        [(8, 112, 8), (8, 158, 4), (8, 158, 4)],
        [(8, 112, 8), (8, 158, 4), (8, 224, 2)],
        [(16, 112, 4), (16, 158, 2), (16, 224, 1)],
    ]
    for begin, grids in zip((0, 10, 20, 30), expected, strict=True):
        assert [tuple(PAPER.at(begin + i)) for i in range(4)] == [*grids, grids[0]]
    assert PAPER.times == ((0, 8), (10, 4), (20, 2), (30, 1))
    assert multigrid.Multigrid(16, 224, short=True, multiple=16).at(1).size == 160
    assert PAPER.lines(8)[3] == "from step 30 batches of clips: 32 of 16x112x112, 16 of 16x158x158, 8 of 16x224x224"


@pytest.mark.parametrize(
    "grids", [PAPER, multigrid.Multigrid(16, 224), multigrid.Multigrid(8, 64, long=(1, 5, 7, 8, 20, 21, 25)),
              multigrid.Multigrid(9, 50, short=True)],
)  # fmt: skip
def test_every_base_batch_is_in_one_batch(grids):
    base = 0
    for step in range(60):
        assert grids.first(step) == base
        for _ in range(grids.at(step).batches):
            assert grids.step(base) == step
            base += 1


def test_errors():
    for long in ((3, 3, 5), (0, 1, 2), (1, 2), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="3, 7, 11, ... growing numbers of steps"):
            multigrid.Multigrid(16, 224, long=long)
    with pytest.raises(ValueError, match="data.multigrid: no key 'longer'; did you mean 'long'"):
        data.options({"multigrid": {"longer": ()}})
    with pytest.raises(ValueError, match="leave one of them empty"):
        data.options({"multigrid": {"short": True}, "buckets": (8,), "clip": {"sampler": "full"}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    cfg = tiny.make_config(tiny.render(tmp_path_factory.mktemp("videos")))
    cfg.data.batch_size = 4
    cfg.data.multigrid = {"long": (1, 3, 4), "short": True, "multiple": 4}
    cfg.data.clip.size = 8
    return cfg, data.source(cfg.data, "train")


def taken(cfg, source, n, **where):
    batches = data.train(cfg.data, source, seed=0, **where)
    found = list(itertools.islice(batches, n))
    batches.close()
    return found


def test_batches(run):
    cfg, source = run
    found = taken(cfg, source, 6)
    shapes = [batch["inputs"]["rgb"].shape[:3] for batch in found]
    assert shapes == [(64, 2, 12), (32, 4, 12), (16, 4, 16), (32, 4, 12), (16, 8, 12), (8, 8, 16)]
    seen = np.concatenate([batch["index"] for batch in found])
    for epoch in range(len(seen) // len(source)):  # every video once an epoch, whatever the batches
        assert len(set(seen[epoch * len(source) : (epoch + 1) * len(source)])) == len(source)
    resumed = taken(cfg, source, 3, step=3)
    for before, after in zip(found[3:], resumed, strict=True):
        np.testing.assert_array_equal(before["inputs"]["rgb"], after["inputs"]["rgb"])
    halves = [taken(cfg, source, 6, block=block, blocks=2) for block in (0, 1)]
    for whole, left, right in zip(found, *halves, strict=True):
        np.testing.assert_array_equal(whole["index"], np.concatenate([left["index"], right["index"]]))
        joined = np.concatenate([left["inputs"]["rgb"], right["inputs"]["rgb"]])
        np.testing.assert_array_equal(whole["inputs"]["rgb"], joined)


def test_a_short_clip_spans_the_same_time_and_place(run):
    """A quarter of the frames at four times the stride, and the same rectangle at half the size."""
    cfg, _ = run
    section, record = data.options(cfg.data), {"num_frames": 8, "error": "", "frames": 2, "size": 12}
    indices = data.SampleClip(section, None).random_map(record, np.random.default_rng(0))["indices"]
    assert np.diff(indices).tolist() == [[4]]
    ramp = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[None, None, None, :, None], (2, 1, 48, 48, 3))
    section["augment"] = {"size": 24, "flip": 0.0, "scale": (0.5, 0.5), "ratio": (1.0, 1.0)}
    views = [
        data.augmented(section, {"rgb": ramp}, 0, np.random.default_rng(1), (), size)[0]["rgb"] for size in (24, 12)
    ]
    assert [view.shape for view in views] == [(2, 24, 24, 3), (2, 12, 12, 3)]
    halved = views[0].reshape(2, 12, 2, 12, 2, 3).mean((2, 4))
    assert np.abs(halved - views[1]).max() <= 2


def test_recipe_of_slowfast():
    """PySlowFast's schedule: half as many epochs again, the learning rate falling with the shapes and the stages."""
    cfg = config.from_file(f"{tiny.ROOT}/configs/slowfast_8x8_r50_kinetics400.py:multigrid")
    grids, epoch = data.grids_of(data.options(cfg.data)), 240_000 // 64
    assert grids.first(cfg.steps) / epoch == pytest.approx(1.5 * 239, rel=0.002)
    assert cfg.steps / epoch == pytest.approx(69.9, abs=0.2)  # 3.4 times fewer than 239
    _, rate = optim.build(cfg.steps, **cfg.optim, times=grids.times)
    begins = [0, *grids.long]
    seen = [float(rate(step + 1)) for step in begins[3:]] + [float(rate(cfg.steps - 1))]
    expected = [0.1] + [0.1 * f * b for f in (0.1, 0.01) for b in (8, 4, 2, 1)] + [1e-4]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_learning_rate():
    _, rate = optim.build(40, name="sgd", lr=0.1, schedule="constant", times=PAPER.times)
    assert [round(float(rate(step)), 6) for step in (0, 9, 10, 29, 30, 39)] == [0.8, 0.8, 0.4, 0.2, 0.1, 0.1]


def test_trains_and_resumes(run, tmp_path):
    """Five steps of five shapes, cut after three: the same parameters as in one go."""
    import jax

    from vidjax import checkpoint, train

    cfg, _ = run
    cfg = cfg.copy_and_resolve_references()
    cfg.steps, cfg.eval.every, cfg.checkpoint_every, cfg.optim.warmup, cfg.optim.schedule = 5, 5, 3, 0, "constant"
    train.train(cfg, str(tmp_path / "whole"))
    half = cfg.copy_and_resolve_references()
    half.steps = 3
    train.train(half, str(tmp_path / "parts"))
    train.train(cfg, str(tmp_path / "parts"))
    one, two = (checkpoint.load_variables(str(tmp_path / name))[0] for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
