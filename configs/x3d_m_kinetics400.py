"""X3D-M on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/x3d_m_kinetics400.py --workdir=runs/x3d_m_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is that of Feichtenhofer (CVPR 2020,
section 4.1) and PySlowFast's X3D_M.yaml: 16 frames of 224x224, every fifth, from a short side of 256 to 320, 300 epochs
with 35 of warm-up, half a cosine from 0.1 for 128 clips, weight decay 5e-5. The other sizes: --config.model.variant and
the clip, s and xs with --config.data.augment.size=160.
Hardware and cost: made for 8 GPUs at 128 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
PySlowFast reports 76.2 % top-1 (10 clips x 3 crops of 256) and 75.1 % (10 centre crops of 224).
"""

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = slow_r50_kinetics400.get_config(arg)
    if arg == "smoke":
        cfg.model = {"name": "x3d", "variant": "small"}
        return cfg
    epoch = 240_000 // 128
    cfg.steps = 300 * epoch
    cfg.model = {"name": "x3d", "variant": "m", "dtype": "bfloat16"}
    cfg.data.batch_size, cfg.data.clip = 128, {"sampler": "random_clip", "size": 16, "stride": 5}
    cfg.eval.every = 10 * epoch
    cfg.optim.update({"lr": 0.1, "warmup": 35 * epoch, "weight_decay": 5e-5})
    return cfg
