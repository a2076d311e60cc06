"""Improved dense trajectories with Fisher vectors and a linear SVM on UT-Interaction: the field before deep nets.

    vidjax fit --config=configs/idt_ut_interaction.py --workdir=runs/idt --splits=1-10     # set 1; 11-20 is set 2

The data set's own protocol: split k holds sequence k out and trains on the nine others of its set. Paper: Action
Recognition with Improved Trajectories (Wang & Schmid, ICCV 2013): tracks of 15 frames, HOG, HOF, MBH and shape,
principal components of half their size, Fisher vectors of 256 Gaussians (here 64: a fold has 54 short clips), a linear
SVM with C 100. Hardware and cost: 2 CPU cores, about ten minutes for both sets, trajectories included. Expected: see
the README; chance is 16.7 %, and flow histograms with a linear SVM gave 81.7 % on set 1 and 80.0 % on set 2.
"""

import os

from ml_collections import ConfigDict


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    smoke = arg == "smoke"
    golden = os.environ.get("VIDJAX_GOLDEN", "../shared/golden")
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "idt", "variant": "fisher"},
            "data": {
                "source": "ut_interaction",
                "path": f"{golden}/ut_interaction",
                "split": "1",
                "clip": {"sampler": "full", "size": 0, "stride": 1},
            },
            "features": {"kind": "idt", "cache": "", "workers": 0 if smoke else 2, "short_side": 64 if smoke else 192},
            "encode": {"kind": "fisher", "words": 4 if smoke else 64, "samples": 2_000 if smoke else 100_000},
            "svm": {"c": 100.0},
            "eval": {"clips": 0, "crops": 0, "size": 0, "average": "margin"},
        }
    )
