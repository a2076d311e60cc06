"""An attentive probe on V-JEPA 2's frozen ViT-L encoder: Something-Something v2.

    vidjax train --config=configs/vjepa2_l_ssv2.py --workdir=runs/vjepa2_probe --config.data.path=DIR \\
        --config.init.path=ENCODER

DIR holds the videos of Something-Something v2 as `vidjax data build` makes them, at --short_side=292, ENCODER the
published encoder: `vidjax convert --from=hf:vjepa2_vitl_fpc64_256 FILE --to=ENCODER`. Only the pooler (three blocks of
self-attention and a question to all tokens) and the head learn. The recipe follows the paper's probes (Assran et al.,
2025, appendix): 16 frames of 256x256, every fourth, 20 epochs, AdamW, half a cosine, of their learning rates and
decays one: 1e-3 and 0.01 (they train several at once and keep the best).
Hardware and cost: one GPU of 40 GB; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports
73.7 % top-1 for ViT-L (2 clips x 3 crops).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    epoch = 168_913 // 128
    cfg.steps = 4 if smoke else 20 * epoch
    cfg.model = {"name": "vjepa2", "variant": "small" if smoke else "l_attentive"}
    if not smoke:
        cfg.model.update({"dtype": "bfloat16", "scan": True})
        cfg.init = {"path": "", "skip": "params/(pooler|head)/.*"}
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else 128, "short_side": 292, "workers": 0 if smoke else 14})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 16, "stride": 1 if smoke else 4}
    cfg.data.augment.update({"size": 32 if smoke else 256, "scale": (0.3, 1.0), "ratio": (0.75, 1.35), "color": 0.0})
    cfg.data.augment.update({"flip": 0.0, "flip_pairs": ()})  # its classes tell left from right
    cfg.eval.update({"size": 32 if smoke else 256, "every": 2 if smoke else 5 * epoch, "batch_size": 8})
    cfg.eval.update({"clips": 1 if smoke else 2, "crops": 1 if smoke else 3})
    cfg.optim = {
        "name": "adamw",
        "lr": 1e-3,
        "warmup": 0,
        "weight_decay": 0.01,
        "trained": "(pooler|head)/.*",
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 1_000), 3, (1 if smoke else 50)
    return cfg
