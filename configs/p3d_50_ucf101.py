"""P3D-ResNet-50 fine-tuned on UCF101, as in the paper's study of its blocks.

    vidjax train --config=configs/p3d_50_ucf101.py --workdir=runs/p3d_ucf --config.data.path=DIR

DIR holds train/<class>/*.avi and val/<class>/*.avi of one split. The recipe is that of Qiu et al. (ICCV 2017, section
4.2): 16 frames of 160x160 out of 182x242, batches of 128, SGD from 0.001, divided by 10 every 3,000 of 7,500 steps,
dropout 0.9, all batch norms but the first frozen. There the net begins with ResNet-50's ImageNet weights: give them
with --config.init.path=WORKDIR, or train from scratch with the norms free (--config.optim.frozen_norms='').
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 84.2 %
top-1 (20 centre crops) beside 80.8 % for ResNet-50 and 83.7, 82.8 and 83.0 % for the variants 50_A, 50_B and 50_C.
"""

from configs import p3d_199_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = p3d_199_kinetics400.get_config(arg)
    if arg == "smoke":
        return cfg
    cfg.steps = 7_500
    cfg.model.update({"variant": "50", "dropout": 0.9})
    cfg.eval.every, cfg.checkpoint_every = 500, 500
    cfg.optim.update({"boundaries": (3_000, 6_000), "frozen_norms": r"(?!stem/).*"})
    return cfg
