"""The README's table of predicted weak scaling: one row of `vidjax plan` for each net, with its command.

    python tests/bench/scaling.py [NAME ...] --topology=v5e:16x16 --out=FOLDER

Compiles whole nets: minutes each on two cores. FOLDER keeps each plan as it is printed, and the table's row.
"""

import argparse
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from vidjax import commandline, config, plan  # noqa: E402
from vidjax.plan import aot  # noqa: E402

NETS = {  # name: (config, clips a chip, changes)
    "i3d": ("i3d_rgb_kinetics400", 4, {}),
    "ir_csn_152": ("csn_ir_50_kinetics400", 4, {"model.variant": "ir_152"}),
    "slowfast_8x8_r50": ("slowfast_8x8_r50_kinetics400", 8, {}),
    "i3d, own norms": ("i3d_rgb_kinetics400", 4, {"bn": "per_device"}),
    "ir_csn_152, own norms": ("csn_ir_50_kinetics400", 4, {"model.variant": "ir_152", "bn": "per_device"}),
    "slowfast_8x8_r50, own norms": ("slowfast_8x8_r50_kinetics400", 8, {"bn": "per_device"}),
    "vivit_l_16x2": ("vivit_b_16x2_kinetics400", 2, {"model.variant": "l_16x2"}),
    "videomae_g": ("videomae_pretrain_b_kinetics400", 2, {"model.variant": "g"} | {
        "loss.weights": {}, "optim.accumulate": 1, "remat": "block", "model.scan": True,
        "sharding": "fsdp", "mesh.data": -1, "mesh.fsdp": 64,
    }),
    "videomae_pretrain_b": ("videomae_pretrain_b_kinetics400", 32, {}),
    "r2plus1d_18": ("r3d_r2plus1d_18_kinetics400", 16, {}),
}  # fmt: skip


def row(name, topology, seconds):
    """A net's (row of the table, plan as printed)."""
    file, clips, changes = NETS[name]
    cfg = plan.changed(commandline.complete(config.from_file(f"{ROOT}/configs/{file}")), changes)
    try:
        found = plan.plan(cfg, topology, per_chip=clips, seconds=seconds or 600, fix=False, compile=seconds > 0)
    except aot.PlanError as error:
        print(name, error, flush=True)
        found = plan.plan(cfg, topology, per_chip=clips, compile=False)
    flags = " ".join(f"--config.{key}={value}" for key, value in changes.items() if not isinstance(value, dict))
    command = f"vidjax plan --config=configs/{file}.py --topology={topology} --per_chip={clips} {flags}".strip()
    return cells(name, clips, found), f"{command}\n\n{plan.table(found)}\n"


def cells(name, clips, found):
    """One row of the table."""
    step, chip, traffic = found["step"], found["topology"].chip, plan.moved(found)
    if "error" in step:
        return f"| {name} | {clips} | does not fit: {step['error'][:80]} |"
    sent = {kind: sum(r["bytes"] for r in step["collectives"] if r["kind"] == kind) for kind in ("all-reduce",)}
    rest = sum(r["bytes"] for r in step["collectives"]) - sent["all-reduce"]
    count = sum(r["count"] for r in step["collectives"])
    at = {r["chips"]: r for r in plan.scaling(step, chip, traffic)}
    own = plan.predict(step, chip, 1, traffic)
    memory, bytes_moved = "traced only", f"{step['floor'] / 1e9:.0f} (floor)"
    if "memory" in step:
        memory = f"{plan.peak(step) / 1e9:.1f} of {found['memory'] / 1e9:.1f}"
        bytes_moved = f"{step['traffic'] / 1e9:.0f} ({step['traffic'] / step['floor']:.1f}x)"
    work = f"{step['flops'] / 1e12:.2f} | {bytes_moved}"
    times = f"{1e3 * own['compute']:.0f} / {1e3 * own['memory']:.0f}"
    sums = f"{count}, {sent['all-reduce'] / 1e6:.0f} + {rest / 1e6:.0f}"
    shares = " | ".join(f"{at[n]['apart']:.1%} / {at[n]['overlapped']:.1%}" for n in (256, 4096))
    return f"| {name} | {clips} | {memory} | {work} | {times} | {sums} | {shares} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", choices=[*NETS, []], default=[])
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--seconds", type=int, default=600, help="for one compilation; 0 traces only")
    parser.add_argument("--out", default="scaling")
    given = parser.parse_args()
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in given.nets or NETS:
        began = time.perf_counter()
        line, page = row(name, given.topology, given.seconds)
        label = f"{name.replace(', ', '_').replace(' ', '_')}_{given.topology.replace(':', '_')}"
        (out / f"{label}.txt").write_text(page)
        print(line, f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
