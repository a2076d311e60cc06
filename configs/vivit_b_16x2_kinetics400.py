"""ViViT-B/16x2 on Kinetics-400, from the weights of an image transformer.

    vidjax train --config=configs/vivit_b_16x2_kinetics400.py --workdir=runs/vivit --config.data.path=DIR \\
        --config.init.path=RUN

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. RUN holds variables that
`vivit.init_from_image` made of an image ViT-B/16 (timm's vit_base_patch16_224, learnt on ImageNet-21k); without init
the net starts at random, from which the paper does not train. Other models of the paper:
--config.model.variant=b_16x2_encoder, b_16x2_self_attention or b_16x2_dot_product.
The recipe is Scenic's vivit_base_k400 (Arnab et al., ICCV 2021): 32 frames of 224x224, every second one, of frames
scaled by 0.9 to 1.33, with colours changed, 64 clips a batch, SGD with momentum at 0.1, warmed up for 2.5 of 30 epochs
and then half a cosine, gradients clipped at 1, no weight decay.
Hardware and cost: made for 8 TPUs or GPUs of 16 GB with config.model.remat; not run yet, so its cost is unknown.
Expected: not trained yet; Scenic reports 79.9 % top-1 for ViViT-B/16x2 and 78.4 % for its factorised encoder (4 clips x
3 crops).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    epoch = 214_834 // 64
    cfg.steps = 4 if smoke else 30 * epoch
    cfg.model = {"name": "vivit", "variant": "small" if smoke else "b_16x2"}
    if not smoke:
        cfg.model.update({"dtype": "bfloat16", "scan": True, "remat": True})
        cfg.init = {"path": "", "skip": "params/head/.*"}
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else 64, "short_side": 256, "workers": 0 if smoke else 14})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 32, "stride": 1 if smoke else 2}
    cfg.data.augment.update({"size": 32 if smoke else 224, "scale": (0.4, 1.0), "ratio": (0.9, 1.1), "color": 0.4})
    cfg.data.augment.flip_pairs = ()
    cfg.eval.update({"size": 32 if smoke else 224, "every": 2 if smoke else 5 * epoch, "batch_size": 8})
    cfg.eval.update({"clips": 1 if smoke else 4, "crops": 1 if smoke else 3})
    cfg.eval.allow_bad = True  # parts of Kinetics are always missing; the report names them
    cfg.optim = {
        "name": "sgd",
        "lr": 0.1,
        "warmup": 2 if smoke else 5 * epoch // 2,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 2_000), 3, (1 if smoke else 50)
    return cfg
