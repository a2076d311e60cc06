"""Both streams of I3D on Kinetics-400, trained apart, their logits added (Carreira & Zisserman, CVPR 2017): a test.

    vidjax train --config=configs/i3d_two_stream_kinetics400.py --workdir=runs/i3d_two_stream --config.data.path=DIR \
        --config.data.flow.path=FLOW --config.init.path=runs/i3d_rgb,runs/i3d_flow

The runs are those of configs/i3d_rgb_kinetics400.py and configs/i3d_flow_kinetics400.py; their parameters lie below
rgb/ and flow/ and complete one another. One step at a learning rate of 0, with every norm frozen, changes nothing;
then both nets are tested as one and saved as one checkpoint. The test is that of i3d_full. The same from two runs'
scores, with any weights: `vidjax fuse`.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the authors report on
Kinetics' test set 74.2 % top-1 and 91.3 % top-5 (71.6 % and 90.0 % without ImageNet).
"""

from configs import i3d_flow_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = i3d_flow_kinetics400.get_config(arg), arg == "smoke"
    cfg.model = {"name": "i3d", "variant": "small" if smoke else "two_stream"}
    if smoke:
        cfg.model.streams = ("rgb", "flow")
    else:
        cfg.model.dtype = "bfloat16"
    cfg.init = {"path": "runs/i3d_rgb,runs/i3d_flow"}
    cfg.data.modalities = ("rgb", "flow")
    cfg.data.batch_size = 8
    cfg.steps, cfg.eval.every, cfg.checkpoint_every, cfg.log_every = 1, 1, 1, 1
    cfg.optim = {"name": "sgd", "lr": 0.0, "schedule": "constant", "momentum": 0.0, "warmup": 0, "frozen_norms": ".*"}
    return cfg
