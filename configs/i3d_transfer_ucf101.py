"""What Kinetics is worth on UCF101 (Carreira & Zisserman, CVPR 2017, section 4.1): I3D on RGB, Original, Fixed, Full.

    vidjax train --config=configs/i3d_transfer_ucf101.py:full --workdir=runs/i3d_ucf101 --splits=1,2,3 \
        --config.data.path=DIR --config.init.path=RUN

FILE.py:original trains on UCF101 alone, from ImageNet: RUN as in configs/i3d_rgb_kinetics400.py, and with
`--config.init.path=` from nothing. FILE.py:fixed trains a new head on the features of a net that learnt Kinetics, norms
frozen, and FILE.py:full (the default) all of it: RUN is a run of configs/i3d_rgb_kinetics400.py, or what `vidjax
convert --from=kinetics_i3d:rgb_imagenet` made of the authors' weights, then with `--config.model.variant=rgb_sonnet`.
FILE.py:fixed,smoke is the smoke form of one. Recipe: 64 frames, 224 px of a short side of 256, SGD, momentum 0.9; ours:
5,000 steps of 64 clips at 0.01 (0.1 original and fixed), a tenth at 3,000 and 4,500. The test is that of i3d_full.
Hardware and cost: 8 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 95.6 % for
this stream, Full, as the mean of three splits, and for both streams on split 1 (unverified: cited from memory, in
brackets without ImageNet) Original 93.4 % (88.8 %), Fixed 97.7 % (97.4 %), Full 98.0 % (97.6 %).
"""

from configs import i3d_rgb_kinetics400

PRESETS = ("original", "fixed", "full")


def get_config(arg=""):
    """The config of `original`, `fixed` or `full`, and `smoke`, which shrinks it to seconds, joined by commas."""
    words = [word for word in arg.split(",") if word]
    smoke, names = "smoke" in words, [word for word in words if word != "smoke"] or ["full"]
    if len(names) > 1 or names[0] not in PRESETS:
        raise ValueError(f"The config's argument is {', '.join(PRESETS)} and smoke, joined by commas, not {arg!r}.")
    preset, cfg = names[0], i3d_rgb_kinetics400.get_config("smoke" if smoke else "")
    cfg.steps = 4 if smoke else 5_000
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1", "batch_size": 8 if smoke else 64})
    cfg.eval.update({"every": 2 if smoke else 1_000, "allow_bad": False})
    if preset == "original":
        cfg.init = {
            "path": "runs/inception_v1_imagenet",
            "inflate": True,
            "rename": i3d_rgb_kinetics400.INCEPTION,
            "skip": "params/(rgb/)?head/.*",
        }
    else:
        cfg.init = {"path": "runs/i3d_rgb", "skip": "params/rgb/head/.*"}
    cfg.optim.update({"lr": 0.01 if smoke or preset == "full" else 0.1, "boundaries": (3_000, 4_500)})
    if preset == "fixed":
        cfg.optim.update({"trained": "rgb/head/.*", "frozen_norms": ".*"})
    return cfg
