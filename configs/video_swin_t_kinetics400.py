"""Video Swin-T on Kinetics-400, from the weights of an image Swin transformer or from scratch.

    vidjax train --config=configs/video_swin_t_kinetics400.py --workdir=runs/swin_t --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is the authors'
swin_tiny_patch244_window877_kinetics400_1k (Liu et al., CVPR 2022), which starts from an image Swin-T learnt on
ImageNet: 32 frames of 224x224, every second one, 64 clips a batch, AdamW at 1e-3 (a tenth of it for all but the head),
2.5 of 30 epochs of warm-up, then half a cosine, decay 0.02, drop path up to 0.1. Without such a start, which
--config.init.path=DIR gives, lower rates for the body make no sense: set --config.optim.groups="()".
Hardware and cost: made for 8 GPUs of 32 GB; not run yet, so its cost is unknown.
Expected: not trained yet; the authors report 78.8 % top-1 (4 clips x 3 crops).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    batch = 64
    epoch = 240_000 // batch
    cfg.steps = 4 if smoke else 30 * epoch
    cfg.model = {"name": "video_swin", "variant": "small" if smoke else "swin3d_t"}
    if not smoke:
        cfg.model.update({"dtype": "bfloat16", "drop_path": 0.1})
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else batch, "short_side": 256, "workers": 0 if smoke else 14})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 32, "stride": 1 if smoke else 2}
    cfg.data.augment.update({"size": 32 if smoke else 224, "scale": (0.08, 1.0), "ratio": (0.75, 1.33), "color": 0.0})
    cfg.data.augment.flip_pairs = ()
    cfg.eval.update({"size": 32 if smoke else 224, "every": 2 if smoke else 5 * epoch, "batch_size": 8})
    cfg.eval.update({"clips": 1 if smoke else 4, "crops": 1 if smoke else 3})
    cfg.eval.allow_bad = True  # parts of Kinetics are always missing; the report names them
    cfg.optim = {
        "name": "adamw",
        "lr": 1e-3,
        "warmup": 2 if smoke else 5 * epoch // 2,
        "weight_decay": 0.02,
        "groups": ((r"(?!head/).*", 0.1),),
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 2_000), 3, (1 if smoke else 50)
    return cfg
