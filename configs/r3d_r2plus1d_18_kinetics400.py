"""R(2+1)D-18 on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/r3d_r2plus1d_18_kinetics400.py --workdir=runs/k400 --config.data.path=DIR

DIR holds train/<class>/*.mp4 and val/<class>/*.mp4, or is what
`vidjax data build --dataset=kinetics400 --source=DOWNLOADS --out=DIR --short_side=128` made, which reads several times
as fast. The recipe is the paper's (Tran et al., CVPR 2018, section 4: 45 epochs of a million clips, 16 frames of
112x112, SGD at 0.01 for 32 clips a GPU), with a cosine instead of its steps.
Hardware and cost: made for 8 GPUs at 256 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
the paper reports 68.0 % top-1 (10 centre crops) and torchvision 67.46 % (5 clips) for their variants of this net.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 45 * 1_000_000 // 256
    cfg.model = {"name": "r3d", "variant": "r2plus1d_18_paper", "dtype": "float32" if smoke else "bfloat16"}
    if smoke:
        cfg.model.update({"depths": (1, 1), "widths": (4, 8), "strides": (1, 2), "convs": ("2plus1d",) * 2})
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else 256, "short_side": 128, "workers": 0 if smoke else 14})
    cfg.data.clip = {"sampler": "random_clip", "size": 4 if smoke else 16, "stride": 2}
    cfg.data.augment.update({"size": 32 if smoke else 112, "scale": (0.5, 1.0), "ratio": (0.75, 1.33), "color": 0.0})
    cfg.data.augment.flip_pairs = ()
    cfg.eval.update({"size": cfg.data.augment.size, "clips": 1 if smoke else 10, "every": 2 if smoke else 20_000})
    cfg.eval.allow_bad = True  # parts of Kinetics are always missing; the report names them
    cfg.optim = {
        "name": "sgd",
        "lr": 0.08,
        "warmup": 2 if smoke else 10 * 1_000_000 // 256,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 2_000), 3, (1 if smoke else 50)
    return cfg
