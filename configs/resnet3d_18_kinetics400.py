"""3-D ResNet-18 on Kinetics-400, by the recipe of Hara et al. (CVPR 2018).

    vidjax train --config=configs/resnet3d_18_kinetics400.py --workdir=runs/resnet3d_k400 --config.data.path=DIR

DIR is as in configs/r3d_r2plus1d_18_kinetics400.py. The recipe is the repository's (opts.py): 16 successive frames,
a crop of 0.25 to 1 of the area at 112x112, SGD with momentum 0.9, weight decay 1e-3, 0.1 for 128 clips divided by 10
after 50, 100 and 150 of 200 epochs. The paper's own steps wait for the validation loss instead, at 256 clips.
--config.model.variant=resnet50 (or any of `vidjax models`) trains another depth or shortcut.
Hardware and cost: made for 4 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports
54.2 % top-1 for ResNet-18 and 61.3 % for ResNet-50 (its windows of 16 frames, centre crop, scores averaged), cited
from memory. The report's views are 10 clips x 1 crop.
"""

from configs import r3d_r2plus1d_18_kinetics400

EPOCH = 240_436 // 128  # steps


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_18_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 200 * EPOCH
    cfg.model = {"name": "resnet3d", "variant": "small" if smoke else "resnet18"}
    cfg.model.dtype = "float32" if smoke else "bfloat16"
    cfg.data.batch_size = 8 if smoke else 128
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 16, "stride": 1}
    cfg.data.augment.update({"scale": (0.25, 1.0), "ratio": (0.75, 1.33)})
    cfg.optim = {
        "name": "sgd",
        "lr": 0.1,
        "warmup": 0,
        "schedule": "steps",
        "boundaries": (2, 3, 4) if smoke else (50 * EPOCH, 100 * EPOCH, 150 * EPOCH),
        "factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-3,
    }
    return cfg
