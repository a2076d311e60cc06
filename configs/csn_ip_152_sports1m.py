"""ip-CSN-152 on Sports-1M: 487 sports, a million videos.

    vidjax train --config=configs/csn_ip_152_sports1m.py --workdir=runs/csn_s1m --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is that of Tran et al. (ICCV 2019,
section 4): 32 frames of 224x224, every second, epochs of ten million clips, half a cosine; 64 GPUs with 8 clips each.
Hardware and cost: made for 64 GPUs at 512 clips a batch; not run yet, so its cost is unknown. Expected: not trained
yet; the paper reports 75.5 % top-1 and 92.8 % top-5 per video (10 centre crops).
"""

from configs import csn_ir_50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = csn_ir_50_kinetics400.get_config(arg)
    if arg == "smoke":
        return cfg
    cfg.model.variant = "ip_152"
    epoch = 10_000_000 // 512
    cfg.steps, cfg.optim.warmup, cfg.eval.every = 45 * epoch, 10 * epoch, epoch
    cfg.eval.update({"size": 224, "crops": 1})
    return cfg
