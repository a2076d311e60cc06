"""Many videos at once give what each gives alone, in order and in little memory; their scores are evaluation's."""

import collections
import fractions
import itertools
import threading
import time

import av
import numpy as np
import pytest
import tiny

from vidjax import config, data, evaluate, predict
from vidjax.data import protocols, video
from vidjax.predict import many, turns

NAMES = ["left", "right", "up"]


@pytest.fixture(scope="module")
def predictor():
    return predict.Predictor(loaded=tiny.untrained(NAMES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos of noise, 1 to 60 frames long, and one that is broken in the middle."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i, length in enumerate((21, 1, 60, 8, 33, 9)):
        noise = np.kron(rng.integers(0, 256, (length, 8, 10, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
        video.write(folder / f"{i}.mp4", noise, fps=10)
    whole = (folder / "2.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def paths(folder, *names):
    return [str(folder / f"{name}.mp4") for name in names]


def oracle(predictor, path, indices):
    """Scores of windows, one at a time, by what evaluation is made of."""
    record = {"id": path, "path": path} | video.probe(path)
    for window in indices:
        views = data.read_views(predictor.section, predictor.meta["preprocess"], record, window[None])
        batch = {"inputs": {key: x[None] for key, x in views.items()}}
        crops = np.ones((1, len(views["rgb"])), np.float32)
        batch |= {"view_mask": crops, "mask": np.ones(1, np.float32)}
        out = evaluate.eval_step(predictor.variables, batch, model=predictor.model, average="prob")
        yield np.asarray(out["scores"])[0]


@pytest.mark.parametrize("stride", ["", "0.3s"])
def test_windows_of_many_files_are_those_of_each(predictor, folder, stride):
    asked = paths(folder, *range(6))
    found = list(predictor.many(asked, stride=stride))
    assert [path for path, _ in found] == asked
    for path, result in found:
        indices = many.windows.cut(predictor.section, result["num_frames"], 10.0, stride)[0]
        expected = np.stack(list(oracle(predictor, path, indices)))
        np.testing.assert_allclose(result["scores"], expected, atol=1e-6)  # other batches, other orders of sums
        np.testing.assert_allclose(result["video"], expected.mean(0), atol=1e-6)
        np.testing.assert_array_equal(result["start"], result["times"][result["frames"][:, 0]])
        assert result["end"][-1] == result["num_frames"] / 10


def test_the_same_again_bit_for_bit_and_in_pieces(predictor, folder, monkeypatch):
    asked = paths(folder, 2, 0, 4)
    first, again = ([result["scores"] for _, result in predictor.many(asked)] for _ in range(2))
    tiny.assert_equal(first, again)
    monkeypatch.setattr(many, "LONG", 16)  # videos are decoded in four places at once
    for x, y in zip(first, predictor.many(asked), strict=True):
        np.testing.assert_allclose(x, y[1]["scores"], atol=1e-6)  # other neighbours in the batch


def test_a_call_gives_one_video_with_names(predictor, folder):
    (path,) = paths(folder, 0)
    found = predictor(path, threshold=0.0)
    assert found["top"] == sorted(
        ((n, float(s)) for n, s in zip(NAMES, found["video"], strict=True)), key=lambda x: -x[1]
    )
    assert found["segments"][0]["start"] == 0
    assert found["segments"][-1]["end"] == 2.1
    assert (found["num_frames"], found["fps"], found["width"], found["height"]) == (21, 10, 40, 32)
    with pytest.raises(video.VideoError, match="broken.mp4"):
        predictor(paths(folder, "broken")[0])


def test_a_batch_is_no_larger_than_it_has_to_be(folder):
    predictor, shapes = predict.Predictor(loaded=tiny.untrained(NAMES)), []
    step = predictor.step
    predictor.step = lambda variables, batch, net: (shapes.append(len(batch["mask"])), step(variables, batch, net))[1]
    predictor(paths(folder, 1)[0])
    assert shapes == [1]
    predictor(paths(folder, 0)[0])  # three windows
    assert shapes == [1, 4]
    assert len(predictor(paths(folder, 2)[0])["scores"]) == 8
    predictor(paths(folder, 4)[0])  # five
    assert shapes == [1, 4, 8, 8]


def test_one_frame_is_a_window(predictor, folder):
    found = predictor(paths(folder, 1)[0])
    assert found["scores"].shape == (1, 3)
    assert (found["start"].tolist(), found["end"].tolist()) == ([0.0], [0.1])


def test_a_broken_file_takes_nothing_with_it(predictor, folder, monkeypatch):
    alone = predictor(paths(folder, 2)[0])["scores"]
    for long in (many.LONG, 16):
        monkeypatch.setattr(many, "LONG", long)
        found = dict(predictor.many(paths(folder, 0, "broken", 2, "gone", 5)))
        assert [isinstance(x, video.VideoError) for x in found.values()] == [False, True, False, True, False]
        np.testing.assert_allclose(found[paths(folder, 2)[0]]["scores"], alone, atol=1e-6)  # other batches


def test_a_file_that_breaks_in_the_middle_is_an_error_of_its_own(predictor, folder, monkeypatch):
    read, broken = data.read_views, paths(folder, 4)[0]

    def failing(section, views, record, indices):
        if record["path"] == broken and indices.min() > 10:
            raise video.VideoError(f"{broken}: breaks")
        return read(section, views, record, indices)

    monkeypatch.setattr(data, "read_views", failing)
    for long in (many.LONG, 8):
        monkeypatch.setattr(many, "LONG", long)
        found = [result for _, result in predictor.many(paths(folder, 4, 0))]
        assert str(found[0]) == f"{broken}: breaks"
        assert found[1]["scores"].shape == (3, 3)


SMALL = {  # of three kinds: a number of clips, logits averaged, clips by the video's length
    "fixed": protocols.Protocol("linspace", "", clips=2, crops=3, resize=28, size=24),
    "logits": protocols.Protocol("dmvr", "", clips=3, frames=6, stride=2, resize=24, size=24, average="logit"),
    "open": protocols.Protocol("windows_every", "", hop=9, crops=1, resize=26, size=24),
}


@pytest.mark.parametrize("protocol", ["own", *SMALL])
def test_a_protocol_scores_the_whole_video_as_evaluation_does(folder, protocol, monkeypatch):
    monkeypatch.setattr(protocols, "PROTOCOLS", protocols.PROTOCOLS | SMALL)
    variables, meta = tiny.untrained(NAMES, eval__clips=2)
    predictor = predict.Predictor(loaded=(variables, meta))
    cfg = config.from_dict(meta["config"])
    with cfg.unlocked():
        cfg.eval.protocol = "" if protocol == "own" else protocol
    cfg = evaluate.with_protocol(cfg)
    section = data.options(cfg.data)
    for path, result in predictor.many(paths(folder, 0, 2), protocol=protocol):
        record = {"id": path, "path": path} | video.probe(path)
        indices = data.evaluated_clips(section, cfg.eval, record["num_frames"])
        views = data.read_views(section, cfg.eval, record, indices)
        batch = {"inputs": {key: x[None] for key, x in views.items()}, "mask": np.ones(1, np.float32)}
        batch["view_mask"] = np.ones((1, len(views["rgb"])), np.float32)
        expected = evaluate.eval_step(variables, batch, model=predictor.model, average=cfg.eval.average)["scores"][0]
        np.testing.assert_allclose(result["video"], expected, atol=1e-6)  # padded views change the order of sums
        assert np.abs(result["video"] - result["scores"].mean(0)).max() > 1e-4


def test_times_of_a_variable_rate_are_the_files(predictor, tmp_path):
    shown = np.cumsum(np.random.default_rng(0).integers(5, 90, 40))
    with av.open(str(tmp_path / "uneven.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number, time_shown in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(np.full((32, 40, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = int(time_shown), fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = predictor(tmp_path / "uneven.mp4", threshold=0.0)
    np.testing.assert_array_equal(found["frames"][:, 0], [0, 8, 16, 24, 32])
    np.testing.assert_allclose(found["start"], (shown[::8] - shown[0]) / 1000, rtol=1e-12)  # float64's rounding
    np.testing.assert_array_equal(found["end"][:-1], found["start"][1:])
    for one in found["segments"]:
        assert [one["start"], one["end"]] == found["times"][list(one["frames"])].tolist()


def test_a_file_without_times_has_those_of_25_pictures_a_second(predictor, tmp_path):
    with av.open(str(tmp_path / "bare.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for number in range(20):
            picture = np.full((32, 40, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    found = predictor(tmp_path / "bare.h264", stride="0.2s")
    np.testing.assert_allclose(found["start"], np.array([0, 5, 10, 12]) / 25, rtol=1e-12)  # float64's rounding


def test_a_turned_video_is_seen_upright(predictor, golden):
    seen = [predictor.inputs(golden / "video" / "awkward" / f"video_{degrees}.mov") for degrees in (90, 270)]
    record, indices = predictor.windows(str(golden / "video" / "awkward" / "video_90.mov"))
    assert (record["height"], record["width"]) == (568, 320)
    upright = video.read(record["path"], indices[0])
    cut = data.transforms.evaluate(upright, size=24, resize=0)
    np.testing.assert_allclose(seen[0][0], cut[0] / 255, atol=1e-6)
    assert seen[1].shape == seen[0].shape


def test_a_wrong_protocol_is_told_before_the_first_video(predictor):
    with pytest.raises(ValueError, match="no test protocol 'slowfast'; take slowfast_10x3"):
        predictor.many(["gone.mp4"], protocol="slowfast")
    with pytest.raises(evaluate.EvaluationError, match="averages the activation fc6"):
        predictor.many(["gone.mp4"], protocol="c3d_fc6")


def test_memory_does_not_grow_with_a_video(predictor, tmp_path, monkeypatch):
    """However long the file, so many windows and frames exist at once."""
    video.write(tmp_path / "long.mp4", (np.full((32, 40, 3), i % 256, np.uint8) for i in range(900)), fps=30)
    alive, lock, views = [0], threading.Lock(), many.windows.views

    def counted(*args):
        for made in views(*args):
            with lock:
                alive[0] += 1
            yield made

    taken, real = [], predictor.batch
    monkeypatch.setattr(many.windows, "views", counted)
    monkeypatch.setattr(predictor, "batch", lambda batch, step: taken.append(len(batch)) or real(batch))
    made = []

    def progress(done, known):
        made.append(alive[0] - done)

    ((_, result),) = predictor.many([str(tmp_path / "long.mp4")], progress=progress, threads=2)
    assert len(result["scores"]) == 113
    assert sum(taken) == 113
    assert max(made) <= many.depth(predictor) + 1 + 4 * predictor.at_once  # queued, at hand, in four batches


def test_turns_are_the_same_whoever_is_fast():
    def slow(name, count, seconds):
        for i in range(count):
            time.sleep(seconds)
            yield f"{name}{i}"

    def run(a, b, c):
        return list(turns.taken(collections.deque([slow("a", 3, a), slow("b", 1, b), slow("c", 2, c)]), 2, 2))

    expected = ["a0", "b0", "a1", "a2", "c0", "c1"]
    assert run(0.01, 0, 0) == run(0, 0.01, 0) == run(0, 0, 0.01)
    assert sorted(run(0, 0, 0)) == sorted(expected)


def test_what_is_added_meanwhile_has_its_turn():
    waiting = collections.deque([iter_of("a", 3)])
    seen = []
    for item in turns.taken(waiting, 2, 1):
        seen.append(item)
        if item == "a0":
            waiting.append(iter_of("b", 2))
    assert sorted(seen) == ["a0", "a1", "a2", "b0", "b1"]


def iter_of(name, count):
    yield from (f"{name}{i}" for i in range(count))


def test_an_iterators_exception_is_raised_and_all_threads_end():
    def bad():
        yield 1
        raise KeyError("bug")

    waiting = collections.deque([bad(), itertools.count()])
    with pytest.raises(KeyError, match="bug"):
        list(turns.taken(waiting, 2, 1))
    ended()


def test_leaving_early_ends_all_threads(predictor, folder):
    results = predictor.many(paths(folder, *range(6)))
    next(results)
    results.close()
    ended()


def ended():
    """Waits until no decoding thread is left."""
    until = time.monotonic() + 20
    while any(thread.name.startswith("decode") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_run_is_a_predictor(folder, tmp_path):
    import vidjax

    run = tiny.save_untrained(tmp_path / "run", NAMES)
    found = vidjax.predictor(run)(folder / "0.mp4")
    np.testing.assert_array_equal(found["scores"], predict.Predictor(str(run))(folder / "0.mp4")["scores"])
    assert vidjax.load(run).class_names == NAMES
