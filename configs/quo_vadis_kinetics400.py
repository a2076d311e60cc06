"""The rivals of I3D on Kinetics-400 (Carreira & Zisserman, CVPR 2017, figure 2 and table 1): four nets, one recipe.

    vidjax train --config=configs/quo_vadis_kinetics400.py:lstm --workdir=runs/quo_vadis_lstm --config.data.path=DIR
    vidjax train --config=configs/quo_vadis_kinetics400.py:fused --workdir=runs/quo_vadis_fused \
        --config.data.path=DIR --config.data.flow.path=FLOW

After the colon: lstm (a; the default): 25 frames, one in five; c3d (b): 16 frames of 112 px; two_stream (c): one frame
and ten flow fields; fused (d): five frames ten apart, ten fields each; and smoke, as in fused,smoke. DIR and FLOW are
as in configs/i3d_rgb_kinetics400.py and configs/i3d_flow_kinetics400.py, whose recipe this is. The LSTM is trained on
the scores of all steps and tested on the last one's, each stream of (c) on its own. Test: the paper's frames of about
10 s, here as clips of the training's length, the centre crop, probabilities averaged: 2 clips (a), 15 (b), 25 (c),
5 (d). `--config.init.path=RUN`, a 2-D Inception-v1 on ImageNet, starts every trunk (but c3d, which has none).
Hardware and cost: the paper has 32 GPUs, and 64 for two streams; not run yet, so its cost is unknown. Expected: not
trained yet; on Kinetics the paper (unverified: cited from memory) has (a) 63.3 % (b) 56.1 % (c) 65.6 % (d) 67.2 %.
"""

from configs import i3d_rgb_kinetics400

NETS = {  # frames and their stride in a clip, pixels, clips of a test, clips of a batch, weights of the losses
    "lstm": (25, 5, 224, 2, {"main": 0.0, "steps": 1.0}),
    "c3d": (16, 1, 112, 15, {}),
    "two_stream": (1, 1, 224, 25, {"main": 0.0, "rgb": 1.0, "flow": 1.0}),
    "fused": (5, 10, 224, 5, {}),
}


def get_config(arg=""):
    """The config of one of NETS, and `smoke`, which shrinks it to seconds, joined by commas."""
    words = [word for word in arg.split(",") if word]
    smoke, names = "smoke" in words, [word for word in words if word != "smoke"] or ["lstm"]
    if len(names) > 1 or names[0] not in NETS:
        raise ValueError(f"The config's argument is {', '.join(NETS)} and smoke, joined by commas, not {arg!r}.")
    net, cfg = names[0], i3d_rgb_kinetics400.get_config("smoke" if smoke else "")
    frames, stride, size, views, weights = NETS[net]
    variant = net if not smoke else "small" if net == "c3d" else f"small_{net}"
    cfg.model.update({"name": "quo_vadis", "variant": variant})
    cfg.data.clip = {"sampler": "random_clip", "size": min(frames, 4) if smoke else frames, "stride": stride}
    if smoke:
        cfg.data.clip.stride = 1
    else:
        cfg.data.short_side = 128 if net == "c3d" else 256
        cfg.data.augment.size = cfg.eval.size = size
        cfg.eval.update({"protocol": "", "clips": views, "average": "prob"})
        _init(cfg, net)
    if net in ("two_stream", "fused"):
        cfg.data.modalities = ("rgb", "flow")
        cfg.data.flow = {"source": "online", "stack": 2, "bound": 20.0}
        if not smoke:
            cfg.data.flow.update({"source": "stored", "path": "data/kinetics400_flow", "stack": 10})
    cfg.loss.weights = weights
    return cfg


def _init(cfg, net):
    """Every trunk from a 2-D net's weights; the first kernel for flow is the mean over colours."""
    if net == "c3d":
        cfg.init = {"path": ""}
        return
    trunks = ("rgb",) if net == "lstm" else ("rgb", "flow")
    rename = tuple(("(params|batch_stats)/backbone/(.*)", rf"\1/{name}/\2") for name in trunks)
    fresh = "params/(.*_)?head/.*|(params|batch_stats)/(lstm|fusion)/.*"
    cfg.init = {"path": "", "rename": rename, "skip": fresh, "channels": "flow" in trunks}
