"""SlowFast 8x8 R50 on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/slowfast_8x8_r50_kinetics400.py --workdir=runs/slowfast_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is that of Feichtenhofer et al. (ICCV
2019, section 4.1) and PySlowFast's SLOWFAST_8x8_R50.yaml: 32 frames of 224x224, every second, of which the slow pathway
sees eight, from a short side of 256 to 320, 196 epochs with 34 of warm-up, half a cosine from 0.1 for 64 clips.
Hardware and cost: made for 8 GPUs at 64 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
PySlowFast reports 77.0 % and pytorchvideo 76.94 % top-1 (10 clips x 3 crops of 256).

`:multigrid` after the file's name is PySlowFast's SLOWFAST_8x8_R50_stepwise_multigrid.yaml: half as many epochs again
in 3.4 times fewer steps, of shorter and smaller clips at first (Wu et al., CVPR 2020). PySlowFast reports 76.6 % for it
beside 76.8 % of its own schedule in steps.
"""

import itertools

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds, "multigrid" is the faster schedule."""
    cfg = slow_r50_kinetics400.get_config("" if arg == "multigrid" else arg)
    if arg == "smoke":
        cfg.model = {"name": "slowfast", "variant": "small"}
        return cfg
    cfg.model = {"name": "slowfast", "variant": "8x8_r50", "slow_sampling": "linspace", "dtype": "bfloat16"}
    cfg.data.clip = {"sampler": "random_clip", "size": 32, "stride": 2}
    if arg == "multigrid":
        multigrid(cfg)
    return cfg


def multigrid(cfg, epoch=240_000 // 64, factor=1.5):
    """Three long cycles, one for each learning rate, and full clips to the end, for `factor` times 239 epochs.

    The four shapes of a cycle take as many steps each, of 32/3, 16/3, 14/3 and 7/3 base batches in the mean.
    """
    cycle, full = 23, 7 / 3
    stages, last = (94, 60, 42), 43 * 4 / cycle  # epochs at each learning rate; steps of full clips, in base epochs
    longer = factor * (sum(stages) + 43) / (sum(stages) + last * full)
    steps = [round(epoch * longer * end) for end in itertools.accumulate(s / cycle for s in stages for _ in range(4))]
    tail = round(epoch * longer * last)
    cfg.steps = steps[-1] + tail
    cfg.data.multigrid = {"long": tuple(steps[:-1]), "short": True}
    boundaries = (steps[3], steps[7], steps[-1] + tail // 2)
    cfg.optim.update({"warmup": round(34 * epoch * 4 / cycle), "schedule": "steps", "boundaries": boundaries})
    cfg.eval.precise_bn = 200
