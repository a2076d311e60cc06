"""What masked pre-training is worth: VideoMAE's small net on the motion suite, few labels, with and without it.

    vidjax train --config=configs/videomae_motion.py:pretrain --workdir=runs/videomae_motion/pretrain
    vidjax train --config=configs/videomae_motion.py:finetune --workdir=runs/videomae_motion/finetune
    vidjax train --config=configs/videomae_motion.py:scratch --workdir=runs/videomae_motion/scratch

`pretrain` fills in half of the patches of 2400 videos without their labels. `finetune` starts from
runs/videomae_motion/pretrain (or --config.init.path=RUN) and learns for 300 steps from 240 of them, 30 of each class;
`scratch` is the same without a start. All are evaluated on 480 videos, the first in vain: nothing teaches its head.
Without a word after the colon it is `scratch`; `smoke` is `pretrain` in seconds. Targets are pixels as the net sees
them: patches of mean 0 and variance 1, the paper's choice, are mostly noise in these flat pictures (a loss of 0.986
after 1700 steps, where 1 is that of the mean).
Hardware and cost: one CPU core; half an hour to pre-train beside other work, two to three minutes each for the others.
Expected: fine-tuned 62.9, 62.5 and 63.5 %, from scratch 52.7, 37.3 and 62.7 % with seeds 0, 1 and 2 (2026-11-22). What
it saves is labelled steps: after 600 scratch has 78.3 %. Hiding three quarters of the tubes for half as long taught
nothing that lasts (80.8 % against 78.3 after 600 steps; 59.8 against 75.8 with 80 labels). Chance is 12.5 %.
"""

from configs import quickstart

WORDS = ("pretrain", "finetune", "scratch", "smoke")


def get_config(arg=""):
    """The config of one of WORDS; ValueError for another."""
    if (arg or "scratch") not in WORDS:
        raise ValueError(f"configs/videomae_motion.py takes one of {', '.join(WORDS)} after the colon, not {arg!r}.")
    smoke, learning = arg == "smoke", arg in ("pretrain", "smoke")
    cfg = quickstart.get_config("smoke" if smoke else "")
    cfg.model = {"name": "videomae", "variant": "small"}
    if learning:
        cfg.model = {"name": "videomae", "variant": "pretrain_small", "normalised": False}
    cfg.optim.update({"lr": 1e-3, "b2": 0.95})
    if learning:
        cfg.model.update({"masking": "random", "mask_ratio": 0.5})
        cfg.steps = 4 if smoke else 3000
        cfg.optim.warmup = 2 if smoke else 200
        cfg.data.augment.color = 0.0
        cfg.loss.label_smoothing = 0.0
        cfg.loss.weights = {"main": 0.0, "mae": 1.0}
        cfg.eval.every = cfg.steps
        return cfg
    cfg.steps = cfg.eval.every = 300
    cfg.data.motion.update({"out": "data/motion_240", "train": 240})
    cfg.model.drop_path = 0.1
    if arg == "finetune":
        cfg.init = {"path": "runs/videomae_motion/pretrain", "skip": "params/(decoder/.*|norm/.*|head/.*)"}
    return cfg
