"""R3D on UT-Interaction: six interactions between real people, held-out sequences never seen in training.

    vidjax train --config=configs/ut_interaction.py --workdir=runs/ut_interaction --config.data.path=DIR/manifest.csv

DIR is the folder of the segmented sets 1 and 2 with a manifest (path, sequence, class_name); default: the golden copy.
The evaluation split is sequences 9, 10, 19 and 20 (24 of 120 clips), two of each set.
Hardware and cost: 2 CPU cores, a few minutes. Expected: see the README; chance is 16.7 %.
"""

import os

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 400
    golden = os.environ.get("VIDJAX_GOLDEN", "../shared/golden")
    del cfg.data.motion
    cfg.data.update(
        {
            "source": "csv",
            "path": f"{golden}/ut_interaction/manifest.csv",
            "label_column": "class_name",
            "group_column": "sequence",
            "eval_groups": ("9", "10", "19", "20"),
            "batch_size": 8 if smoke else 16,
            "short_side": 72,
        }
    )
    cfg.data.clip = {"sampler": "segments", "size": 8 if smoke else 16, "stride": 1}  # a clip is one whole action
    cfg.data.augment = {
        "size": 32 if smoke else 64,
        "scale": (0.5, 1.0),
        "ratio": (0.75, 1.33),
        "flip": 0.5,
        "color": 0.3,
        "flip_pairs": (),
    }
    cfg.eval.update({"size": cfg.data.augment.size, "clips": 1 if smoke else 4, "batch_size": 8, "every": 200})
    cfg.model.dropout = 0.3
    return cfg
