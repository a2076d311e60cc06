"""`vidjax predict --stream` as a whole: what is printed, which frames are seen, dropped and kept, and how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types

import numpy as np
import pytest
import tiny

from vidjax import checkpoint, data, evaluate, main, models
from vidjax.data import live as sources
from vidjax.data import video
from vidjax.predict import live
from vidjax.predict.live import latency, nets, rows

FRAMES, NAMES = 40, ["fall", "run", "wave"]
POOL = {"name": "frame_pool", "variant": "small", "fields": (("widths", (4, 4)), ("strides", (2, 2)))}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file of noise that darkens, 32 pixels square, 25 frames a second."""
    path, rng = tmp_path_factory.mktemp("clip") / "noise.mp4", np.random.RandomState(0)
    big = np.kron(rng.rand(8, 8, 3), np.ones((4, 4, 1)))
    video.write(path, np.stack([(255 * big * (1 - t / FRAMES)).astype(np.uint8) for t in range(FRAMES)]))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose net says `fall` where the last four of every second frame are bright, `run` where they are dark."""
    import jax

    folder = tmp_path_factory.mktemp("run")
    cfg = tiny.make_config("unused")
    cfg.model = POOL | {"mean": 0.0, "std": 1.0}
    cfg.data.clip.update({"size": 4, "stride": 2})
    net = models.build(cfg.model, num_classes=len(NAMES))
    variables = net.init(jax.random.key(0), np.zeros((1, 4, 24, 24, 3), np.float32), train=False)
    kernels = jax.tree.map(np.abs, variables["params"])
    seen = np.full((2, 4, 24, 24, 3), 0.25, np.float32) * np.float32([1, 2]).reshape(2, 1, 1, 1, 1)
    dark, grey = net.apply(variables | {"params": kernels}, seen, train=False)[1]["pre_logits"].sum(1).tolist()
    kernels["head"]["kernel"] = np.float32([[1, -1, 0]] * 4) * 20 / (grey - dark)
    kernels["head"]["bias"] = np.float32([-1, 1, 0]) * 10 * (grey + dark) / (grey - dark)
    meta = evaluate.meta(cfg, net, types.SimpleNamespace(classes=NAMES, multi_label=False))
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(0, variables | {"params": kernels}, {"step": np.int32(0)}, meta, wait=True)
    checkpoints.close()
    return str(folder)


def flags(run, *more):
    return ["predict", "--stream", "--nopace", f"--workdir={run}", *more]


def fake(seen, size=4, every=1):
    """A net of no computing that remembers the times of the rows it sees."""
    net = types.SimpleNamespace(size=size, every=every, waiting=2, recomputes=False)
    net.see, net.forget = (lambda row: seen.append(row.time)), (lambda: seen.append("anew"))
    net.scores = lambda short=False: np.ones(3)
    return net


def row(number, piece=0):
    return rows.Row({}, float(number), number + 1.0, time.monotonic(), piece)


def test_classes_go_to_stdout_and_how_it_goes_to_stderr(run, clip, capsys):
    assert main.main(flags(run, clip, "--top=1")) == 0
    out, err = capsys.readouterr()
    path, *lines = out.splitlines()
    assert path == clip
    assert [line.rpartition(" ")[0] for line in lines] == ["  up to    1.08 s    run", "  up to    1.56 s    run"]
    (line,) = err.splitlines()
    assert line.startswith(f"stream   {FRAMES} frames in ")
    assert f"the net's {FRAMES // 2}, dropped 0 of them; latency p50 " in line


def test_alarms_go_alone_to_stdout_or_to_a_file(run, clip, capsys, tmp_path):
    assert main.main(flags(run, clip, "--alarm=fall:on=0.6,off=0.5")) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["begin", "end"]
    begin, end = events
    assert begin["class"] == end["class"] == "fall"
    assert begin["start"] == end["start"] == 0.24  # the fourth of every second frame is that of 0.24 s
    assert end["source"] == clip
    assert 0.6 <= begin["score"] <= end["peak"] <= 1
    assert end["clock"].endswith("+00:00")
    file = tmp_path / "events.jsonl"
    (tmp_path / "alarms.json").write_text(json.dumps({"*": {"on": 0.6, "off": 0.5}}))
    for _ in range(2):  # added to what is there
        assert main.main(flags(run, clip, f"--alarms={tmp_path}/alarms.json", f"--events={file}")) == 0
    assert capsys.readouterr().out.splitlines()[0] == clip
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(event["event"], event["class"]) for event in found] == 2 * [
        ("begin", "fall"),
        ("end", "fall"),
        ("begin", "run"),
        ("end", "run"),
    ]
    assert found[1] | {"clock": 0} == end | {"clock": 0}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--alarm=fell"], "vidjax predict: --alarm: the net has no class 'fell'; the nearest is 'fall'"),
        (["--alarms=missing.json"], "vidjax predict: missing.json cannot be read as alarms"),
        (["--srt=."], "vidjax predict: --srt is for files that are read as a whole: leave it or --stream out."),
        (["--alarm=fall:of=1"], "fall has no key 'of'; did you mean 'off'?"),
    ],
)
def test_flags_that_cannot_be_meant(run, clip, more, sentence, capsys):
    assert main.main(flags(run, clip, *more)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err


def test_a_source_that_cannot_be_read_is_one_sentence_and_the_next_one_follows(run, clip, capsys):
    assert main.main(flags(run, "missing.mp4", clip)) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["missing.mp4", clip]
    assert "vidjax predict: missing.mp4: cannot be read as video (No such file or directory)\n" in err


def test_rows_wait_and_the_oldest_is_dropped():
    waiting = rows.Waiting(3, drop=True)
    waiting.fill(range(10), iter)
    assert (waiting.frames, waiting.chosen, waiting.dropped) == (10, 10, 7)
    assert list(waiting) == [(7, True), (8, True), (9, False)]


def test_without_dropping_the_source_waits():
    waiting = rows.Waiting(2, drop=False)
    rows.started(waiting, range(100), iter)
    assert [item for item, _ in waiting] == [*range(100)]
    assert waiting.dropped == 0


def test_an_error_of_the_source_comes_after_what_it_gave():
    def broken():
        yield from range(2)
        raise video.VideoError("camera 0: no picture comes any more")

    waiting = rows.Waiting(9, drop=True)
    waiting.fill(broken(), iter)
    found = iter(waiting)
    assert [next(found), next(found)] == [(0, True), (1, False)]
    with pytest.raises(video.VideoError, match="no picture comes"):
        next(found)


def test_whoever_waits_is_let_go_at_the_end():
    waiting, taken = rows.Waiting(1, drop=False), []
    one = rows.started(waiting, range(5), iter)  # waits for room
    other = rows.Waiting(1, drop=False)
    two = threading.Thread(target=lambda: taken.extend(other))  # waits for a row
    two.start()
    for each in (waiting, other):
        each.end(forget=True)
    one.join(10)
    two.join(10)
    assert not one.is_alive()
    assert not two.is_alive()
    assert taken == []


def test_frames_are_chosen_by_their_times():
    for fps, wanted in ((30, 12.5), (25, 25), (29.97, 10), (60, 7), (25, 24), (30, 5)):
        times = np.arange(3000) / fps
        choose = rows.at_rate(0, wanted)
        taken = np.array([t for n, t in enumerate(times) if choose(n, t)])
        due = np.arange(int(times[-1] * wanted) + 1) / wanted
        assert abs(len(taken) - len(due)) <= 1
        n = min(len(taken), len(due))
        assert np.abs(taken[:n] - due[:n]).max() <= 0.5 / fps + 1e-6  # the nearest frame there is


def test_of_a_slower_stream_every_frame_is_taken_once():
    choose = rows.at_rate(0, 25)
    assert all(choose(n, t) for n, t in enumerate(np.arange(100) / 12))


def test_a_pause_of_the_stream_is_not_made_up_for():
    choose, times = rows.at_rate(0, 5), [*np.arange(25) / 25, *(60 + np.arange(25) / 25)]
    taken = [t for n, t in enumerate(times) if choose(n, t)]
    assert np.diff(taken).min() >= 0.12
    assert len(taken) in (10, 11)


def test_a_break_makes_the_net_forget():
    waiting, seen = rows.Waiting(99, drop=True), []
    waiting.fill([row(0), row(1), row(2, 1), row(3, 1)], lambda frames: frames)
    found = list(live.stepped(fake(seen), waiting, skip=False))
    assert seen == ["anew", 0, 1, "anew", 2, 3]
    assert [(one.time, one.end, one.piece) for one in found] == [(0, 1, 0), (1, 2, 0), (2, 3, 1), (3, 4, 1)]


def test_windows_are_left_out_rather_than_frames():
    waiting, seen = rows.Waiting(99, drop=True), []
    waiting.fill(map(row, range(5)), lambda frames: frames)
    found = list(live.stepped(fake(seen), waiting, skip=True))
    assert seen == ["anew", 0, 1, 2, 3, 4]
    assert [one.time for one in found] == [4]


def test_latencies_in_the_same_memory():
    rng, times = np.random.default_rng(0), latency.Latencies()
    drawn = np.exp(rng.normal(-4, 1, 5000))
    for seconds in drawn:
        times.add(seconds)
    for share in (1, 50, 95, 99, 100):
        exact = np.percentile(drawn, share, method="inverted_cdf")
        assert exact <= times.percentile(share) * (1 + 1e-9) <= exact * 1.01 * (1 + 1e-9)
    assert times.counts.sum() == 5000
    assert latency.Latencies().describe() == "p50 0.0, p95 0.0, p99 0.0 ms"
    for odd in (0.0, 1e9):
        times.add(odd)


def test_hours_of_frames_need_the_memory_of_seconds(run, monkeypatch):
    """Raw frames without end through the whole of it; what is held is looked at after 300 and after 3,000 of them."""
    from vidjax import predict

    picture, held = np.zeros((32, 32, 3), np.uint8).tobytes(), []
    stop = threading.Event()

    def read(length):
        return picture if not stop.is_set() else b""

    monkeypatch.setattr(sources.sys, "stdin", types.SimpleNamespace(buffer=types.SimpleNamespace(read=read)))
    options = live.Options(raw="32x32@25", pace=False, rate=25.0)
    counts, found = live.begin(predict.Predictor(run), "-", options, stop)
    times = latency.Latencies()
    tracemalloc.start()
    try:
        for number, seen in enumerate(found):
            times.add(seen.latency)
            if number in (300, 3000):
                held.append(tracemalloc.get_traced_memory()[0])
            if number == 3000:
                break
    finally:
        tracemalloc.stop()
        stop.set()
        counts.end(forget=True)
    assert counts.frames > 3000
    assert held[1] - held[0] < 200_000  # bytes; 2,700 frames are 8 MB, their rows 5 MB


def test_signals_end_it_with_the_summary(run):
    """The whole program on raw frames that never end: SIGINT and SIGTERM."""
    code = "import sys; from vidjax import main; sys.exit(main.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        "predict",
        "--stream",
        "-",
        f"--workdir={run}",
        "--raw=32x32@25",
        "--rate=25",
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
        )
        feeding = threading.Thread(target=feed, args=(process.stdin,))
        feeding.start()
        assert process.stdout.readline() == b"-\n"
        assert process.stdout.readline().startswith(b"  up to ")
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 0
        feeding.join()
        assert err.splitlines()[-1].startswith(b"stream   ")
        assert b"Traceback" not in err
        process.stdout.close()
        process.stderr.close()
        assert out == b"" or out.splitlines()[-1].startswith(b"  up to ")


def feed(file):
    """Writes black frames until nobody reads them."""
    with contextlib.suppress(BrokenPipeError), file:
        while True:
            file.write(bytes(32 * 32 * 3))


def test_a_reader_that_goes_ends_it_quietly(run, clip):
    code = "import sys; from vidjax import main; sys.exit(main.main(sys.argv[1:]))"
    shell = f'"{sys.executable}" -c "{code}" predict --stream --nopace --workdir="{run}" "{clip}" "{clip}" | head -n 1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{clip}\n")
    assert "Error" not in done.stderr


def test_a_net_of_the_right_kind_is_warm_before_the_first_frame(run):
    from vidjax import predict

    predictor = predict.Predictor(run)
    net = nets.make(predictor)
    live.warm(net, rows.blank(predictor.section, predictor.meta["preprocess"]))
    compiled = net.read._cache_size(), net.features._cache_size()
    assert compiled == (1, 1)
    view = data.read_views(
        predictor.section,
        predictor.meta["preprocess"],
        {"id": "", "num_frames": 1, "forward": lambda *_: np.zeros((1, 40, 50, 3), np.uint8)},
        np.zeros((1, 1), int),
    )
    for _ in range(net.size):
        net.see(rows.Row(view, 0.0, 0.0, 0.0, 0))
    net.scores()
    assert (net.read._cache_size(), net.features._cache_size()) == compiled
