"""A family's small net on UT-Interaction by the data set's own protocol: leave one sequence out, ten folds a set.

    vidjax train --config=configs/ut_interaction_folds.py:two_stream --workdir=runs/ut/two_stream --splits=1-20
    vidjax train --config=configs/ut_interaction_folds.py:r3d,flow --workdir=runs/ut/r3d_flow --splits=1-20

Splits 1 to 10 are set 1, 11 to 20 set 2; each trains on the nine other sequences of its set, 54 clips. After the colon
come a family of `vidjax models`, `flow` for a net that sees flow in place of pixels and, for a run of seconds, `smoke`.
A run on the motion suite is a start (`--config.init.path=runs/motion/two_stream`, its heads are left out).
Hardware and cost: 2 CPU cores, about a minute a fold from `vidjax data build --dataset=ut_interaction --store=frames
--short_side=64`, which `--config.data.source=auto --config.data.path=OUT` names. Expected: see the README; chance is
16.7 %, and flow histograms with a linear SVM gave 81.7 % on set 1 and 80.0 % on set 2.
"""

import os

from configs import motion_suite


def get_config(arg=""):
    """The config of `FAMILY[,flow][,smoke]`."""
    words = [word for word in arg.split(",") if word]
    cfg = motion_suite.get_config(arg)
    smoke, golden = "smoke" in words, os.environ.get("VIDJAX_GOLDEN", "../shared/golden")
    del cfg.data.motion
    cfg.steps = 4 if smoke else 100
    cfg.data.update({"source": "ut_interaction", "path": f"{golden}/ut_interaction", "split": "1"})
    cfg.data.update({"batch_size": 8 if smoke else 16, "short_side": 64})
    cfg.data.clip.sampler = "segments"  # a clip is one whole action
    cfg.data.augment = {
        "size": 40,
        "scale": (0.5, 1.0),
        "ratio": (0.75, 1.33),
        "flip": 0.5,
        "color": 0.0 if "flow" in words else 0.3,
        "flip_pairs": (),
    }
    cfg.eval.update({"clips": 4, "crops": 3, "resize": 46, "size": cfg.data.augment.size, "batch_size": 2})
    cfg.eval.every = cfg.checkpoint_every = cfg.steps
    cfg.optim.update({"lr": 2e-3, "warmup": 2 if smoke else 20})
    cfg.init = {"path": "", "skip": r"params/(.*_)?head/.*"}
    return cfg
