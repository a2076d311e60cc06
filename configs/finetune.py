"""Anyone's weights on your own videos: the net, its frames and its pixels come from a checkpoint, its head is new.

    vidjax convert --from=torchvision:r3d_18 r3d_18.pth --to=runs/r3d --classes=kinetics400.txt
    vidjax train --config=configs/finetune.py --config.init_from=runs/r3d --config.data.path=VIDEOS --workdir=runs/mine
    vidjax train --config=configs/finetune.py:linear --config.init_from=runs/r3d --config.data.path=VIDEOS \\
        --workdir=runs/probe

`init_from` is a run of `vidjax train` or a folder of `vidjax convert`; what was loaded, left and begun anew is
printed. VIDEOS holds a folder of videos per class, or is a CSV file with the columns path,label. `linear` trains the
head alone on frozen features and `attentive` a probe that attends to the places of one of the net's activations
(config.model.layer; see vidjax/models/attentive_probe.py); `scratch` trains the same net from random weights, to
compare with.
Hardware and cost: the net's own; a net of the size of MoViNet-A0 takes minutes on 2 CPU cores for 100 videos.
Expected: the README's table on UT-Interaction has the forms side by side.
"""

from configs import quickstart

FORMS = ("linear", "attentive", "scratch", "smoke")
HEAD = r"(.*/)?head/.*"  # of a path among the parameters
PROBE = r"(pooler|head)/.*"


def get_config(arg=""):
    """The config; `arg` is one of FORMS, or "" for all of the net; "smoke" is a net of seconds without `init_from`."""
    if arg not in ("", *FORMS):
        raise ValueError(f"configs/finetune.py takes {', '.join(FORMS)} after the colon, not {arg!r}.")
    cfg = quickstart.get_config("smoke" if arg == "smoke" else "")
    del cfg.data.motion
    cfg.init_from = ""
    cfg.init = {"path": "", "skip": ".*" if arg == "scratch" else f"params/{HEAD}"}
    if arg == "smoke":
        return cfg
    del cfg.model.variant
    cfg.model.name = ""  # that of `init_from`
    cfg.steps, cfg.data.batch_size, cfg.data.short_side = 500, 8, 0
    cfg.data.augment = {"size": 0, "scale": (0.5, 1.0), "ratio": (0.75, 1.33), "flip": 0.5, "color": 0.2}
    cfg.eval.update({"every": 250, "batch_size": 4, "clips": 4, "size": 0})
    cfg.checkpoint_every = 250
    cfg.optim.update({"lr": 1e-2 if arg == "linear" else 5e-4, "warmup": 25, "weight_decay": 0.02})
    if arg == "linear":
        cfg.optim.update({"trained": HEAD, "frozen_norms": ".*"})
    elif arg == "attentive":
        cfg.model = {"name": "attentive_probe", "variant": "cross", "net": {"name": ""}, "layer": "", "heads": 8}
        cfg.init.update({"skip": f"params/({PROBE}|net/{HEAD})", "rename": ((r"(\w+)/(.*)", r"\1/net/\2"),)})
        cfg.optim.update({"lr": 1e-3, "trained": PROBE})
    elif arg == "":
        cfg.optim.update({"layer_decay": 0.75, "groups": ((HEAD, 5.0),)})
    return cfg
