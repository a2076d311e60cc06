"""One temporal net that learns UCF101 and HMDB51 at once (Simonyan & Zisserman, NIPS 2014, sections 4 and 6, table 3).

    vidjax train --config=configs/two_stream_multitask_ucf101_hmdb51.py --workdir=runs/multitask \
        --config.data.mixture.ucf101.path=DIR --config.data.mixture.hmdb51.path=DIR2

Two heads stand side by side as one layer of 101 + 51 classes, and the softmax of a clip is over its own set's. The net
and recipe are those of configs/two_stream_temporal_ucf101.py, flow computed while it trains. Each set gives clips in
proportion to its size.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 55.4 % on
split 1 of HMDB51 (46.6 % from scratch on it alone), and 83.7 % on UCF101 and 54.6 % on HMDB51 as means of three splits,
by 25 stacks x 10 crops.
"""

from configs import two_stream_temporal_ucf101


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    if arg not in ("", "smoke"):
        raise ValueError(f"The config's argument is smoke, not {arg!r}.")
    cfg = two_stream_temporal_ucf101.get_config(arg)
    for key in ("source", "path", "split"):
        del cfg.data[key]
    cfg.data.order = "shuffled"
    cfg.data.mixture = {
        "ucf101": {"source": "ucf101", "path": "data/ucf101", "split": "1", "weight": 9537.0},
        "hmdb51": {"source": "hmdb51", "path": "data/hmdb51", "split": "1", "weight": 3570.0},
    }
    cfg.data.flow.update({"source": "online", "path": ""})
    return cfg
