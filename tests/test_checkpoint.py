"""Checkpoints: exact round trips on any mesh; damage, full disks and kills never give wrong or half values."""

import gc
import logging
import os
import pathlib
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.experimental.multihost_utils
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vidjax import checkpoint
from vidjax.checkpoint import CheckpointError, Checkpoints, errors

META = {"config": {"model": {"name": "r3d", "variant": "r3d_18"}, "lr": 0.1}, "class_names": ["rolling", "öffnen"]}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def bundle(seed=0, width=24, tx=TX):
    """(variables, train): float32, bfloat16, bool and int32 leaves, an optax state of NamedTuples."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    params = {"stem": {"kernel": draw(16, width), "bias": draw(width).astype(jnp.bfloat16)}, "head": draw(width, 8)}
    variables = jax.tree.map(
        jnp.asarray, {"params": params, "batch_stats": {"mean": draw(width), "on": rng.random(8) > 0.5}}
    )
    opt_state = jax.tree.map(lambda x: x + 1, tx.init(variables["params"]))
    return variables, {"step": jnp.int32(seed), "opt_state": opt_state}


def abstract(variables, train, sharding=None):
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)  # noqa: E731
    return jax.tree.map(place, {"variables": variables, "train": train})


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def mesh_sharding(*shape):
    mesh = jax.make_mesh(
        shape, ("x", "y"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[: shape[0] * shape[1]]
    )
    return lambda tree: jax.tree.map(
        lambda leaf: NamedSharding(mesh, PartitionSpec(*("x", "y")[: leaf.ndim]) if leaf.ndim else PartitionSpec()),
        tree,
    )


def saved(workdir, *steps, **kw):
    """A closed workdir with these steps, step n holding bundle(n)."""
    checkpoints = Checkpoints(workdir, **kw)
    for step in steps:
        checkpoints.save(step, *bundle(step), META)
    checkpoints.close()
    return pathlib.Path(workdir) / "checkpoints"


def largest(folder, name="variables"):
    return max((p for p in (folder / name).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_round_trip(tmp_path):
    checkpoints, (variables, train) = Checkpoints(tmp_path), bundle(3)
    assert checkpoints.restore(abstract(variables, train)) is None
    checkpoints.save(3, variables, train, META, {"top1": 0.5})
    got_variables, got_train, meta, step = checkpoints.restore(abstract(variables, train))
    same((got_variables, got_train), (variables, train))
    assert step == meta["step"] == checkpoints.latest_step() == checkpoints.best_step() == 3
    assert {k: meta[k] for k in META} == META
    assert meta["metrics"] == {"top1": 0.5}
    assert set(meta["checksums"]) >= {
        "variables/params/stem/kernel",
        "train/opt_state/1/0/mu/stem/kernel",
        "train/step",
    }
    assert checkpoint.read_meta(tmp_path) == meta
    checkpoints.save(3, *bundle(4), META)
    checkpoints.close()
    loaded, _, _ = checkpoint.load_variables(tmp_path)
    same(loaded, variables)


def test_any_mesh(tmp_path):
    variables, train = bundle(1)
    sums = checkpoint.checksums({"k": variables["params"]["stem"]["kernel"]})
    for step, shape in enumerate([(8, 1), (2, 4), (1, 1)], start=1):
        places = mesh_sharding(*shape)
        tree = {"variables": variables, "train": train}
        structs = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places(tree))
        checkpoints = Checkpoints(tmp_path)
        if found := checkpoints.restore(structs):
            same(found[:2], (variables, train))
            assert found[0]["params"]["head"].sharding.is_equivalent_to(places(variables)["params"]["head"], 2)
        tree = jax.device_put(tree, places(tree))
        assert checkpoint.checksums({"k": tree["variables"]["params"]["stem"]["kernel"]}) == sums
        checkpoints.save(step, tree["variables"], tree["train"], META)
        checkpoints.close()
    one = jax.sharding.SingleDeviceSharding(jax.devices()[5])
    for shardings in (None, one, mesh_sharding(4, 2), mesh_sharding(4, 2)(variables)):
        loaded, meta, step = checkpoint.load_variables(tmp_path, shardings=shardings)
        same(loaded, variables)
        assert step == 3
    assert checkpoint.load_variables(tmp_path, 2, one)[0]["params"]["head"].sharding == one


def test_checksum_sees_any_single_bit_and_any_order():
    for dtype in ("float32", "bfloat16", "float16", "int8", "int64", "float64", "complex64", "bool", "float8_e4m3fn"):
        x = np.zeros((3, 5), jnp.dtype(dtype))
        seen = {checkpoint.checksums({"x": x})["x"]}
        for bit in range(1 if dtype == "bool" else 8 * x.itemsize):
            for place in (0, 7, 14):
                y = bytearray(x.tobytes())
                y[place * x.itemsize + bit // 8] ^= 1 << bit % 8
                seen.add(checkpoint.checksums({"x": np.frombuffer(y, x.dtype).reshape(3, 5)})["x"])
        assert len(seen) == 1 + 3 * (1 if dtype == "bool" else 8 * x.itemsize), dtype
    x = np.arange(6, dtype=np.float32)
    assert checkpoint.checksums({"x": x}) != checkpoint.checksums({"x": x[::-1].copy()})


def test_arrays_may_be_donated_at_once(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"w": jnp.zeros((512, 512))}
    checkpoints = Checkpoints(tmp_path, keep=9)
    for n in range(4):
        checkpoints.save(n, {"params": tree}, {"step": jnp.int32(n)}, {})
        for _ in range(5):
            tree = step(tree)
    checkpoints.close()
    for n in range(4):
        assert (checkpoint.load_variables(tmp_path, n)[0]["params"]["w"] == 5 * n).all()


def test_single_bit_flips_are_never_silent(tmp_path):
    folder, (variables, train) = saved(tmp_path, 1) / "1", bundle(1)
    rng, outcome = random.Random(0), {"checksum": 0, "error": 0, "harmless": 0}
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)[:6]
    reader = Checkpoints(tmp_path, write=False)
    for trial in range(60):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        flip(path, rng.randrange(8 * len(whole)))
        try:
            same(reader.restore(abstract(variables, train), 1)[:2], (variables, train))
            outcome["harmless"] += 1
        except CheckpointError as e:
            outcome["checksum" if "do not match" in str(e) else "error"] += 1
        path.write_bytes(whole)
    same(reader.restore(abstract(variables, train), 1)[:2], (variables, train))
    assert outcome["checksum"] >= 5, outcome
    assert outcome["error"] >= 5, outcome


def test_flipped_meta_is_noticed(tmp_path):
    path = saved(tmp_path, 1) / "1" / "meta" / "metadata"
    path.write_text(path.read_text().replace("rolling", "rollinG"))
    with pytest.raises(CheckpointError, match="checkpoint 1 in .* is damaged: .*meta.* does not match its checksum"):
        checkpoint.read_meta(tmp_path, 1)
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        checkpoint.load_variables(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
def test_truncated_and_deleted_files(tmp_path, damage, caplog):
    folder, (variables, train) = saved(tmp_path, 1) / "1", bundle(1)
    reader, errors = Checkpoints(tmp_path, write=False), 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncate" else b"")
        if damage == "delete":
            path.unlink()
        try:
            same(reader.restore(abstract(variables, train), 1)[:2], (variables, train))
        except CheckpointError as e:
            errors += bool(
                re.search(r"checkpoint 1 in .* is damaged: .*(variables|train|meta).* cannot be read", str(e))
            )
        path.write_bytes(whole)
    gc.collect()
    assert errors >= 5
    assert not caplog.records, "the exception is all there is to read"


def test_swapped_steps_are_noticed(tmp_path):
    folder = saved(tmp_path, 1, 2)
    for name in ("1", "2"):
        (folder / name).rename(folder / f"x{name}")
    (folder / "x1").rename(folder / "2")
    (folder / "x2").rename(folder / "1")
    with pytest.raises(CheckpointError, match="no intact checkpoint: checkpoint 2 .*; checkpoint 1 "):
        checkpoint.load_variables(tmp_path)


def test_fallback_moves_the_damaged_step_aside(tmp_path, caplog):
    folder, caught = saved(tmp_path, 1, 2, 3), []
    (folder / "3" / "meta" / "metadata").unlink()
    variables = bundle(2)[0]
    path = largest(folder / "2")
    for bit in range(4000, 8 * path.stat().st_size, 4001):  # a flip that only the checksum notices
        flip(path, bit)
        try:
            checkpoint.load_variables(tmp_path, 2)
        except CheckpointError as e:
            caught.append(str(e))
            if "do not match" in str(e):
                break
        flip(path, bit)
    assert "checkpoint 2 " in caught[-1]
    assert "the first is variables/params/" in caught[-1]
    reader = Checkpoints(tmp_path, write=False)
    assert reader.steps() == [1, 2]
    with caplog.at_level(logging.WARNING, "vidjax"):
        same(reader.restore(abstract(*bundle(1)))[:2], bundle(1))
        same(checkpoint.load_variables(tmp_path)[0], bundle(1)[0])
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "3"]
    assert len(caplog.messages) == 4
    assert caught[-1] + "; continuing from checkpoint 1" in caplog.messages

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint 2 in .* is damaged"):
        checkpoints.restore(abstract(*bundle(1)), 2)
    assert checkpoints.restore(abstract(*bundle(1)))[3] == 1
    assert sorted(p.name for p in folder.iterdir()) == ["1", "damaged_2", "damaged_3"]
    checkpoints.save(2, *bundle(2), META, wait=True)
    same(checkpoints.restore(abstract(*bundle(1)))[:2], bundle(2))
    checkpoints.close()
    assert variables["params"]["head"].shape == (24, 8)


def test_without_an_intact_step_nothing_moves(tmp_path):
    folder = saved(tmp_path, 1)
    (folder / "1" / "meta" / "metadata").write_text("{}")
    with pytest.raises(CheckpointError, match="no intact checkpoint: checkpoint 1 .* use another --workdir"):
        Checkpoints(tmp_path).restore(abstract(*bundle()))
    assert [p.name for p in folder.iterdir()] == ["1"]


def test_torn_steps_and_leftovers(tmp_path):
    folder = saved(tmp_path, 1, 2)
    (folder / "1").rename(folder / "5.orbax-checkpoint-tmp")
    (folder / "7" / "variables").mkdir(parents=True)
    (folder / "0.deleted" / "meta").mkdir(parents=True)
    assert Checkpoints(tmp_path, write=False).steps() == [2]
    assert len(list(folder.iterdir())) == 4
    checkpoints = Checkpoints(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["2", "7"]
    assert checkpoints.latest_step() == 2
    checkpoints.save(7, *bundle(7), META)
    assert checkpoints.restore(abstract(*bundle()))[3] == 7
    checkpoints.close()
    assert sorted(p.name for p in folder.iterdir()) == ["2", "7", "damaged_7"]


def test_keeps_newest_and_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, top1 in enumerate([0.1, 0.9, 0.3, None, float("nan"), 0.2], start=1):
        checkpoints.save(step, *bundle(step), META, None if top1 is None else {"top1": top1})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.best_step() == 2
    checkpoints.save(7, *bundle(7), META, {"top1": 0.95}, wait=True)
    assert checkpoints.steps() == [6, 7]
    checkpoints.close()
    plain = Checkpoints(tmp_path / "plain", keep=1)
    plain.save(1, *bundle(1), META)
    plain.save(2, *bundle(2), META)
    plain.close()
    assert plain.steps() == [2]
    assert plain.best_step() is None


def test_full_disk(tmp_path):
    """RLIMIT_FSIZE needs no privileges: the background writes fail, as on a full disk, after save() has returned."""
    checkpoints, folder = Checkpoints(tmp_path), tmp_path / "checkpoints"
    checkpoints.save(1, *bundle(1), META, wait=True)
    big = {"params": {"w": jnp.asarray(np.random.default_rng(0).random((300, 300), np.float32))}}

    def fail(close):
        checkpoints.save(2, big, {"step": jnp.int32(2)}, META)
        close()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for close in (checkpoints.wait, lambda: checkpoints.save(3, *bundle(3), META), checkpoints.close):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(CheckpointError, match="write checkpoint 2 in .*: File too large; earlier .* intact"):
                fail(close)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [p.name for p in folder.iterdir()] == ["1"]
    same(checkpoints.restore(abstract(*bundle()))[:2], bundle(1))
    checkpoints.save(2, big, {"step": jnp.int32(2)}, META)
    checkpoints.close()
    same(checkpoint.load_variables(tmp_path)[0], big)


def test_full_disk_is_named():
    for error in (OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='28']")):
        assert errors.reason(error) == "no space left on the device"


def test_another_model(tmp_path):
    saved(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError) as e:
        checkpoints.restore(abstract(*bundle(width=32)))
    assert "variables/params/head is float32[24, 8] instead of float32[32, 8]" in str(e.value)
    assert "this workdir holds another model (r3d/r3d_18); use another --workdir or its own --config" in str(e.value)
    assert str(e.value).count(" instead of ") == 3
    variables, train = bundle()
    renamed = {**variables, "params": {"stem": variables["params"]["stem"], "tail": variables["params"]["head"]}}
    with pytest.raises(CheckpointError, match="variables/params/tail is missing, variables/params/head is extra"):
        checkpoints.restore(abstract(renamed, train))
    half = {**variables, "batch_stats": jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["batch_stats"])}
    with pytest.raises(CheckpointError, match="float32.24. instead of bfloat16.24.*another model"):
        checkpoints.restore(abstract(half, train))
    with pytest.raises(CheckpointError, match="another optimizer"):
        checkpoints.restore(abstract(*bundle(tx=optax.sgd(0.1, momentum=0.9))))
    assert checkpoints.steps() == [1]


def test_no_checkpoint(tmp_path):
    for read in (checkpoint.load_variables, checkpoint.read_meta):
        with pytest.raises(CheckpointError, match="no checkpoint in .*; train first"):
            read(tmp_path)
    saved(tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"no checkpoint 5 in .*; there are \[4\]"):
        checkpoint.load_variables(tmp_path, 5)
    with pytest.raises(CheckpointError, match="opened for reading only"):
        Checkpoints(tmp_path, write=False).save(5, *bundle(), META)


def test_wait_for_new(tmp_path):
    assert checkpoint.wait_for_new(tmp_path, -1, timeout=0.05, poll=0.01) is None
    found = []
    thread = threading.Thread(target=lambda: found.append(checkpoint.wait_for_new(tmp_path, 1, timeout=20, poll=0.01)))
    folder = saved(tmp_path, 0, 1)
    (folder / "3" / "variables").mkdir(parents=True)
    (folder / "2.orbax-checkpoint-tmp" / "meta").mkdir(parents=True)
    (folder / "2.orbax-checkpoint-tmp" / "meta" / "metadata").write_text("{}")
    thread.start()
    time.sleep(0.2)
    assert not found
    saved(tmp_path, 2, 4)
    thread.join()
    assert found == [2]
    assert checkpoint.wait_for_new(tmp_path, 2, timeout=0) == 4
    assert checkpoint.wait_for_new(tmp_path, 4, timeout=0) is None


def child(*args, **kw):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    command = [sys.executable, __file__, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


def kill_trial(workdir, rng):
    """Kills a process that saves step after step, at a random moment; returns (newest announced, restored) steps."""
    process = child("save", workdir)
    last = 0
    for line in process.stdout:
        last = int(line)
        if last >= 2 and rng.random() < 0.3:
            break
    time.sleep(rng.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    last = max([last, *map(int, process.stdout.read().split())])
    process.communicate()
    variables, train, _, step = Checkpoints(workdir).restore(abstract(*bundle(0, 256)))
    same((variables, train), bundle(step, 256))
    names = {p.name for p in (pathlib.Path(workdir) / "checkpoints").iterdir()}
    assert all(name.isdecimal() for name in names), names
    return last, step


def test_kill_during_saves(tmp_path):
    rng = random.Random(os.getpid())
    for trial in range(3):
        last, step = kill_trial(tmp_path / str(trial), rng)
        assert step >= last - 1, "more than the save in progress was lost"


def test_two_processes(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    pair = [child("pair", tmp_path, port, rank) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert all(out.endswith("ok\n") for out, _ in outputs), outputs
    same(checkpoint.load_variables(tmp_path, 2)[0], bundle(2, 512)[0])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3", "damaged_3"]


def save_for_ever(workdir):
    assert "orbax.checkpoint" not in sys.modules, "importing vidjax.checkpoint must stay cheap"
    checkpoints = Checkpoints(workdir, keep=2)
    for step in range(10_000):
        checkpoints.save(step, *bundle(step, 256), META)
        print(step, flush=True)


def pair(workdir, port, rank):
    """One of two processes with two devices each: save, damage, fall back together, save again, prune."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
    checkpoints = Checkpoints(workdir, keep=2)
    for step in (1, 2, 3):
        variables, train = bundle(step, 512)  # wide enough that values are not stored inside the index
        places = mesh_sharding(4, 1)({"variables": variables, "train": train})
        spread = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i, x=x: np.asarray(x)[i])  # noqa: E731
        tree = jax.tree.map(spread, {"variables": variables, "train": train}, places)
        checkpoints.save(step, tree["variables"], tree["train"], META)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    structs = abstract(tree["variables"], tree["train"])
    folder = pathlib.Path(workdir) / "checkpoints"
    if rank == "1":
        for path in (folder / "3" / "variables" / "ocdbt.process_1" / "d").iterdir():
            path.write_bytes(b"")
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    variables, train, _, step = checkpoints.restore(structs)
    assert step == 2
    for got, want in zip(jax.tree.leaves((variables, train)), jax.tree.leaves(bundle(2, 512)), strict=True):
        assert all((np.asarray(s.data) == np.asarray(want)[s.index]).all() for s in got.addressable_shards)
    checkpoints.save(3, variables, train, META, wait=True)
    assert checkpoints.restore(structs)[3] == 3
    assert checkpoint.load_variables(workdir)[2] == 3
    checkpoints.close()
    print("ok")


if __name__ == "__main__":
    {"save": save_for_ever, "pair": pair}[sys.argv[1]](*sys.argv[2:])
