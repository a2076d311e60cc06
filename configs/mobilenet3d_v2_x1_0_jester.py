"""3-D MobileNetV2 on Jester, the hand gestures, by the recipe of Köpüklü et al. (ICCV workshops 2019).

    vidjax train --config=configs/mobilenet3d_v2_x1_0_jester.py --workdir=runs/jester --config.data.path=DIR

DIR is what `vidjax data build --dataset=jester --source=DOWNLOADS --out=DIR` made. The recipe is the repository's
(okankop/Efficient-3DCNNs, README and opts.py): 16 frames x stride 2, square crops of 0.5 to 1 of the shorter side at
112x112, no mirroring (swiping left would become swiping right), SGD with momentum 0.9 and weight decay 1e-3 for 64
clips, divided by 10 after 40, 55 and 65 of 70 epochs. Its rate of 0.1 is damped by 0.9, which is 0.01 here.
--config.model.name and .variant take any of the light nets of `vidjax models`.
Hardware and cost: made for one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper's table 8
reports 94.59 % top-1 for this net and 90.81 % for the first MobileNet (one centre clip x centre crop, validation).
"""

from configs import r3d_r2plus1d_18_kinetics400

EPOCH = 118_562 // 64  # steps


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_18_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 70 * EPOCH
    cfg.model = {"name": "mobilenet3d", "variant": "small" if smoke else "v2_x1_0"}
    cfg.model.dtype = "float32" if smoke else "bfloat16"
    cfg.data.update({"batch_size": 8 if smoke else 64, "short_side": 0})  # frames of Jester are 100 pixels high
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 16, "stride": 1 if smoke else 2}
    cfg.data.augment.update({"scale": (0.25, 1.0), "ratio": (1.0, 1.0), "flip": 0.0})
    cfg.eval.clips = 1
    cfg.optim = {
        "name": "sgd",
        "lr": 0.01,
        "warmup": 0,
        "schedule": "steps",
        "boundaries": (2, 3) if smoke else (40 * EPOCH, 55 * EPOCH, 65 * EPOCH),
        "factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-3,
    }
    return cfg
