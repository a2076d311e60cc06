"""UniFormer-S 16x4 on Kinetics-400, from the weights of an image UniFormer or from scratch.

    vidjax train --config=configs/uniformer_s_kinetics400.py --workdir=runs/uniformer_s --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is the authors' uniformer_s16x4_k400
(Li et al., ICLR 2022), which starts from an image UniFormer-S learnt on ImageNet (--config.init.path=DIR): 16 frames of
224x224, every fourth, 32 clips a batch, each video twice, AdamW at 1e-4, 10 of 110 epochs of warm-up, then half a
cosine, decay 0.05, mixup, cutmix, RandAugment, random erasing, label smoothing of 0.1, drop path up to 0.1.
Hardware and cost: made for 8 GPUs of 32 GB; not run yet, so its cost is unknown.
Expected: not trained yet; the authors report 80.8 % top-1 (4 clips x 1 crop).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    batch = 32
    epoch = 240_000 // batch
    cfg.steps = 4 if smoke else 110 * epoch
    cfg.model = {"name": "uniformer", "variant": "small" if smoke else "uniformer_s"}
    if not smoke:
        cfg.model.update({"dtype": "bfloat16", "drop_path": 0.1})
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else batch, "short_side": 256, "workers": 0 if smoke else 14})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 16, "stride": 1 if smoke else 4}
    cfg.data.augment.update({"size": 32 if smoke else 224, "scale": (0.08, 1.0), "ratio": (0.75, 1.33), "color": 0.4})
    cfg.data.augment.flip_pairs = ()
    if not smoke:
        cfg.mix = {"mixup": 0.8, "cutmix": 1.0}
        cfg.data.repeats = 2
        cfg.data.augment.update({"randaugment": (4, 7), "erase": 0.25})
    cfg.eval.update({"size": 32 if smoke else 224, "every": 2 if smoke else 5 * epoch, "batch_size": 8})
    cfg.eval.update({"clips": 1 if smoke else 4, "crops": 1})
    cfg.eval.allow_bad = True  # parts of Kinetics are always missing; the report names them
    cfg.optim = {
        "name": "adamw",
        "lr": 1e-4,
        "warmup": 2 if smoke else 10 * epoch,
        "weight_decay": 0.05,
    }
    cfg.loss.label_smoothing = 0.1
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 2_000), 3, (1 if smoke else 50)
    return cfg
