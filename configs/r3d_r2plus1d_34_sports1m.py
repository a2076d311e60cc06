"""R(2+1)D-34 on Sports-1M, by the recipe of Tran et al. (CVPR 2018, section 4.4).

    vidjax train --config=configs/r3d_r2plus1d_34_sports1m.py --workdir=runs/r2plus1d_s1m --config.data.path=DIR

DIR holds train/<class>/*.mp4 and val/<class>/*.mp4 or is what `vidjax data build` made of them; parts of Sports-1M's
1.1 million addresses are gone. 32 successive frames of 112x112, SGD at 0.01 for 32 clips a GPU, divided by 10 every ten
of 45 epochs of a million clips, the first ten warming up.
Hardware and cost: made for 64 GPUs (152 GMAC a clip); not run yet, so its cost is unknown. Expected: not trained yet;
the paper reports 57.0 % for clips and 73.0 % / 91.5 % top-1 / top-5 for videos (protocol r2plus1d_100: 100 clips x 1
centre crop).
"""

from configs import r3d_r2plus1d_18_kinetics400

CLIPS = 32 * 64  # a batch: 32 for each of 64 GPUs
EPOCH = 1_000_000 // CLIPS  # steps


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_18_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 45 * EPOCH
    if not smoke:
        cfg.model.variant = "r2plus1d_34_paper"
        cfg.data.batch_size = CLIPS
        cfg.eval.every = 5 * EPOCH
    cfg.data.clip = {"sampler": "random_clip", "size": 4 if smoke else 32, "stride": 1}
    cfg.eval.protocol = "" if smoke else "r2plus1d_100"
    cfg.optim.update(
        {
            "lr": 0.01 * CLIPS / 32,
            "warmup": 2 if smoke else 10 * EPOCH,
            "schedule": "steps",
            "boundaries": (2, 3, 4) if smoke else (20 * EPOCH, 30 * EPOCH, 40 * EPOCH),
            "factor": 0.1,
        }
    )
    return cfg
