"""MotionNet without labels: optical flow from UCF101's frames alone, the first stage of the hidden two-stream net.

    vidjax train --config=configs/motionnet_full_ucf101.py --workdir=runs/motionnet --config.data.path=DIR

DIR is what `vidjax data build --dataset=ucf101 --source=DOWNLOADS --out=DIR --short_side=256` made; labels are ignored.
The recipe is the released solver's (Zhu et al., ACCV 2018; bryanyzhu/Hidden-Two-Stream, models/multiframe_MotionNet):
11 frames of 224x224 cut from 340x256 in TSN's places and sizes, 16 clips a step, Adam at 3.2e-5, beta 2 0.999, decay
4e-4, halved at 100, 200, 250, 300 and 350 thousand of 400 thousand steps. Its losses divide photometry and smoothness
by the batch once more than SSIM, hence their weights. The net is trained inside the hidden two-stream model, on which a
small untrained classifier sits that nothing learns from: accuracy stays at chance and means nothing.
The flow serves any other model: --config.data.flow.source=motionnet --config.data.flow.path=runs/motionnet.
Hardware and cost: one GPU of 24 GB or more; not run yet, so its cost is unknown. Expected: not trained yet; the
reference gives no end-point error, see configs/hidden_two_stream_full_ucf101.py for what it is good for.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 400_000
    cfg.model = {"name": "hidden_two_stream", "variant": "small"}
    if not smoke:
        cfg.model.update({"motion": "full", "frames": 11, "dtype": "bfloat16"})
    del cfg.data.motion
    cfg.data.update(
        {"batch_size": 8 if smoke else 16, "short_side": 0 if smoke else 256, "workers": 0 if smoke else 14}
    )
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 11, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 224, "crop": "multi_scale", "flip": 0.5, "flip_pairs": ()}
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 50_000, "batch_size": 8})
    cfg.optim = {
        "name": "adam",
        "lr": 3.2e-5,
        "warmup": 0,
        "schedule": "steps",
        "boundaries": (100_000, 200_000, 250_000, 300_000, 350_000),
        "factor": 0.5,
        "momentum": 0.9,
        "b2": 0.999,
        "weight_decay": 4e-4,
        "decay_paths": ".*/conv/kernel",  # not of transposed convolutions
        "trained": "motionnet/.*",
    }
    cfg.loss.label_smoothing = 0.0
    cfg.loss.weights = {"main": 0.0, "photometric": 1 / 16, "smoothness": 1 / 16, "ssim": 1.0}
    cfg.checkpoint_every, cfg.log_every = (2 if smoke else 2_000), (1 if smoke else 50)
    return cfg
