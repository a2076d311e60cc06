"""`vidjax plan`: what it reads of compiled modules and jaxprs, and what must hold of the steps that it compiles."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest
import tiny

from vidjax import commandline, config, main, models, nn, plan, train
from vidjax.plan import aot, chips, hlo, roofline

MODULE = """HloModule jit_step
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}
%condition (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}
%one_row (whole: f32[8,4], at: s32[]) -> f32[1,4] {
  %whole = f32[8,4]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%whole, %at, %zero), dynamic_slice_sizes={1,4}
}
%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %row = f32[1,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%one_row
  %sum = f32[1,4]{1,0} all-reduce(%row), replica_groups=[1,4]<=[4], to_apply=%add
  %all = f32[8,4]{1,0:S(1)} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%i, %x)
}
ENTRY %main (a: (s32[], f32[8,4])) -> bf16[6] {
  %a = (s32[], f32[8,4]{1,0}) parameter(0)
  %loop = (s32[], f32[8,4]{1,0}) while(%a), condition=%condition, body=%body
  %small = bf16[6]{0} constant({0,0,0,0,0,0})
  %ends = bf16[6]{0} all-reduce-start(%small), replica_groups=mesh['d'=4,'t'=2] {'d'}, to_apply=%add
  ROOT %done = bf16[6]{0} all-reduce-done(%ends)
}
"""


def test_collectives_count_as_often_as_their_loop_runs():
    assert hlo.collectives(MODULE) == [
        {"kind": "all-gather", "count": 5, "bytes": 5 * 2 * 8 * 4 * 4, "group": 2},
        {"kind": "all-reduce", "count": 6, "bytes": 5 * 16 + 12, "group": 4},
    ]


def test_traffic_counts_the_slice_and_not_what_stays_on_the_chip():
    each = (16 + 4 + 16) + (16 + 16) + 128  # the row read and written, reduced; the gathered array lies in fast memory
    assert hlo.traffic(MODULE) == 5 * (each + 4 + 4 + 1) + 12 + 12  # the comparison of the loop's counter too


def test_traffic_of_copies_that_run_beside_arithmetic():
    """As libtpu writes them: into fast memory only the source is read, from there only the target is written."""
    lines = """ENTRY %main (a: bf16[8,4], b: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = bf16[8,4]{1,0:S(1)} parameter(1)
  %part = ((bf16[8,4]{1,0}), bf16[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:4]}
  %in = (bf16[8,4]{1,0:S(1)}, bf16[8,4]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %out = (bf16[8,4]{1,0}, bf16[8,4]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%b)
  ROOT %done = bf16[8,4]{1,0} copy-done(%out)
}
"""
    assert hlo.traffic(lines) == 2 * 4 * 2 + 64 + 64


def test_trips_are_the_compilers_where_it_notes_them():
    noted = MODULE.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.collectives(noted)[0]["count"] == 7


def test_a_collective_in_three_parts_is_one():
    part = 'all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="4"}'
    lines = "\n".join(f"  %part.{i} = f32[16]{{0}} {part}" for i in range(3))
    text = f"HloModule m\nENTRY %main (x: f32[2]) -> f32[16] {{\n  %x = f32[2]{{0}} parameter(0)\n{lines}\n}}\n"
    assert hlo.collectives(text) == [{"kind": "all-gather", "count": 1, "bytes": 64, "group": 8}]
    again = hlo.collectives(text.replace("part.2 = f32[16]{0} all-gather", "part.2 = f32[16]{0} all-gather-start"))
    assert again == hlo.collectives(text)
    other = hlo.collectives(text.replace('chain_id="4"', 'chain_id="5"', 1))
    assert other == [{"kind": "all-gather", "count": 2, "bytes": 128, "group": 8}]


@pytest.mark.parametrize(
    ("rest", "group"),
    [
        (", replica_groups={{0,1,2},{3,4,5}}", 3),
        (", replica_groups=[2,8]<=[16]", 8),
        (", replica_groups=mesh['a'=4,'b'=2] {'a','b'}, use", 8),
        (", replica_groups=mesh['a'=1,'b'=64,'c'=4], device_ids=([4,64]T(1,0)) {'b'}, use", 64),
        (", source_target_pairs={{0,1},{1,2},{2,0}}, metadata={}", 3),
        (", metadata={}", 1),
    ],
)
def test_groups_in_every_form(rest, group):
    assert hlo.group_size(rest) == group


def test_the_collectives_of_a_real_scan_are_counted_by_its_length():
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def step(w, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    made = jax.jit(jax.grad(step), in_shardings=(whole, split), out_shardings=whole)
    text = made.lower(jnp.zeros((6, 16, 16)), jnp.zeros((8, 16))).compile().as_text()
    (row,) = hlo.collectives(text)
    assert row["kind"] == "all-reduce"
    assert row["bytes"] == 6 * 16 * 16 * 4  # in one piece after the loop, or in six of them within


def test_the_floor_of_products_convolutions_and_attention():
    found = roofline.floor(jax.make_jaxpr(lambda x, w: x @ w)(jnp.zeros((3, 5)), jnp.zeros((5, 7))))
    assert found == {"macs": 3 * 5 * 7, "bytes": 4 * (15 + 35 + 21)}
    scores = jax.make_jaxpr(lambda q, k: jnp.einsum("bnd,bmd->bnm", q, k))(jnp.zeros((2, 9, 4)), jnp.zeros((2, 9, 4)))
    assert roofline.floor(scores) == {"macs": 2 * 9 * 9 * 4, "bytes": 4 * 2 * 2 * 9 * 4}  # the scores stay
    looped = jax.make_jaxpr(lambda x, w: jax.lax.scan(lambda x, _: (x @ w, None), x, length=4))
    assert roofline.floor(looped(jnp.zeros((3, 5)), jnp.zeros((5, 5))))["macs"] == 4 * 3 * 5 * 5

    def strided(x, w):
        return jnp.sum(jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")))

    x, w = jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 2, 3, 5))
    forward = roofline.floor(jax.make_jaxpr(strided)(x, w))["macs"]
    assert forward == 4 * 4 * 5 * 2 * 2 * 3
    assert roofline.floor(jax.make_jaxpr(jax.grad(strided, (0, 1)))(x, w))["macs"] == 3 * forward


def test_a_product_in_a_while_loop_is_refused():
    def step(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="while loop"):
        roofline.floor(jax.make_jaxpr(step)(jnp.zeros((3, 3))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9:4x4", "there is no chip 'v9'; choose one of v5e, v5p, v6e, h200, cpu"),
        ("v5e:16", "a number of chips is written v5e:4x4"),
        ("v5p:4x4", "written v5p:2x2x4"),
        ("h200:2x4", "written h200:8"),
        ("cpu", "written cpu:8"),
        ("cpu:0", "written cpu:8"),
    ],
)
def test_topologies_that_cannot_be_meant(text, message):
    with pytest.raises(ValueError, match=message):
        chips.topology(text)


def test_seconds_of_collectives_follow_the_stated_rules():
    v5e, h200 = chips.CHIPS["v5e"], chips.CHIPS["h200"]
    send = chips.collective_seconds
    assert send(v5e, 1, "all-reduce", 1e9) == 0
    torus = 2 * 2 * 8 * 1e-6  # two ways round, two sides of 16, half of each
    assert send(v5e, 256, "all-reduce", 1e9) == pytest.approx(2 * 1e9 * 255 / 256 / 200e9 + torus, rel=1e-12)  # floats
    half = send(v5e, 64, "all-gather", 1e9)
    assert half == pytest.approx(1e9 * 63 / 64 / 100e9 + 2 * 4 * 1e-6, rel=1e-12)  # floats
    slow = 2 * 1e9 / 256 * 15 / 16 / 3.125e9 + 2 * 50e-6
    assert send(v5e, 4096, "all-reduce", 1e9) == pytest.approx(send(v5e, 256, "all-reduce", 1e9) + slow, rel=1e-12)
    node = send(h200, 8, "all-reduce", 1e9)
    assert node == pytest.approx(2 * 1e9 * 7 / 8 / 450e9 + 2 * 10e-6, rel=1e-12)  # floats
    times = [send(h200, n, "reduce-scatter", 1e9, 3) for n in plan.CHIPS]
    assert times == sorted(times)


def net(name, clips, devices, **changes):
    """A small net's config for so many clips on each of so many devices."""
    cfg = tiny.make_config("", data__batch_size=clips * devices, mesh={"data": devices})
    if name == "transformer":
        fields = {"name": "videomae", "variant": "small", "width": 48, "depth": 3, "heads": 3, "hidden": 96, "size": 32}
        cfg.model = fields | {"tubelet": (2, 8, 8), "frames": 8, "scan": True}
        cfg.data.augment.size = cfg.eval.size = 32
    return plan.changed(commandline.complete(cfg), changes)


def figures(cfg, devices):
    """What the step of a config comes to on CPU devices of this process, by accelerators' lowering, and its state."""
    step, state, batch, extra, _ = aot.abstract(cfg, jax.devices()[:devices], 8)
    with nn.lowering("native"):
        found = aot.figures(step.lower(state, batch, extra).compile())
    return found | {"state": aot.state_bytes(state), "abstract": state}


def sent(found, *kinds):
    return sum(row["bytes"] for row in found["collectives"] if not kinds or row["kind"] in kinds)


@pytest.mark.parametrize("name", ["convolutions", "transformer"])
def test_data_parallel_sends_the_same_from_every_device_on_four_and_eight_and_only_sums(name):
    four, eight = (figures(net(name, 2, n), n) for n in (4, 8))
    assert {row["kind"] for found in (four, eight) for row in found["collectives"]} == {"all-reduce"}
    assert abs(sent(eight) / sent(four) - 1) <= 0.01  # the promise
    assert sent(eight) >= eight["state"]["params"]
    assert {row["group"] for row in eight["collectives"]} == {8}


def test_fsdp_gathers_parameters_and_sends_at_most_three_times_their_bytes():
    whole = figures(net("transformer", 2, 8), 8)["state"]
    split = {"sharding": "fsdp", "mesh.data": 1, "mesh.fsdp": 8}
    found = figures(net("transformer", 2, 8, **split), 8)
    params = jax.tree.leaves(found["abstract"].variables["params"])
    split = [x for x in params if "fsdp" in x.sharding.spec]
    assert sent(found, "all-gather") in (times * 4 * sum(x.size for x in split) for times in (1, 2))  # forth and back
    assert len(split) == 7  # the patches and each block's MLP; other arrays are small
    assert sent(found) <= 3.2 * whole["params"]  # forth, back, and the gradient's sum, and little else
    kept = whole["params"] - 4 * sum(x.size for x in split) * 7 // 8
    assert found["state"]["params"] == kept
    assert sent(found, "all-to-all", "collective-permute") == 0


def test_norms_of_each_device_alone_save_their_sums():
    every, own = (figures(net("convolutions", 2, 4, bn=bn), 4) for bn in ("global", "per_device"))
    norms = len(jax.tree.leaves(every["abstract"].variables["batch_stats"])) // 2
    count = [sum(row["count"] for row in found["collectives"]) for found in (every, own)]
    assert norms == 6
    assert count[0] >= norms + count[1]  # one sum each, most of them another for the gradient
    assert count[1] <= 3  # gradients, the running averages and the loss, some of them together


def test_planned_memory_is_what_a_real_step_holds(tmp_path):
    cfg = commandline.complete(tiny.make_config(tiny.render(tmp_path / "videos")))
    cfg.data.path = str(tmp_path / "videos")
    run = train.prepare(cfg, str(tmp_path / "run"))
    found = figures(cfg, 1)
    held = sum(x.nbytes for x in jax.tree.leaves(run.state))
    assert sum(found["state"].values()) + 4 == held  # and the step's number
    (batch,) = tiny.batches(cfg, run.source, 1)
    arrays = jax.tree.map(jnp.asarray, {key: batch[key] for key in ("inputs", "label", "mask")})
    assert found["memory"]["argument"] == held + sum(x.nbytes for x in jax.tree.leaves(arrays))
    after, metrics = run.step_fn(run.state, arrays, None)
    given = sum(x.nbytes for x in jax.tree.leaves((after, metrics)))
    table = 8 * len(jax.tree.leaves((after, metrics)))  # a pointer for each result
    assert found["memory"]["output"] in (given, given + table)
    assert found["memory"]["alias"] == held  # the state is given up for the next
    run.checkpoints.close()


def test_planned_flops_are_three_times_those_of_a_forward_pass():
    cfg = net("transformer", 2, 1)
    found = aot.least(cfg, 8, 1, 1)
    model = models.build(cfg.model, num_classes=8)
    forward = 2 * models.macs(model, (2, 8, 32, 32, 3))
    patches = 2 * (2 * 4 * 16) * (2 * 8 * 8 * 3) * 48  # the first layer's input has no gradient
    assert found["flops"] == 3 * forward - patches


def test_a_step_that_does_not_fit_is_given_the_first_change_that_makes_it(monkeypatch):
    asked = []

    def fake(request, seconds):
        cfg = config.from_dict(request["config"])
        asked.append((cfg.remat, cfg.sharding, cfg.data.batch_size, cfg.optim.accumulate))
        size = 24e9 / (1.2 if cfg.remat != "none" else 1) / (1 + (cfg.data.batch_size < 32))
        sizes = {"argument": 1e9, "temp": size - 1e9, "generated_code": 0, "peak": size}
        work = {"flops": 1e12, "floor": 1e9, "traffic": 2e9, "compiler_flops": None, "seconds": 1.0}
        rows = [{"kind": "all-reduce", "count": 3, "bytes": 10**8, "group": 4}]
        state = {"params": 3e8, "optimizer": 6e8, "other": 0}
        return work | {
            "memory": sizes,
            "collectives": rows,
            "state": state,
            "devices": 4,
            "parts": 4,
            "whole": 3e8,
            "fsdp": 1,
        }

    monkeypatch.setattr(aot, "compile_step", fake)
    monkeypatch.setattr(plan, "compiler_of", lambda chip: chip.backend)
    found = plan.plan(net("convolutions", 8, 4), "v5e:2x2")
    assert not found["fits"]
    flags = {"data.batch_size": 16, "optim.accumulate": 2, "steps": 16, "optim.warmup": 4}
    assert found["fixed"]["flags"] == flags
    assert asked == [("none", "replicate", 32, 1), ("dots", "replicate", 32, 1), ("none", "fsdp", 32, 1),
                     ("none", "replicate", 16, 2)]  # fmt: skip
    text = plan.table(found)
    assert "memory   peak" in text
    assert "24 GB of 17.2 GB, 139.7%" in text
    assert "change   --config.data.batch_size=16 --config.optim.accumulate=2" in text
    (last,) = (line.split() for line in text.splitlines() if line.split()[1] == "4096")
    at = plan.predict(found["fixed"]["step"], chips.CHIPS["v5e"], 4096, found["fixed"]["step"]["floor"])
    share = at["compute"] / (at["compute"] + at["collectives"])
    assert last[-2:] == [f"{share:.1%}", "100.0%"]


def test_the_command_compiles_in_a_process_of_its_own(capsys):
    smoke = f"--config={tiny.ROOT}/configs/quickstart.py:smoke"
    assert main.main(["plan", smoke, "--topology=cpu:2", "--classes=8"]) == 0
    text = capsys.readouterr().out
    assert "8 classes, 8 clips a step, 4 for each part of the batch, on cpu:2" in text
    assert "the CPU compiler, for 2 virtual devices" in text
    assert "fits     yes" in text
    assert "sends    all-reduce" in text
    assert main.main(["plan", smoke, "--topology=h200:16", "--nocompile", "--per_chip=4"]) == 0
    text = capsys.readouterr().out
    assert "400 classes, 64 clips" in text
    assert "traced, not compiled" in text
    assert "sends    all-reduce" in text
    assert text.count("predict") > len(plan.CHIPS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --topology=CHIP:SHAPE"),
        (["--topology=cpu:3"], "8 does not divide over"),
        (["--topology=cpu:2", "--config.mesh.data=4"], "takes 4 devices, but 2 are here"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(words, message, capsys):
    smoke = f"--config={tiny.ROOT}/configs/quickstart.py:smoke"
    assert main.main(["plan", smoke, "--classes=8", *words]) == 1
    assert message in capsys.readouterr().err


needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed; the same is tested on a CPU mesh"
)


@needs_libtpu
def test_on_tpus_bytes_stay_and_traffic_is_near_its_floor():
    small, large = (tpu(net("transformer", 8, n, **{"model.dtype": "bfloat16"}), n) for n in (4, 256))
    assert {row["kind"] for found in (small, large) for row in found["collectives"]} == {"all-reduce"}
    assert abs(sent(large) / sent(small) - 1) <= 0.01  # the promise
    assert large["traffic"] <= 2 * large["floor"]
    assert large["memory"]["argument"] + large["memory"]["temp"] < 0.9 * chips.CHIPS["v5e"].memory


def tpu(cfg, count):
    side = math.isqrt(count)
    return plan.compiled(cfg, chips.topology(f"v5e:{side}x{side}"), "tpu", 8, 300)


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda12_plugin"),
    reason="JAX's CUDA plugin is not installed; the same is tested on a CPU mesh",
)
def test_on_gpus_only_sums_are_sent():
    cfg = net("transformer", 2, 8, **{"model.dtype": "bfloat16"})
    found = plan.compiled(cfg, chips.topology("h200:8"), "gpu", 8, 300)
    assert {(row["kind"], row["group"]) for row in found["collectives"]} == {("all-reduce", 8)}
    assert sent(found) >= found["state"]["params"] / 2  # in bf16 at least
