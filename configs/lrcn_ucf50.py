"""The small CNN + LSTM of many tutorials on your own folder of videos: 20 frames of 64x64.

    vidjax train --config=configs/lrcn_ucf50.py --workdir=runs/lrcn --config.data.path=DIR

DIR holds a folder of videos per class. The net, its 20 evenly spaced frames of the whole picture and Adam are those of
the trained Keras nets that `vidjax convert --from=keras_lrcn:amine_lrcn6` reads; to continue from such a run give it as
`--config.init.path` with `--config.init.skip='params/head/.*'`.
Hardware and cost: 2 CPU cores are enough; not measured. Expected: not trained yet; on real clips the trained net
for six classes of UCF50 gives SoccerJuggling 0.90 (its authors state no test protocol).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 1_000
    cfg.model = {"name": "lrcn", "variant": "ucf50", "order": "BGR"}
    del cfg.data.motion
    cfg.data.update({"batch_size": 4, "short_side": 0, "interpolation": "linear"})
    cfg.data.clip = {"sampler": "part_starts", "size": 8 if smoke else 20, "stride": 1}
    cfg.data.augment = {"size": 64, "crop": "whole", "flip": 0.5}
    cfg.eval = cfg.eval.to_dict() | {"batch_size": 4, "size": 64, "resize": (64, 64)}
    cfg.optim = {"name": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0, "momentum": 0.9}
    cfg.loss.label_smoothing = 0.0
    return cfg
