"""How deep in time a kernel should be: C3D's small nets on UCF101 from nothing (Tran et al., ICCV 2015, section 3.2).

    vidjax train --config=configs/c3d_study_ucf101.py --workdir=runs/c3d_study_ucf101

FILE.py:NAME trains another net: d1, d3 (the default), d5, d7, increasing (3-3-5-5-7), decreasing (7-5-5-3-3), or 64 and
256, which are d3 on 64 and 256 px. Recipe: the paper's and its conv3d_ucf101_solver: 16 frames, batches of 30, SGD at
0.003, a tenth every 20,000 steps, 60,000 steps, weight decay 0.005. The test is one centre clip of split 1, as the
paper compares clips.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; in the paper's figure 2
depth 3 is best of all six and depth 1, which sees no motion but in its pools, the worst.
"""

from configs import c3d_ucf101

SIZES = {"64": (64, 56), "256": (256, 224)}  # short side and crop
NETS = ("d1", "d3", "d5", "d7", "increasing", "decreasing", *SIZES)


def get_config(arg=""):
    """The config of the net `arg`, by default d3; `arg="smoke"` shrinks it to seconds."""
    smoke, net = arg == "smoke", "d3" if arg in ("", "smoke") else arg
    if net not in NETS:
        raise ValueError(f"The config's argument is smoke or one of {', '.join(NETS)}, not {arg!r}.")
    cfg = c3d_ucf101.get_config("smoke" if smoke else "")
    del cfg.init
    cfg.steps = 4 if smoke else 60_000
    cfg.optim.update({"lr": 0.003, "boundaries": (20_000, 40_000), "weight_decay": 0.005})
    cfg.eval.clips = 1
    if not smoke:
        short, size = SIZES.get(net, (128, 112))
        cfg.model.variant = f"study_{net}"
        cfg.data.update({"short_side": short})
        cfg.data.augment.size = size
        cfg.eval.update({"resize": short, "size": size})
    return cfg
