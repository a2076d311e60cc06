"""One step on any mesh is the step on one device; what travels between devices is what has to."""

import collections
import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding

from vidjax import attention, config, data, evaluate, models, nn, optim, parallel, sharding, train
from vidjax.data import modalities

B, CLASSES = 8, 8
ONE = {"data": 1}
MESHES = {  # (mesh, preset)
    "8x1": ({"data": 8}, "replicate"),
    "2x4": ({"replica": 2, "data": 4}, "replicate"),
    "fsdp 2x4": ({"data": 2, "fsdp": 4}, "fsdp"),
    "fsdp 8": ({"fsdp": 8}, "fsdp"),
    "optimizer 8": ({"fsdp": 8}, "optimizer"),
    "2x2x2": ({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp_tensor"),
    "tensor 4": ({"data": 2, "tensor": 4}, "fsdp_tensor"),
    "sequence 4": ({"data": 2, "sequence": 4}, "replicate"),
    "ring 2x2x2": ({"fsdp": 2, "tensor": 2, "sequence": 2}, "fsdp_tensor"),
}
NETS = {
    "batch norm": {"name": "r3d", "variant": "small", "depths": (1, 1), "widths": (8, 16), "strides": (1, 2)}
    | {"convs": ("3d", "3d"), "dropout": 0.2},
    "layer norm": {"name": "videomae", "variant": "small", "width": 64, "depth": 2, "hidden": 128, "drop_path": 0.2},
    "joint qkv": {"name": "timesformer", "variant": "small", "depth": 2},
    "class token": {"name": "vivit", "variant": "small", "depth": 2, "scan": True},
    "two streams": {"name": "two_stream_fusion", "variant": "small"},
}


@functools.cache
def parts(net):
    """(config, shapes of the wire, batch of numpy arrays) of one of NETS."""
    cfg = config.from_file(f"{tiny.ROOT}/configs/motion_suite.py:{NETS[net]['name']},smoke")
    cfg.model = NETS[net]
    cfg.data.batch_size, cfg.data.augment.size, cfg.steps, cfg.optim.warmup = B, 40, 10, 0
    cfg.optim.update({"name": "sgd", "lr": 0.1, "weight_decay": 1e-3, "momentum": 0.9})
    section, rng = data.options(cfg.data), np.random.default_rng(0)
    shapes = modalities.shapes(section, section["clip"]["size"], 40)
    wire = {key: rng.integers(0, 256, (B, *shape)).astype(dtype) for key, (shape, dtype) in shapes.items()}
    mask = np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32)
    return cfg, {"inputs": wire, "label": rng.integers(0, CLASSES, B).astype(np.int32), "mask": mask}


def make(net, mesh, preset, **changes):
    """(compiled step, state, batch on the devices, sharding of the state) of a net on a mesh."""
    cfg, batch = parts(net)
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.update({"mesh": mesh, "sharding": preset} | changes)
    mesh, model = sharding.make_mesh(**mesh), models.build(cfg.model, num_classes=CLASSES)
    tx, _ = optim.build(cfg.steps, **cfg.optim)
    step, abstract, init = train.make_step(cfg, model, tx, mesh)
    block, blocks = sharding.batch_block(mesh, B)
    own = jax.tree.map(lambda x: x[block * B // blocks : (block + 1) * B // blocks], batch)
    return step, abstract, init, evaluate.to_devices(own, mesh, B)


def curve(net, mesh, preset, steps=3, **changes):
    """Losses of the first steps, and the parameters after them."""
    step, _, init, batch = make(net, mesh, preset, **changes)
    state, losses = init(), []
    for _ in range(steps):
        state, metrics = step(state, batch, None)
        losses.append(float(metrics["loss"]))
    whole = sharding.replicated(batch["mask"].sharding.mesh)
    return losses, jax.device_get(jax.jit(lambda x: x, out_shardings=whole)(state.variables))


on_one_device = functools.cache(lambda net: curve(net, ONE, "replicate"))


def assert_close(found, wanted):
    (losses, variables), (own, expected) = found, wanted
    # sums of several devices run in another order; three steps of rate 0.1 on random pixels magnify that tenfold
    np.testing.assert_allclose(losses, own, rtol=1e-5)
    for path, leaf in jax.tree.leaves_with_path(variables):
        name, want = sharding.path_of(path), functools.reduce(lambda tree, key: tree[key.key], path, expected)
        np.testing.assert_allclose(leaf, want, rtol=1e-4, atol=1e-6, err_msg=name)


CASES = [
    *(("batch norm", mesh) for mesh in ("8x1", "2x4", "fsdp 2x4", "optimizer 8")),
    *(("layer norm", mesh) for mesh in ("8x1", "fsdp 8", "2x2x2", "tensor 4", "sequence 4", "ring 2x2x2")),
    *(("joint qkv", mesh) for mesh in ("8x1", "2x2x2")),
    *(("class token", mesh) for mesh in ("fsdp 8", "2x2x2", "sequence 4")),
    *(("two streams", mesh) for mesh in ("8x1", "fsdp 2x4")),
]


@pytest.mark.parametrize(("net", "name"), CASES)
def test_every_mesh_trains_as_one_device(net, name):
    mesh, preset = MESHES[name]
    kind = "ring" if name.startswith("ring") else "gather"
    assert_close(curve(net, mesh, preset, sequence=kind), on_one_device(net))


APART = [  # nets and meshes of several processes, of 4 devices together
    ("batch norm", {"data": 4}, "replicate"),
    ("layer norm", {"data": 2, "tensor": 2}, "fsdp_tensor"),
    ("two streams", {"data": 2, "fsdp": 2}, "fsdp"),
]


def process(port, count, number, out):
    """One process of `count`: the curves of APART, written by the first."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, number)
    found = [list(curve(*case)) for case in APART]
    if number == 0:
        pathlib.Path(out).write_bytes(flax.serialization.msgpack_serialize(found))


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one_device(count, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={4 // count}"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])}
    code = "import sys, test_parallel; test_parallel.process(*map(int, sys.argv[1:4]), sys.argv[4])"
    words = [sys.executable, "-c", code, str(port), str(count)]
    with open(tmp_path / "log", "w") as log:
        several = [
            subprocess.Popen([*words, str(i), str(tmp_path / "out")], env=env, stdout=log, stderr=log)
            for i in range(count)
        ]
        try:
            codes = [one.wait(timeout=240) for one in several]
        finally:
            for one in several:
                one.kill()
    assert set(codes) == {0}, (tmp_path / "log").read_text()[-3000:]
    found = flax.serialization.msgpack_restore((tmp_path / "out").read_bytes())
    for (net, _, _), one in zip(APART, found, strict=True):
        assert_close(one, on_one_device(net))


COLLECTIVE = re.compile(r"= \S.*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def collectives(net, name, **changes):
    """{kind: how many} of a compiled step."""
    step, abstract, _, batch = make(net, *MESHES[name], **changes)
    return collections.Counter(COLLECTIVE.findall(step.lower(abstract, batch, None).compile().as_text()))


def test_data_parallel_steps_only_add_up():
    for net in ("batch norm", "layer norm", "two streams"):
        assert set(collectives(net, "8x1")) == {"all-reduce"}, net


def test_norms_of_a_device_wait_for_no_other():
    """Of the all-reduces each batch norm has at least one on the way: of its mean and square, or of their gradients."""
    everywhere, alone = (collectives("batch norm", "8x1", bn=bn)["all-reduce"] for bn in ("global", "per_device"))
    norms = len([path for path in leaves("batch norm", "batch_stats") if path.endswith("mean")])
    assert everywhere - alone >= norms


def leaves(net, collection):
    """Paths of a net's collection."""
    _, abstract, _, _ = make(net, ONE, "replicate")
    return [sharding.path_of(path) for path, _ in jax.tree.leaves_with_path(abstract.variables[collection])]


def test_fsdp_gathers_weights_and_keeps_a_part_of_each():
    step, abstract, init, batch = make("layer norm", *MESHES["fsdp 8"])
    found = collectives("layer norm", "fsdp 8")
    assert found["all-gather"] > 0
    assert not found["all-to-all"] + found["collective-permute"]
    whole = sum(leaf.size for leaf in jax.tree.leaves(abstract.variables["params"]))
    held = lambda leaf: np.prod(leaf.sharding.shard_shape(leaf.shape))  # noqa: E731
    state = step(init(), batch, None)[0]
    for tree in (state.variables["params"], state.opt_state):
        kept = sum(held(leaf) for leaf in jax.tree.leaves(tree))
        assert kept < 1.2 * whole / 8  # norms, biases and other arrays under 4096 numbers are whole


def test_scanned_blocks_gather_their_own_weights():
    """Eight blocks, each computed again for its gradient: never are all weights, or all gradients, on one device."""
    held = {}
    for scan in (True, False):
        NETS["deep"] = NETS["layer norm"] | {"width": 256, "depth": 8, "hidden": 1024, "scan": scan}
        parts.cache_clear()
        step, abstract, _, batch = make("deep", *MESHES["fsdp 8"], remat="block")
        held[scan] = step.lower(abstract, batch, None).compile().memory_analysis().temp_size_in_bytes
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract.variables["params"]))
    assert held[True] < 0.8 * whole < held[False]


def test_optimizer_state_is_split_where_parameters_are_not():
    _, abstract, _, _ = make("layer norm", *MESHES["optimizer 8"])
    splits = lambda tree: [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree)]  # noqa: E731
    assert all(splits(abstract.variables))
    assert not all(splits(abstract.opt_state))


def test_tensor_rules_split_heads_and_hidden_features():
    _, abstract, _, _ = make("layer norm", *MESHES["tensor 4"])
    block = abstract.variables["params"]["block0"]
    for layer, axis in (("query", 1), ("key", 1), ("value", 1), ("proj", 0)):
        assert block["attention"][layer]["kernel"].sharding.spec[axis] == "tensor", layer
    assert block["mlp"]["fc1"]["kernel"].sharding.spec[1] == "tensor"
    assert block["mlp"]["fc2"]["kernel"].sharding.spec[0] == "tensor"
    assert block["norm1"]["scale"].sharding.is_fully_replicated


@pytest.mark.parametrize("kind", ["gather", "ring"])
@pytest.mark.parametrize("n", [16, 13, 3])  # tokens that 4 devices divide, that they do not, fewer than devices
def test_split_attention_is_dense_attention(kind, n):
    mesh = sharding.make_mesh(data=2, sequence=4)
    rng = np.random.default_rng(n)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, 3, 8)), jnp.float32) for _ in range(3))

    def loss(q, k, v):
        return jnp.sum(jnp.sin(attention.attend(q, k, v)))

    here = sharding.for_mesh(jax.value_and_grad(loss, (0, 1, 2)), mesh, kind)
    with attention.using("plain"):
        found, wanted = jax.jit(here)(q, k, v), jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_ring_keeps_no_more_than_a_part_of_the_keys():
    """No array of the compiled attention has all keys; gathering makes one that has."""
    mesh = sharding.make_mesh(sequence=8)
    q = jax.ShapeDtypeStruct((1, 8 * 24, 2, 8), jnp.float32, sharding=NamedSharding(mesh, jax.P(None, "sequence")))

    def text(kind):
        step = sharding.for_mesh(lambda q, k, v: attention.attend(q, k, v), mesh, kind)
        return jax.jit(step, out_shardings=q.sharding).lower(q, q, q).compile().as_text()

    assert re.search(r"\[(\d+,)*192[,\]]", text("gather"))
    assert not re.search(r"\[(\d+,)*192[,\]]", text("ring"))


def test_groups_of_a_batch_are_normalised_apart():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 2, 3, 3, 4)) * np.arange(1, 9)[:, None, None, None, None], jnp.float32)
    bn = nn.BatchNorm(use_running_average=False)
    variables = bn.init(jax.random.key(0), x)
    apply = functools.partial(bn.apply, variables, mutable=["batch_stats"])
    with nn.norm_groups(4):
        y, updated = apply(x)
    apart = [apply(x[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(y, np.concatenate([y for y, _ in apart]), rtol=1e-5, atol=1e-6)
    for name, found in updated["batch_stats"].items():
        mean = np.mean([stats["batch_stats"][name] for _, stats in apart], 0)
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    with nn.norm_groups(3), pytest.raises(ValueError, match="batch of 8 does not divide into the 3 groups"):
        apply(x)


def test_groups_of_clips_do_not_depend_on_the_devices():
    one, two = (curve("batch norm", mesh, "replicate", bn=2) for mesh in (ONE, {"data": 8}))
    assert_close(two, one)
    assert abs(one[0][1] - on_one_device("batch norm")[0][1]) > 1e-4  # and are not the whole batch
    assert_close(curve("batch norm", {"data": 4}, "replicate", bn="per_device"), one)  # 8 clips on 4 devices: 2 each


@pytest.mark.parametrize(("net", "kind"), [("batch norm", "dots"), ("layer norm", "dots"), ("layer norm", "block")])
def test_what_is_computed_again_changes_nothing(net, kind):
    assert_close(curve(net, ONE, "replicate", remat=kind), on_one_device(net))


def test_dots_keep_less():
    """The bytes that a step of the batch-norm net keeps for its gradient: norms and activations are left out."""
    kept, rngs = {}, {"dropout": jax.random.key(1)}
    for kind in ("none", "dots"):
        cfg, batch = parts("batch norm")
        model, policy = parallel.remat(models.build(cfg.model, num_classes=CLASSES), kind)
        video = jnp.asarray(batch["inputs"]["rgb"], jnp.float32)
        variables = jax.jit(lambda x, m=model: m.init(jax.random.key(0), x, train=False))(video)

        def loss(params, x, v=variables, m=model):
            return m.apply(v | {"params": params}, x, train=True, mutable=["batch_stats"], rngs=rngs)[0][0].sum()

        loss = jax.checkpoint(loss, policy=policy) if policy else loss
        _, back = jax.vjp(loss, variables["params"], video)
        kept[kind] = sum(leaf.nbytes for leaf in jax.tree.leaves(back))
    assert kept["dots"] < 0.7 * kept["none"]


WRONG = {
    "config.sharding 'zero' is no preset": {"preset": "zero"},
    "config.mesh.tensor=8, but config.sharding 'fsdp_tensor' splits no parameter": {
        "mesh": {"tensor": 8},
        "preset": "fsdp_tensor",
    },
    "config.mesh.sequence=8, but this net has no attention": {"mesh": {"sequence": 8}},
    "config.bn is global, per_device or a number of clips, not 'local'": {"bn": "local"},
    "config.bn=3 clips do not divide a batch of 8": {"bn": "3"},
    "config.remat is none, block or dots, not 'all'": {"remat": "all"},
    "config.remat=block is for transformers": {"remat": "block"},
    "config.sequence is gather or ring, not 'split'": {"sequence": "split"},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_values_are_named(sentence):
    changes = {"mesh": ONE, "preset": "replicate"} | WRONG[sentence]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        curve("batch norm", steps=1, **changes)


class Chip:
    """A device of a slice of a TPU, as far as a mesh looks at it."""

    platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

    def __init__(self, number, slices):
        self.id, self.slice_index = number, number * slices // 16
        self.coords, self.core_on_chip = (number % 2, number // 2 % 4, 0), 0


@pytest.mark.parametrize(("sizes", "outer"), [({"replica": 2, "data": -1}, 0), ({"data": -1}, 1)])
def test_slices_lie_along_the_outer_axis(sizes, outer):
    mesh = sharding.make_mesh([Chip(i, 2) for i in range(16)], **sizes)
    halves = np.split(mesh.devices, 2, axis=outer)
    assert [{chip.slice_index for chip in half.ravel()} for half in halves] == [{0}, {1}]


def test_slices_that_no_outer_axis_divides_are_refused():
    with pytest.raises(ValueError, match="lies on 2 slices: replica or data must be a multiple"):
        sharding.make_mesh([Chip(i, 2) for i in range(16)], fsdp=16)
