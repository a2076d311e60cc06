"""The logs: read back from TensorBoard and JSONL, resumed, torn; progress on a terminal and off it."""

import io
import json
import logging
import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import rich.console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidjax import logs, progress


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def events(workdir):
    read = EventAccumulator(str(workdir / "tb"))
    read.Reload()
    return read


def test_scalars_texts_and_images_read_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    writer = logs.writer(tmp_path)
    writer.write_scalars(3, {"loss": jax.numpy.float32(2.5), "größe": 7})
    writer.write_texts(3, {"config": "# hello"})
    writer.write_images(3, {"clip": image})
    writer.write_histograms(3, {"kernel": np.arange(10.0)})
    on_disk = events(tmp_path)  # before close: a killed run leaves as much
    writer.close()
    assert [(e.step, e.value) for e in on_disk.Scalars("loss")] == [(3, 2.5)]
    assert on_disk.Tensors("config")[0].tensor_proto.string_val == [b"# hello"]
    assert on_disk.Images("clip/image/1")[0].width == 6
    assert on_disk.Tensors("kernel")[0].step == 3
    (line,) = lines(tmp_path)
    assert {k: line[k] for k in ("step", "loss", "größe")} == {"step": 3, "loss": 2.5, "größe": 7}
    assert line["time"] > 1.6e9


def test_a_resumed_run_drops_later_steps_and_repairs_a_torn_line(tmp_path):
    writer = logs.writer(tmp_path)
    for step in (10, 20, 30):
        writer.write_scalars(step, {"loss": step / 10})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    time.sleep(1.1)  # event files are read in the order of their names, which tell seconds
    writer = logs.writer(tmp_path, step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    writer.write_scalars(30, {"loss": 9.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 1.0), (20, 2.0), (30, 9.0)]
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("loss")] == [(10, 1.0), (20, 2.0), (30, 9.0)]


def test_reopening_without_a_step_keeps_every_whole_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0, "x": 1}\n{"step": 9, "time": 0, "x": 2}')
    writer = logs.writer(tmp_path)
    writer.write_scalars(2, {"x": float("nan")})
    writer.close()
    assert [(line["step"], line["x"]) for line in lines(tmp_path)] == [(1, 1), (9, 2), (2, None)]


def test_only_process_0_writes(tmp_path):
    writer = logs.writer(tmp_path, main=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence(tmp_path):
    writer = logs.LineWriter(tmp_path / "metrics.jsonl")
    writer._file.close()
    writer._file = open("/dev/full", "a")  # noqa: SIM115 - closed below
    with pytest.raises(OSError, match=r"Cannot write .*metrics.jsonl: No space left on device; free some space"):
        writer.write_scalars(1, {"loss": 1.0})
    with pytest.raises(OSError):
        writer.close()


def test_neither_tensorflow_nor_jax_is_imported_before_its_turn(tmp_path):
    code = (
        "import sys; from vidjax import logs; assert 'jax' not in sys.modules;"
        f"writer = logs.writer({str(tmp_path)!r}); writer.write_texts(1, {{'a': 'b'}}); writer.close();"
        "import clu.periodic_actions; assert 'tensorflow' not in sys.modules"
    )
    (tmp_path / "tensorflow.py").write_text("raise SystemError('TensorFlow was imported')")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_overview_lists_shapes_and_the_total():
    tree = {"params": {"stem": {"kernel": jax.ShapeDtypeStruct((3, 4), "float32")}}, "batch_stats": {"m": np.zeros(5)}}
    table = logs.overview(tree)
    assert "params/stem/kernel" in table
    assert "(3, 4)" in table
    assert "Total: 17" in table


def run_of(console, steps=6):
    with logs.Progress(steps, console=console, log_every=3) as shown:
        for step in range(1, steps + 1):
            shown.update(step, loss=1.934, accuracy=0.25, clips_per_second=213.4, input_wait=0.012, rate=0.1)
            if step == 4:
                shown.message("halfway [bold]:smile:")
    return console.file.getvalue()


def test_plain_progress_is_a_line_every_few_steps():
    text = run_of(rich.console.Console(file=io.StringIO())).splitlines()
    fact = "loss 1.93  top-1 25.0 %  213 clips/s  input 1.2 %  rate 0.1"
    assert text[0].startswith(f"step 3/6  {fact}  0.0 s left")
    assert text[1:] == ["halfway [bold]:smile:", f"step 6/6  {fact}"]


def test_plain_progress_counts_from_where_it_starts():
    console = rich.console.Console(file=io.StringIO())
    with logs.Progress(600, start=95, console=console, log_every=100) as shown:
        for step in (97, 99, 101, 103):
            shown.update(step, loss=1.0)
    assert [line.split("  ")[0] for line in console.file.getvalue().splitlines()] == ["step 101/600"]


def test_a_terminal_gets_a_bar_and_a_nested_track_joins_it():
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with logs.Progress(2, console=console) as shown:
        shown.update(1, loss=1.0)
        assert list(logs.track([5, 6], "Evaluating")) == [5, 6]
        shown.update(2, loss=0.5)
    text = console.file.getvalue()
    assert "━" in text
    assert "Evaluating: 2 videos in" in text
    assert text.rstrip().endswith("step 2/2  loss 0.5")
    assert not progress._shown


@pytest.mark.parametrize("terminal", [False, True])
def test_track_yields_everything_and_says_the_rate(terminal):
    console = rich.console.Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm"})
    assert list(logs.track(3, "Indexing", console=console, every=0)) == [0, 1, 2]
    assert list(logs.track(iter("ab"), "Reading", unit="files", console=console, every=0)) == ["a", "b"]
    text = console.file.getvalue()
    assert re.search(r"Indexing: 3 videos in \d+\.?\d* s", text)
    assert re.search(r"Reading: 2 files in \d+\.?\d* s", text)
    assert ("Indexing: 2/3 videos" in text) != terminal
    assert not progress._shown


def test_a_notebook_gets_plain_lines_on_standard_output(monkeypatch):
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream", "isatty": lambda self: True})
    shown, red = stream(), stream()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", red)
    with logs.Progress(1) as training:
        assert list(logs.track(2, "Reading")) == [0, 1]
        training.update(1, loss=1.0)
    first, last = shown.getvalue().splitlines()
    assert first.startswith("Reading: 2 videos in ")
    assert last == "step 1/1  loss 1"
    assert red.getvalue() == ""


def test_track_is_silent_on_other_processes(capsys):
    assert list(logs.track(3, "Indexing", main=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.7, "1 min 00 s"), (130, "2 min 10 s"), (11110, "3 h 05 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_log_lines_are_short_and_not_doubled(capsys):
    from absl import logging as absl_logging

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        root.addHandler(absl_logging.get_absl_handler())
        logs.setup()
        logs.setup()
        logging.getLogger("vidjax.train").info("Continuing at step 5")
        logging.getLogger("orbax").info("noise")
        absl_logging.info("noise")
        absl_logging.warning("a file is slow")
        assert capsys.readouterr().err == "Continuing at step 5\nwarning: a file is slow\n"
    finally:
        root.handlers[:], root.level = before[0], before[1]
