"""Compiles the real training step for chips that are not here: `python -m vidjax.plan.aot`, a process of its own.

A request is JSON on standard input, the answer JSON on the last line of standard output. A process of its own, since
each compiler must be loaded before anything else of JAX is, and one that fails may end its process.
"""

import json
import os
import re
import subprocess
import sys
import time

GPU = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 150754820096
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
MODULES = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin", "cpu": "jaxlib"}
ACCELERATOR = {"v5e": "v5litepod-16", "v5p": "v5p-8", "v6e": "v6e-16"}


class PlanError(RuntimeError):
    """The step could not be compiled; the message says why."""


def compile_step(request, seconds=600):
    """What `measure` finds, in a process of its own, ended after `seconds`; PlanError with the compiler's last word."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_SKIP_MDS_QUERY="1")
    env |= {"TPU_WORKER_HOSTNAMES": "localhost", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    env["TPU_ACCELERATOR_TYPE"] = ACCELERATOR.get(request["chip"], "")
    if request["compiler"] == "tpu":
        env.pop("XLA_FLAGS", None)
    if request["compiler"] == "gpu":  # Triton's products need a GPU to be tuned on; without one some do not compile
        env["XLA_FLAGS"] = "--xla_gpu_enable_triton_gemm=false"
    command = [sys.executable, "-m", "vidjax.plan.aot"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), env=env, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise PlanError(f"the compiler did not end within {seconds} s; give it --seconds=N.") from None
    if done.returncode == 2:
        raise PlanError(json.loads(done.stdout.strip().splitlines()[-1])["refused"])
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PlanError(f"the {request['compiler']} compiler's process ended with code {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def devices(request):
    """The devices to compile for, whether they exist or not."""
    import jax
    from jax.experimental import topologies

    match request["compiler"]:
        case "tpu":
            shape = "x".join(map(str, request["shape"]))
            return topologies.get_topology_desc(f"{request['chip']}:{shape}", platform="tpu").devices
        case "gpu":
            shape = f"1x1x{request['count']}"
            return topologies.get_topology_desc("h200", platform="cuda", target_config=GPU, topology=shape).devices
    jax.config.update("jax_num_cpu_devices", request["count"])
    return jax.devices()


def measure(request):
    """Figures per device of the step of `request` {config, chip, shape, count, compiler, backend, classes, compile}.

    {devices, memory, state, flops, floor, traffic, compiler_flops, compiler_bytes, collectives, seconds}; if it
    does not fit the chip {error, needs}, what the compiler asks for in bytes. Without `compile`, estimated collectives.
    """
    places = devices(request)
    import jax

    if request["backend"] != "cpu":  # the program chooses its lowerings by the backend it runs on
        jax.default_backend = lambda: request["backend"]
    if request["compiler"] == "gpu":
        assume_hopper()
    from vidjax import config

    cfg = config.from_dict(request["config"])
    step, state, batch, net, mesh = abstract(cfg, places, request["classes"])
    found = {"devices": mesh.size, "parts": parts(mesh), "state": state_bytes(state), "fsdp": mesh.shape["fsdp"]}
    found["whole"] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.variables["params"]))
    found |= least(cfg, request["classes"], parts(mesh), mesh.size)
    if not request["compile"]:
        return found | {"collectives": estimated(cfg, state, mesh)}
    began = time.perf_counter()
    try:
        compiled = step.lower(state, batch, net).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"error": str(error).splitlines()[0], "needs": asked(str(error))}
    return found | figures(compiled) | {"seconds": time.perf_counter() - began}


def assume_hopper():
    """Lets JAX trace cuDNN's attention without asking a GPU which cuDNN and architecture there are."""
    from jax._src.cudnn import fused_attention_stablehlo

    fused_attention_stablehlo.check_cudnn_version = lambda: 91000
    fused_attention_stablehlo.check_compute_capability = lambda capability: True


def estimated(cfg, state, mesh):
    """Collectives of a step that was not compiled: gradients summed in one piece, FSDP's parameters gathered twice.

    In the type that the net computes in; a BatchNorm over all devices takes two small sums more, forth and back.
    Tensor and sequence parallelism are left out.
    """
    import jax
    import jax.numpy as jnp

    leaves = jax.tree.leaves(state.variables["params"])
    width = jnp.dtype(cfg.model.get("dtype", "float32")).itemsize
    split = [x for x in leaves if "fsdp" in str(x.sharding.spec)]
    rows = [("all-reduce", 1, width * sum(x.size for x in leaves))]
    norms = jax.tree.leaves(state.variables.get("batch_stats", {})) if cfg.get("bn", "global") == "global" else []
    rows.append(("all-reduce", len(norms), 8 * sum(x.size for x in norms)))  # means and squares, of float32
    rows.append(("all-gather", 2 * len(split), 2 * width * sum(x.size for x in split)))
    keys = ("kind", "count", "bytes", "group")
    return [dict(zip(keys, (*row, mesh.size), strict=True)) for row in rows if row[1] and mesh.size > 1]


def parts(mesh):
    """Over how many devices a mesh splits the batch."""
    return mesh.shape["replica"] * mesh.shape["data"] * mesh.shape["fsdp"]


def abstract(cfg, places, classes):
    """The jitted step of a config on devices and the abstract state, batch and net it takes, and the mesh."""
    import jax
    import jax.numpy as jnp

    from vidjax import data, inputs, models, optim, sharding, train
    from vidjax.data import modalities

    section = data.options(cfg.data)
    mesh = sharding.make_mesh(places, **cfg.mesh)
    model = models.build(cfg.model, num_classes=classes)
    tx, _ = optim.build(cfg.steps, **cfg.optim, times=data.grids_of(section).times)
    step, state, _ = train.make_step(cfg, model, tx, mesh)
    n = cfg.data.batch_size
    if n % parts(mesh):
        raise ValueError(f"config.data.batch_size {n} does not divide over the mesh's {parts(mesh)} parts.")
    wire = modalities.shapes(section, section["clip"]["size"], section["augment"]["size"])
    batch = {"inputs": {key: jax.ShapeDtypeStruct((n, *shape), dtype) for key, (shape, dtype) in wire.items()}}
    batch |= {"label": jax.ShapeDtypeStruct((n,), jnp.int32), "mask": jax.ShapeDtypeStruct((n,), jnp.float32)}
    flow = inputs.preparer(section).keywords["model"]
    size = section["augment"]["size"]
    return step, state, batch, models.shapes(flow, (1, flow.frames, size, size, 3)) if flow else None, mesh


def least(cfg, classes, split, count):
    """{flops, floor}: FLOPs of one device's share of the step and the bytes it must move, from a tracing for one."""
    import jax

    from vidjax import attention
    from vidjax.plan import roofline

    share = cfg.copy_and_resolve_references()
    with share.unlocked():
        share.mesh, share.bn = {"data": 1}, "global"
    share.data.batch_size = max(cfg.data.batch_size // split, 1)
    step, state, batch, net, _ = abstract(share, jax.devices("cpu")[:1], classes)
    with attention.using("plain"):  # what is inside a kernel cannot be counted
        found, own = roofline.floor(step.trace(state, batch, net).jaxpr), sum(state_bytes(state).values())
    others = count // split  # devices that share one part of the batch
    return {"flops": 2 * found["macs"] / others, "floor": found["bytes"] / others + 2 * own / others}


def state_bytes(state):
    """Bytes of the state on one device: {params, optimizer, other}."""
    import jax

    def of(tree):
        local = (x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(tree))
        sizes = (x.dtype.itemsize for x in jax.tree.leaves(tree))
        return sum(n * _product(shape) for n, shape in zip(sizes, local, strict=True))

    params = of(state.variables["params"])
    return {"params": params, "optimizer": of(state.opt_state), "other": of(state.variables) - params}


def _product(shape):
    total = 1
    for n in shape:
        total *= n
    return total


def figures(compiled):
    """What a compiled step tells about one device."""
    from vidjax.plan import hlo

    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    names = ("argument", "output", "alias", "temp", "generated_code")
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in names}
    sizes["peak"] = sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"] + sizes["generated_code"]
    return {
        "memory": sizes,
        "traffic": hlo.traffic(text),
        "compiler_flops": cost.get("flops"),
        "compiler_bytes": cost.get("bytes accessed"),
        "collectives": hlo.collectives(text),
    }


def asked(message):
    """Bytes that a compiler says it would need, from its message about memory; None if it does not say."""
    found = re.search(r"[Uu]sed ([\d.]+)([KMG])", message) or re.search(r"needs? ([\d.]+)\s*([KMG])i?B", message)
    return float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]] if found else None


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.load(sys.stdin))))
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        print(
            json.dumps({"refused": said[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {said[0]}"})
        )
        sys.exit(2)
