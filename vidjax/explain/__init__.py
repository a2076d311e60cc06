"""Why a model says what it says: maps over a clip's pixels of what counted for a class, by eight methods.

All take `apply`, inputs -> (logits (B, C), out) with `out` a dict of named activations, as every model of vidjax gives
it, and float32 clips (B, T, H, W, 3) as the model sees them (`Predictor.inputs`); all give float32 maps (B, T, H, W),
signed where the method has signs. What they explain is the class's logit (gradients) or probability (perturbations).
What is compiled is kept for the `apply` it was compiled for: pass the same function again.
"""

import functools
import inspect

import jax.numpy as jnp

from vidjax.explain import gradients, perturb, relus, rollout, surrogates

METHODS = {
    "gradcam": "where a layer's channels that speak for the class are active (Selvaraju et al., ICCV 2017)",
    "integrated": "gradients summed on the way from a grey clip: they add up to the logit's change (Sundararajan 2017)",
    "guided": "the gradient through ReLUs that pass what is positive both ways (Springenberg et al., 2015)",
    "deconvolution": "the gradient through ReLUs that pass positive gradients (Zeiler & Fergus, ECCV 2014)",
    "gradient": "the gradient itself (Simonyan et al., 2014)",
    "occlusion": "how much the probability falls where a box is covered (Zeiler & Fergus, ECCV 2014)",
    "frames": "how much it falls where a frame is covered, alike at all of its pixels",
    "rollout": "attention followed from the output to the patches (Abnar & Zuidema, ACL 2020); joint attention alone",
    "lime": "a linear model of what covering blocks of space and time does (Ribeiro et al., KDD 2016)",
    "shap": "the same weighted so that the blocks' shares are Shapley values (Lundberg & Lee, NeurIPS 2017)",
}


def explain(apply, clips, target=None, method="gradcam", **options):
    """Maps (B, T, H, W) of `clips` by one of METHODS, for class `target` of each clip: an int, (B,), or the top ones.

    `options` are those of the method's own function. Raises ValueError for an unknown method or option.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r} of explanation; take {', '.join(METHODS)}.")
    if target is None:
        target = jnp.argmax(apply(clips)[0], -1)
    target = jnp.broadcast_to(jnp.asarray(target), len(clips))
    functions = dict.fromkeys(relus.RULES, functools.partial(gradients.through_relus, rule=method)) | {
        "gradcam": gradients.gradcam,
        "integrated": gradients.integrated,
        "occlusion": perturb.occlusion,
        "frames": perturb.frames,
        "rollout": rollout.rollout,
        "lime": surrogates.lime,
        "shap": surrogates.shap,
    }
    known = list(inspect.signature(functions[method]).parameters)[3:]
    if wrong := [name for name in options if name not in known or name == "rule"]:
        known = ", ".join(name for name in known if name != "rule") or "none"
        raise ValueError(f"{method} has no option {wrong[0]!r}; its options: {known}.")
    return functions[method](apply, clips, target, **options)
