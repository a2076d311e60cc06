"""Launchers with the real program: on this machine, as Slurm's and Open MPI's tasks, and under Slurm itself."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest
import tiny

from vidjax import config, peers

LAUNCH = tiny.ROOT / "launch"
VIDJAX = [sys.executable, "-c", "import vidjax.main; vidjax.main.run()"]
CLUSTERS = ("SLURM", "OMPI", "JAX_COORDINATOR", "JAX_LOCAL", "KUBERNETES", "TPU_")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.render(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def workdir(videos, tmp_path):
    config.save(tiny.make_config(videos, log_every=1, mesh__data=2), str(tmp_path))
    return tmp_path


def environment(folder, **more):
    """This process's environment without any cluster's variables, with a `vidjax` that runs this code."""
    folder.mkdir(exist_ok=True)
    program = folder / "vidjax"
    program.write_text(f"#!{sys.executable}\n{VIDJAX[2]}\n")
    program.chmod(0o755)
    plain = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or not key.startswith(CLUSTERS)}
    path = f"{folder}:{os.environ['PATH']}"
    python = f"{tiny.ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return plain | {"PATH": path, "PYTHONPATH": python, "PAUSE": "0"} | more


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def tasks(command, workdir, each, **common):
    """Runs `vidjax COMMAND --coordinator=auto` once for the environment of each task: [(exit code, output)]."""
    words = [*VIDJAX, command, f"--workdir={workdir}", "--coordinator=auto"]
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            words,
            env=environment(workdir / "bin", **common, **port, **own),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for own in each
    ]
    try:
        return [(process.communicate(timeout=240)[0], process.returncode)[::-1] for process in started]
    finally:
        for process in started:
            process.kill()


def test_tasks_of_slurm_and_open_mpi_find_each_other(workdir):
    """Two processes with what Slurm tells its tasks train; two with what Open MPI 4 tells its own evaluate that."""
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    each = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    trained = tasks("train", workdir, each, **job)
    assert [code for code, _ in trained] == [0, 0], trained
    assert "step 8/8" in trained[0][1]
    assert "step 8/8" not in trained[1][1]  # one process of the two speaks
    before = json.loads((workdir / "report_8.json").read_text())
    (workdir / "report_8.json").unlink()
    job = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
    each = [{"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    evaluated = tasks("eval", workdir, each, **job)
    assert [code for code, _ in evaluated] == [0, 0], evaluated
    after = json.loads((workdir / "report_8.json").read_text())
    assert (after["top1"], after["loss"], after["confusion"]) == (before["top1"], before["loss"], before["confusion"])


@pytest.mark.parametrize(("own", "devices"), [(None, [1]), ("0,1,2,3", [0, 1, 2, 3])])
def test_a_task_of_slurm_takes_its_gpu_or_those_it_is_given(monkeypatch, own, devices):
    for key in [key for key in os.environ if key.startswith(CLUSTERS)]:
        monkeypatch.delenv(key)
    job = {"JOB_ID": "7", "STEP_NODELIST": "node[03-04],other", "NTASKS": "4", "PROCID": "3", "LOCALID": "1"}
    for key, value in job.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    if own:
        monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", own)
    assert peers.detect(10) == ("node03:61447", 4, 3, devices)


def test_local_sh_starts_a_killed_run_again_and_passes_a_stop_on(workdir):
    """`kill -9` of one of two, then TERM to the script; and an error, which starts nothing again."""
    env, log = environment(workdir / "bin"), workdir / "output.txt"
    local = [str(LAUNCH / "local.sh"), "2", f"--workdir={workdir}"]
    steps = ("--config.steps=1000", "--config.checkpoint_every=4", "--config.peers=5")
    said = lambda text: text in log.read_text()  # noqa: E731
    with open(log, "w") as file:
        run = subprocess.Popen([*local, *steps], stdout=file, stderr=file, env=env, start_new_session=True)
        try:
            wait(run, lambda: said("step 6/1000"), log)
            kill(f"--workdir={workdir}", "--process=1")
            wait(run, lambda: said("continuing from step"), log)  # on which of the two came last
            wait(run, lambda: "loss" in log.read_text().rpartition("continuing")[2], log)
            run.terminate()
            assert run.wait(120) == 75, log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, 9)
        wrong = subprocess.run([*local, "--config.stepz=8"], stdout=file, stderr=file, env=env, timeout=240)
    assert said("process 1 on")
    assert said("was lost")
    assert log.read_text().count("starting it again") == 1
    assert wrong.returncode == 1
    assert said("the config has no key 'stepz'")


def wait(process, condition, log):
    while not condition():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)


def kill(*words):
    """`kill -9` of the one process whose command has these words."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if set(words) < set(command) and "python" in command[0]:
            os.kill(int(folder.name), 9)
            return
    raise AssertionError(f"no process with {words}")


def test_slurm_itself(workdir):
    """Two tasks to their end, by launch/slurm.sh."""
    asked = shutil.which("sinfo") and subprocess.run(
        ["timeout", "10", "sinfo", "-h", "-t", "idle,mix"], capture_output=True
    )
    if not asked or asked.returncode or not asked.stdout:
        pytest.skip("no Slurm with an idle node answers here (sinfo); slurm.sh is tested with stand-ins")
    words = ["sbatch", "--wait", "--ntasks=2", "--time=5", f"--output={workdir}/slurm.log"]
    env = environment(workdir / "bin")
    done = subprocess.run([*words, LAUNCH / "slurm.sh", f"--workdir={workdir}"], env=env, timeout=240, check=False)
    assert done.returncode == 0, (workdir / "slurm.log").read_text()
    assert json.loads((workdir / "report_8.json").read_text())["step"] == 8
