"""ir-CSN-50 on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/csn_ir_50_kinetics400.py --workdir=runs/csn_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is that of Tran et al. (ICCV 2019,
section 4): 32 frames of 224x224, every second, from a short side of 256 to 320, 45 epochs of a million clips with 10 of
warm-up, half a cosine; 64 GPUs with 8 clips each there.
Hardware and cost: made for 64 GPUs at 512 clips a batch; not run yet, so its cost is unknown. Expected: not trained
yet; mmaction2 reports 79.44 % top-1 for ir-CSN-50 fine-tuned from IG-65M, VMZ 76.5 % for ir-CSN-152 from scratch (10
clips x 3 crops of 256).
"""

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = slow_r50_kinetics400.get_config(arg)
    if arg == "smoke":
        cfg.model = {"name": "csn", "variant": "small"}
        return cfg
    epoch = 1_000_000 // 512
    cfg.steps = 45 * epoch
    cfg.model = {"name": "csn", "variant": "ir_50", "dtype": "bfloat16"}
    cfg.data.batch_size, cfg.data.clip = 512, {"sampler": "random_clip", "size": 32, "stride": 2}
    cfg.eval.every = 5 * epoch
    cfg.optim.update({"lr": 0.64, "warmup": 10 * epoch})  # 0.01 for 8 clips
    return cfg
