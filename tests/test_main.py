"""The command line: help that reads well, errors of one sentence, the commands a user types."""

import json
import math
import shutil

import pytest
import tiny

from vidjax import config, data_main, main, models


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def workdir(videos, tmp_path_factory):
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("run")
    config.save(tiny.make_config(videos, steps=2, optim__warmup=1), str(workdir))
    assert main.main(["train", f"--workdir={workdir}"]) == 0
    return workdir


def fails(capsys, *words):
    """The one line that a command prints when it fails."""
    assert main.main(list(words)) != 0
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_lists_every_command(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"vidjax {name} " in text for name in main.COMMANDS)


EACH = sorted({*main.COMMANDS, *(f"data {name}" for name in data_main.COMMANDS)} - {"data"})


@pytest.mark.parametrize("command", EACH)
def test_each_commands_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"    vidjax {command}" in text or f"\nvidjax {command}" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_unknown_command_and_flag_name_the_nearest(capsys, workdir):
    assert "did you mean 'train'" in fails(capsys, "trian")
    assert "Did you mean: step" in fails(capsys, "eval", f"--workdir={workdir}", "--stp=3")


def test_unknown_config_key_names_the_nearest(capsys, workdir):
    line = fails(capsys, "train", f"--workdir={workdir}", "--config.optim.lrr=1")
    assert line == "vidjax train: the config has no key 'optim.lrr'; the nearest is 'optim.lr'."
    assert "'data.batch_size'" in fails(capsys, "eval", f"--workdir={workdir}", "--config.data.batchsize=1")


def test_value_of_the_wrong_type_names_its_key(capsys, workdir):
    assert "config.steps" in fails(capsys, "train", f"--workdir={workdir}", "--config.steps=many")


def test_missing_config_run_and_checkpoint_are_sentences(capsys, tmp_path):
    assert "no config file configs/none.py" in fails(
        capsys, "train", "--config=configs/none.py", f"--workdir={tmp_path}"
    )
    assert "give --config to start one" in fails(capsys, "train", f"--workdir={tmp_path}")
    assert "no checkpoint in" in fails(capsys, "eval", f"--workdir={tmp_path}")
    assert "give --workdir=DIR" in fails(capsys, "train", "--config=configs/quickstart.py")


def test_eval_prints_trainings_line(capsys, workdir):
    assert main.main(["train", f"--workdir={workdir}"]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert main.main(["eval", f"--workdir={workdir}", "--step=2"]) == 0
    evaluated = capsys.readouterr().out.splitlines()
    assert evaluated[-2:] == trained[-3:-1]
    assert trained[-1].startswith("try      vidjax predict ")
    assert "no checkpoint 7" in fails(capsys, "eval", f"--workdir={workdir}", "--step=7")


def test_predict_names_classes_with_their_times(capsys, workdir, videos):
    file = sorted(videos.glob("eval/*/*.mp4"))[0]
    assert main.main(["predict", str(file), f"--workdir={workdir}", "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    name, whole, *windows = (line for line in lines if "segment" not in line)
    assert name == str(file)
    assert whole.split()[:2] == ["whole", "video"]
    assert windows[0].split()[:3] == ["0.00", "-", "0.67"]  # 8 frames at 12 frames a second
    assert all(line.count("%") == 2 for line in (whole, *windows))


def test_predict_skips_a_broken_file_and_says_so(capsys, workdir, videos, tmp_path):
    shutil.copy(sorted(videos.glob("eval/*/*.mp4"))[0], tmp_path / "good one.mp4")
    (tmp_path / "empty.mp4").touch()
    assert main.main(["predict", str(tmp_path), f"--workdir={workdir}"]) == 1
    text = capsys.readouterr()
    assert "good one.mp4" in text.out
    assert "empty.mp4" in text.err
    assert "skipped" in text.err
    assert "does not exist" in fails(capsys, "predict", str(tmp_path / "none.mp4"), f"--workdir={workdir}")


def test_predict_refuses_what_it_would_not_heed(capsys, workdir, videos):
    file = str(sorted(videos.glob("eval/*/*.mp4"))[0])
    assert "config.eval.crops" in fails(capsys, "predict", file, f"--workdir={workdir}", "--config.eval.crops=3")
    assert "--workdir=DIR" in fails(capsys, "predict", file)


def test_models_lists_every_variant_of_what_is_asked(capsys, monkeypatch):
    assert main.main(["models", "s3d", "flow_gated"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(models.family("s3d").SIZES) + len(models.family("flow_gated").SIZES)
    assert any("8,320,048" in line for line in lines)
    size = lambda name, variant: {"name": name, "variant": variant}  # noqa: E731, counting all takes minutes
    monkeypatch.setattr(models, "size", size)
    assert {row["name"] for row in models.table()} == set(models.names())


def test_data_commands(capsys, videos, tmp_path):
    assert main.main(["data", "index", str(videos)]) == 0
    assert "53 videos, 53 readable" in capsys.readouterr().out
    assert "did you mean 'motion'" in fails(capsys, "data", "motoin")
    assert "--out is missing" in fails(capsys, "data", "motion")
    assert main.main(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"vidjax data {name} " in text for name in data_main.COMMANDS)
    assert all(len(line) <= 120 for line in text.splitlines())


def test_users_own_folder_needs_only_its_path(videos, tmp_path):
    """The motion suite's config with `data.path` set reads that folder, held-out split and all."""
    for file in sorted(videos.glob("train/*/*.mp4")):
        kind = "walk" if file.parent.name in ("left", "right", "up", "down") else "turn"
        (tmp_path / "mine" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "mine" / kind / f"{file.parent.name}{file.name}")
    words = [
        "--config=" + str(tiny.ROOT / "configs" / "quickstart.py:smoke"),
        f"--config.data.path={tmp_path / 'mine'}",
    ]
    small = [
        "--config.mesh.data=1",
        "--config.steps=2",
        "--config.optim.warmup=1",
        "--config.eval.size=24",
        "--config.data.augment.size=24",
    ]
    assert main.main(["train", *words, *small, f"--workdir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report_2.html").exists()


def test_data_sets_are_built_checked_and_given_flow(capsys, videos, tmp_path):
    small = tmp_path / "small"
    for kind in ("left", "right"):
        (small / kind).mkdir(parents=True)
        for file in sorted((videos / "train" / kind).glob("*.mp4"))[:3]:
            shutil.copy(file, small / kind)
    (small / "left" / "broken.mp4").write_bytes(b"no video")
    assert main.main(["data", "build", "--dataset=folder", f"--source={small}", f"--out={tmp_path / 'built'}"]) == 1
    text = capsys.readouterr().out
    assert "6 videos in" in text
    assert "unreadable left/broken.mp4" in text
    assert main.main(["data", "check", str(small), f"--csv={tmp_path / 'odd.csv'}"]) == 1
    assert "1 broken" in capsys.readouterr().out
    assert "left/broken.mp4" in (tmp_path / "odd.csv").read_text()
    assert main.main(["data", "check", str(tmp_path / "built")]) == 0
    for method, algorithm in (("dis", "vidjax.data.flow.dis"), ("horn_schunck", "vidjax.flow.host.flow")):
        out = tmp_path / method
        assert main.main(["data", "flow", str(tmp_path / "built"), f"--out={out}", f"--method={method}"]) == 0
        assert "fields of 6 videos" in capsys.readouterr().out
        assert json.loads((out / "manifest.json").read_text())["algorithm"] == algorithm
    assert "no method 'hs'" in fails(capsys, "data", "flow", str(small), f"--out={tmp_path / 'x'}", "--method=hs")
    assert "did you mean 'ucf101'" in fails(
        capsys, "data", "build", "--dataset=ucf11", f"--source={small}", f"--out={tmp_path / 'y'}"
    )
    config_file = f"--config={tiny.ROOT / 'configs' / 'quickstart.py:smoke'}"
    words = [config_file, f"--config.data.path={tmp_path / 'built'}", "--config.data.source=records"]
    words += ["--workers=0", "--seconds=0.2", "--config.data.batch_size=2"]
    assert main.main(["data", "bench", *words]) == 0
    text = capsys.readouterr().out
    assert all(stage in text for stage in ("decode", "transform", "transfer", "0 workers", "steps/s of batch 2"))


def test_a_series_is_foretold(tmp_path, capsys):
    rows = "\n".join(f"{math.sin(i / 5):.5f}" for i in range(200))
    (tmp_path / "wave.csv").write_text(f"height\n{rows}\n")
    assert main.main(["series", str(tmp_path / "wave.csv"), "--window=8", "--epochs=20"]) == 0
    words = capsys.readouterr().out.replace(")", "").split()
    assert float(words[3]) < float(words[-1])  # the error, and that of no change
    assert fails(capsys, "series").startswith("vidjax series: give one CSV file of numbers")
