"""MoViNet-A0-Stream on Kinetics-600, or on any folder of real videos with GPUs or TPUs behind it.

    vidjax train --config=configs/movinet_a0_stream_kinetics600.py --workdir=runs/movinet --config.data.path=DIR

DIR is as in configs/r3d_r2plus1d_18_kinetics400.py, of Kinetics-600, at --short_side=192. The recipe is TF Garden's
(official/projects/movinet/configs/yaml/movinet_a0_stream_k600_8x8.yaml): 50 frames of 172x172, every fifth, from crops
of 0.08 to 1 of the frame, 85,785 steps of 1024 clips, half a cosine from 1.8 with 2145 steps of warm-up, label
smoothing 0.1, dropout and drop path 0.2. Its RMSProp has an epsilon of 1, beside which the squares of gradients
clipped to norm 1 are small, so that it is momentum SGD, which is taken here.
--config.model.variant takes any net of `vidjax models`; their sizes and rates are in their SIZES.
Hardware and cost: made for a TPU slice of 64 chips; not run yet, so its cost is unknown. Expected: not trained yet; TF
Garden reports 72.05 % top-1 for A0-Stream and 72.28 % for A0-Base (one clip of 10 seconds x 1 crop of 172).
"""

from configs import r3d_r2plus1d_18_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_18_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 85_785
    cfg.model = {"name": "movinet", "variant": "small" if smoke else "a0_stream", "dropout": 0.2, "drop_path": 0.2}
    cfg.model.dtype = "float32" if smoke else "bfloat16"
    cfg.data.update({"batch_size": 8 if smoke else 1024, "short_side": 0 if smoke else 192})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 50, "stride": 1 if smoke else 5}
    cfg.data.augment.update({"size": 32 if smoke else 172, "scale": (0.08, 1.0), "ratio": (0.5, 2.0)})
    cfg.eval.update({"size": 32 if smoke else 172, "resize": 0 if smoke else 192, "clips": 1, "crops": 1})
    cfg.optim = {
        "name": "sgd",
        "lr": 0.1 if smoke else 1.8,
        "warmup": 2 if smoke else 2145,
        "momentum": 0.9,
        "weight_decay": 3e-5,
        "clip_norm": 1.0,
    }
    cfg.loss.label_smoothing = 0.1
    return cfg
