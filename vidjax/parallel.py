"""How a step is computed, by config: which clips share a norm's statistics, what is kept for the gradient."""

import math

from vidjax import sharding

PRODUCTS = ("dot_general", "conv_general_dilated", "custom_vjp_call", "custom_vjp_call_jaxpr")  # and our own of both


def norm_groups(bn, mesh):
    """A function of the batch's size: how many groups of it batch norms normalise apart, by `config.bn`.

    "global" is one; a number is that of clips in each, on however many devices; "per_device" is one for each device
    that has clips of its own, as in PyTorch's DistributedDataParallel: the one choice that depends on the devices.
    """
    if bn == "per_device":
        parts = math.prod(mesh.shape[axis] for axis in sharding.BATCH[0])
        return lambda batch: parts
    if bn == "global":
        return lambda batch: 1
    bn = int(bn) if isinstance(bn, str) and bn.isdecimal() else bn
    if isinstance(bn, bool) or not isinstance(bn, int) or bn < 1:
        raise ValueError(f"config.bn is global, per_device or a number of clips, not {bn!r}.")

    def count(batch):
        if batch > bn and batch % bn:
            raise ValueError(f"config.bn={bn} clips do not divide a batch of {batch}.")
        return max(batch // bn, 1)

    return count


def remat(model, kind):
    """(the model, the policy of `train_step`) for `config.remat`: what a step keeps for its gradient.

    "none" is everything (or what `config.model.remat` says), "block" what lies between a transformer's blocks, "dots"
    the outputs of convolutions and matrix products: norms and activations are computed again, in any net.
    """
    if kind == "none":
        return model, None
    if kind == "dots":
        return model, lambda prim, *_, **__: prim.name in PRODUCTS
    if kind != "block":
        raise ValueError(f"config.remat is none, block or dots, not {kind!r}.")
    if not hasattr(model, "remat"):
        raise ValueError(f"config.remat=block is for transformers; {type(model).__module__} has no blocks: use dots.")
    return model.clone(remat=True), None
