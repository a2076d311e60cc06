"""What a training step needs on chips that are not here, and how fast it could be: `vidjax plan`.

Figures of memory, arithmetic and collectives are a compiler's (aot.py); times are predictions made of them and of the
chips' published figures (chips.py), never measurements.
"""

import importlib.util
import os
import textwrap

from vidjax import models
from vidjax.plan import aot, chips

CHIPS = (1, 4, 16, 64, 256, 1024, 4096)  # of the table of weak scaling
LARGEST = {"tpu": 256, "gpu": 64, "cpu": 64}  # devices that a step is compiled for; more change nothing but the group
ROOM = 0.9  # of a chip's memory; the rest is for the runtime, prefetched batches and fragments
CLASSES = 400


def plan(cfg, text, *, classes=0, per_chip=0, seconds=600, fix=True, compile=True):
    """The plan of a config on a topology such as v5e:4x4: what `table` prints.

    `classes` and `per_chip` (clips a chip and step) override the config's; `seconds` are what one compilation may take;
    with `fix` a step that does not fit is compiled again with one change after another until it does. Without `compile`
    the step is only traced: temporaries are unknown, collectives estimated. Raises ValueError for what cannot be meant
    and aot.PlanError where the compiler fails.
    """
    where = chips.topology(text)
    cfg = cfg.copy_and_resolve_references()
    if per_chip:
        cfg.data.batch_size = per_chip * where.count
    classes = classes or cfg.model.get("num_classes") or CLASSES
    compiler = compiler_of(where.chip)
    found = {"topology": where, "compiler": compiler, "classes": classes, "batch": cfg.data.batch_size}
    found |= {"memory": where.chip.memory or host_memory() / where.count, "model": cfg.model.to_dict()}
    found["step"] = step = compiled(cfg, where, compiler, classes, seconds, compile)
    found["fits"] = fits(step, found["memory"])
    needed = fix and compile and not found["fits"]
    found["fixed"] = fixes(cfg, where, compiler, classes, seconds, found["memory"]) if needed else None
    return found


def compiler_of(chip):
    """The compiler that makes programs for a chip, "cpu" where it is not installed."""
    return chip.backend if importlib.util.find_spec(aot.MODULES[chip.backend]) else "cpu"


def compiled(cfg, where, compiler, classes, seconds, compile=True):
    """What aot.measure finds of a config's step; of a smaller slice, with the same share, where the chips are many."""
    shape, count = smaller(where, LARGEST[compiler])
    share = cfg.copy_and_resolve_references()
    if cfg.data.batch_size % where.count and count != where.count:
        raise ValueError(f"config.data.batch_size {cfg.data.batch_size} does not divide over {where.count} chips.")
    share.data.batch_size = cfg.data.batch_size * count // where.count
    stand_in = compiler != where.chip.backend
    request = {"config": share.to_dict(), "chip": where.name, "shape": shape, "count": count, "compiler": compiler}
    request |= {"backend": "none" if stand_in else compiler, "classes": classes, "compile": compile}
    return aot.compile_step(request, seconds) | {"compiled_for": count}


def smaller(where, largest):
    """The shape and number of chips of a topology, its longest sides halved until they are few enough."""
    shape = list(where.shape)
    while (count := chips.Topology("", where.name, tuple(shape)).count) > min(largest, max(where.chip.pod, 64)):
        longest = shape.index(max(shape))
        shape[longest] //= 2
    return shape, count


def host_memory():
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak(step):
    """Bytes that a step takes of one device, or that its compiler asked for and did not get; None if it did not say."""
    return step["memory"]["peak"] if "memory" in step else step.get("needs")


def fits(step, memory):
    """Whether a step leaves a tenth of the memory free."""
    return "memory" in step and peak(step) <= ROOM * memory


def fixes(cfg, where, compiler, classes, seconds, memory):
    """The first of `changes` whose step fits, compiled: {flags, step, tried}; flags is None if none does."""
    tried = []
    for flags in changes(cfg, where.count):
        try:
            step = compiled(changed(cfg, flags), where, compiler, classes, seconds)
        except aot.PlanError as error:
            tried.append((flags, str(error)))
            continue
        tried.append((flags, peak(step)))
        if fits(step, memory):
            return {"flags": flags, "step": step, "tried": tried}
    return {"flags": None, "step": None, "tried": tried}


def changes(cfg, count):
    """Changes to a config that save memory, the smallest first: dictionaries of flags."""
    blocks = "remat" in models.family(cfg.model.name).Model.__dataclass_fields__
    remat, fsdp = {}, {}
    if cfg.get("remat", "none") == "none" and not cfg.model.get("remat"):
        remat = {"remat": "block" if blocks else "dots"}
    if cfg.sharding == "replicate" and count > 1:
        fsdp = {"sharding": "fsdp", "mesh.data": 1, "mesh.fsdp": -1}
    half, quarter = (halved(cfg, by, count) for by in (2, 4))
    several = [remat, fsdp, half, remat | fsdp, remat | half, fsdp | half, remat | fsdp | half, remat | fsdp | quarter]
    found = []
    for one in several:
        if one and one not in found:
            found.append(one)
    return found


def halved(cfg, by, count):
    """The flags of a batch `by` times smaller whose gradients are summed over as many more steps, if that can be."""
    if cfg.data.batch_size % (by * count):
        return {}
    flags = {"data.batch_size": cfg.data.batch_size // by, "optim.accumulate": cfg.optim.get("accumulate", 1) * by}
    warmup = {"optim.warmup": cfg.optim.warmup * by} if cfg.optim.get("warmup") else {}
    return flags | {"steps": cfg.steps * by} | warmup


def changed(cfg, flags):
    """A copy of a config with dotted values set."""
    copy = cfg.copy_and_resolve_references()
    with copy.unlocked(), copy.ignore_type():
        for key, value in flags.items():
            *sections, last = key.split(".")
            section = copy
            for name in sections:
                section = section[name]
            section[last] = value
    return copy


def predict(step, chip, count, traffic):
    """Predicted seconds of a step on `count` chips with the same share each: {compute, memory, collectives}.

    Collectives of the whole slice grow with it; those of smaller groups, such as tensor parallelism, stay as they are.
    """
    seconds = 0.0
    for row in step["collectives"]:
        whole = row["group"] >= step["compiled_for"] or row["kind"] in ("all-reduce", "reduce-scatter")
        group = count if whole else min(row["group"], count)
        seconds += chips.collective_seconds(chip, count, row["kind"], row["bytes"], row["count"], group)
    return {"compute": step["flops"] / chip.flops, "memory": traffic / chip.bandwidth, "collectives": seconds}


def scaling(step, chip, traffic):
    """Predicted weak scaling: rows {chips, seconds of collectives, apart, overlapped}, the shares of a chip's speed."""
    rows = []
    for count in CHIPS:
        at = predict(step, chip, count, traffic)
        own, sent = max(at["compute"], at["memory"]), at["collectives"]
        rows.append({"chips": count, "seconds": sent, "apart": own / (own + sent), "overlapped": own / max(own, sent)})
    return rows


def moved(found):
    """Bytes of main memory that the prediction is made of: the compiler's, or the floor where another stood in."""
    step = found["step"]
    return step["traffic"] if found["compiler"] != "cpu" and "traffic" in step else step["floor"]


def table(found):
    """The plan for people to read."""
    where, step = found["topology"], found["step"]
    lines = [heading(found), *noted(found), *memory_lines(step, found["memory"])]
    if found["fits"]:
        lines.append("fits     yes")
    elif "error" in step or "memory" in step:
        lines += fix_lines(found)
        step = (found["fixed"] or {}).get("step") or step
    if "error" in step:
        return "\n".join(lines)
    lines += work_lines(found | {"step": step})
    if where.chip.flops:
        lines += time_lines(found | {"step": step})
    return "\n".join(lines)


def heading(found):
    """One line: what is planned for where."""
    model, where, step = found["model"], found["topology"], found["step"]
    name = " ".join(str(model.get(key) or "") for key in ("name", "variant")).strip()
    each = found["batch"] / (step["parts"] * where.count / step["compiled_for"])
    share = f"{found['batch']} clips a step, {each:g} for each part of the batch"
    return f"plan     {name}, {found['classes']} classes, {share}, on {where.text}"


def noted(found):
    """The notes as lines of a page."""
    wrapped = (textwrap.wrap(note, 108) for note in notes(found))
    return [f"{'note' if i == 0 else '':<9}{line}" for lines in wrapped for i, line in enumerate(lines)]


def notes(found):
    """What is to be known of where the figures come from."""
    where, step, compiler = found["topology"], found["step"], found["compiler"]
    names = {"tpu": "libtpu's compile-only TPU compiler", "gpu": "XLA's CUDA compiler without a GPU"}
    names["cpu"] = f"the CPU compiler, for {step['compiled_for']} virtual devices"
    if "memory" in step or "error" in step:
        yield f"compiled with {names[compiler]}" + (f" in {step['seconds']:.0f} s" if "seconds" in step else "")
    else:
        compiler = None
        yield (
            "traced, not compiled: temporaries and peak are unknown, collectives are estimated from the parameters, "
            "the traffic is its floor"
        )
    if compiler == "cpu" and where.name != "cpu":
        yield (
            f"{aot.MODULES[where.chip.backend]} is not installed (extra plan-{where.chip.backend}): the temporaries, "
            "the peak, the traffic and the number and type of collectives are of a CPU's program, not to be believed; "
            "state, FLOPs and the floor of traffic, of which the step is predicted, hold"
        )
    if compiler == "gpu":
        yield "without a GPU nothing is autotuned: layouts and workspaces may differ on the card"
    if where.name == "cpu":
        yield "a CPU has no published roofline: no step time is predicted; `memory` is this machine's over its devices"
    if step["compiled_for"] != where.count:
        yield (
            f"compiled for {step['compiled_for']} of {where.count} chips with the same clips each and extrapolated: "
            "bytes a chip stay, rings grow, beyond a pod or node the network carries each chip's part"
        )
    kept = step["state"]["params"]
    if kept < step["whole"] and kept > 2 * step["whole"] / step["fsdp"]:
        yield (
            f"{spoken(kept)} of {spoken(step['whole'])} of parameters are on each device: config.mesh.fsdp="
            f"{step['fsdp']} divides too few of their axes; a smaller power of two may divide more"
        )
    if step["devices"] != step["compiled_for"]:
        yield f"config.mesh takes {step['devices']} of the {step['compiled_for']} chips; config.mesh.data=-1 takes all"


def memory_lines(step, memory):
    """Bytes of one device."""
    own = step["state"]
    rows = [("parameters", own["params"]), ("optimizer", own["optimizer"])]
    if "memory" in step:
        at = step["memory"]
        rows += [("other input", at["argument"] - own["params"] - own["optimizer"]), ("temporaries", at["temp"])]
        rows += [("program", at["generated_code"])]
    elif "error" not in step:
        return [f"memory   {name:<12}{spoken(size):>10}" for name, size in rows]
    total = peak(step)
    text = f"{spoken(total):>10} of {spoken(memory)}, {total / memory:.1%}" if total else "more than there is"
    return [f"memory   {name:<12}{spoken(size):>10}" for name, size in rows] + [f"memory   {'peak':<12}{text}"]


def spoken(size):
    """Bytes for people to read."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 100 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} B"


def fix_lines(found):
    """That a step does not fit, and what was found to make it."""
    lines = [f"fits     no: a step may take {ROOM:.0%} of the memory"]
    if not found["fixed"]:
        return lines
    for flags, size in found["fixed"]["tried"]:
        text = " ".join(f"--config.{key}={value}" for key, value in flags.items())
        lines.append(f"tried    {text}: {size if isinstance(size, str) else spoken(size) if size else 'too much'}")
    flags = found["fixed"]["flags"]
    text = " ".join(f"--config.{key}={value}" for key, value in (flags or {}).items())
    end = (
        f"change   {text}, compiled; what follows is of it"
        if flags
        else "change   none of these: take more or larger chips"
    )
    return [*lines, end]


def work_lines(found):
    """Arithmetic, traffic and collectives of one device."""
    step = found["step"]
    lines = [f"work     {step['flops'] / 1e9:.4g} GFLOP a device in products and convolutions"]
    if "traffic" in step:
        ratio = f", {step['traffic'] / step['floor']:.2f} times the floor of {spoken(step['floor'])}"
        lines += [f"work     {spoken(step['traffic'])} of memory traffic by the compiled program{ratio}"]
    if step.get("compiler_flops"):
        once = f"{step['compiler_flops'] / 1e9:.4g} GFLOP, {spoken(step['compiler_bytes'])}"
        lines.append(f"work     the compiler's own count, bodies of loops once: {once}")
    for row in step["collectives"]:
        kind, whole = f"{row['kind']:<18} {row['count']:>4} x", spoken(row["bytes"])
        lines.append(f"sends    {kind}, {whole} in all, over {row['group']} devices")
    return lines or ["sends    nothing"]


def time_lines(found):
    """Predicted seconds against the roofline, and weak scaling."""
    step, where, traffic = found["step"], found["topology"], moved(found)
    at = predict(step, where.chip, where.count, traffic)
    own = max(at["compute"], at["memory"])
    parts = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in at.items())
    overlapped, apart = max(own, at["collectives"]), own + at["collectives"]
    rate = found["batch"] / apart
    lines = [
        f"predict  floors of one step at the published peaks: {parts}",
        f"predict  step of at least {1000 * overlapped:.2f} ms with overlap, {1000 * apart:.2f} ms without; "
        f"at most {rate:.0f} clips/s without",
        "predict  weak scaling against a chip at its floor (a slower step hides more):",
        f"predict  {'chips':>6} {'collectives':>13} {'no overlap':>11} {'overlapped':>11}",
    ]
    for row in scaling(step, where.chip, traffic):
        sent = f"{1000 * row['seconds']:.2f} ms"
        lines.append(f"predict  {row['chips']:>6} {sent:>13} {row['apart']:>11.1%} {row['overlapped']:>11.1%}")
    return lines
