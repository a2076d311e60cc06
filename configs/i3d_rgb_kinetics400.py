"""I3D on Kinetics-400 (Carreira & Zisserman, CVPR 2017): Inception-v1 inflated in time, 64 frames of RGB.

    vidjax train --config=configs/i3d_rgb_kinetics400.py --workdir=runs/i3d_rgb --config.data.path=DIR

DIR is as in configs/r3d_r2plus1d_18_kinetics400.py, but of 256 px. From scratch; with `--config.init.path=RUN`, a 2-D
Inception-v1 on ImageNet (frame_pool over the backbone inception_v1), from its kernels repeated in time and divided by
their number, as the paper's best. Recipe: section 2.5 and its replay, kinetics-i3d: 64 frames, 224 px of a short side
of 256, mirror images, SGD, momentum 0.9, at 0.1, a tenth at 97,000 and 108,000 of 115,000 steps, dropout 0.5, weight
decay 1e-7. Ours: bfloat16, 256 clips a batch, videos at their own frame rate where the paper has 25 frames a second.
The test (i3d_full) is one clip of 250 frames, the centre of 224 px, logits averaged.
Hardware and cost: the paper has 32 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the authors
report on Kinetics' test set 71.1 % top-1 and 89.3 % top-5 (68.4 % top-1 from scratch).
"""

from configs import quickstart

INCEPTION = (("(params|batch_stats)/backbone/(.*)", r"\1/rgb/\2"),)  # a 2-D net's paths, ours


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    if arg not in ("", "smoke"):
        raise ValueError(f"The config's argument is smoke, not {arg!r}.")
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 115_000
    cfg.model = {"name": "i3d", "variant": "small"} if smoke else {"name": "i3d", "variant": "rgb", "dtype": "bfloat16"}
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else 256, "short_side": 0 if smoke else 256})
    cfg.data.workers = 0 if smoke else 14
    cfg.data.clip = {"sampler": "random_clip", "size": 4 if smoke else 64, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 224, "crop": "random", "flip": 0.5}
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 10_000, "average": "logit"})
    cfg.eval.batch_size = 8 if smoke else 32
    cfg.eval.allow_bad = True  # parts of Kinetics are always missing; the report names them
    if not smoke:
        cfg.eval.protocol = "i3d_full"
        cfg.init = {"path": "", "inflate": True, "rename": INCEPTION, "skip": "params/(rgb/)?head/.*"}
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-2 if smoke else 0.1,
        "schedule": "steps",
        "boundaries": (97_000, 108_000),
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 1e-7,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 1_000), 3, (1 if smoke else 50)
    return cfg
