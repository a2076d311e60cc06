"""The Flow Gated Network on RWF-2000: is there violence in five seconds of a surveillance camera, from RGB and flow?

    vidjax train --config=configs/flow_gated_rwf2000.py --workdir=runs/flow_gated --config.data.path=DIR

DIR holds train/<class>/*.avi and val/<class>/*.avi of the two classes Fight and NonFight; its authors give the videos
out on request. The recipe is the paper's (Cheng et al., ICPR 2020, section 5) and its code's: 64 frames of 224x224 and
Farneback's flow less its mean, SGD with Nesterov momentum at 0.01 for 30 epochs of 8 videos a step, times 0.7 every 10
epochs, dropout 0.2, flips and jittered colours. Here frames are evenly spaced (there every third, and the last ones
once more) and squares are cut out of them (there whole frames are squeezed into one).
Hardware and cost: one GPU of 16 GB or more; not run yet, so its cost is unknown. Expected: not trained yet; the paper
reports 87.25 % accuracy on RWF-2000's 400 held-out videos (one clip of each, the whole frame).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    epoch = 1600 // 8
    cfg.steps = 4 if smoke else 30 * epoch
    cfg.model = {"name": "flow_gated", "variant": "small" if smoke else "rwf", "stretch": True, "dropout": 0.2}
    del cfg.data.motion
    cfg.data.update({"batch_size": 8, "short_side": 0 if smoke else 256, "workers": 0 if smoke else 14})
    cfg.data.modalities = ("rgb", "flow")
    cfg.data.flow = {"source": "online", "method": "farneback", "bound": 20.0, "subtract": "mean"}
    cfg.data.clip = {"sampler": "evenly_spaced", "size": 8 if smoke else 64, "stride": 1}
    cfg.data.augment = {
        "size": 32 if smoke else 224,
        "scale": (0.8, 1.0),
        "ratio": (0.9, 1.1),
        "flip": 0.5,
        "color": 0.2,
        "flip_pairs": (),
    }
    cfg.eval.update({"size": 32 if smoke else 224, "resize": 0 if smoke else 224, "batch_size": 8})
    cfg.eval.every = 2 if smoke else epoch
    cfg.optim = {
        "name": "sgd",
        "lr": 0.01,
        "warmup": 0,
        "momentum": 0.9,
        "nesterov": True,
        "schedule": "steps",
        "boundaries": (10 * epoch, 20 * epoch),
        "factor": 0.7,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.log_every = (2 if smoke else epoch), (1 if smoke else 20)
    return cfg
