"""The least that a function must compute and move, counted from its jaxpr: nothing is compiled."""

import math

import jax


def floor(closed):
    """Of a ClosedJaxpr {macs, bytes}: multiply-adds of convolutions and products, and what these must read and write.

    Each operand is read once and each result written once, of the type it has; all else is taken to be fused into them.
    The largest array of a product over a batch of matrices is left out: attention's scores need not leave the chip.
    Zeros that the gradient of a strided convolution multiplies by are left out too. ValueError for products in a while.
    """
    macs, moved = _walk(closed.jaxpr)
    return {"macs": macs, "bytes": moved}


def _walk(jaxpr):
    macs, moved = 0, 0
    for eqn in jaxpr.eqns:
        leaves = jax.tree.leaves([*eqn.params.values()], is_leaf=_is_jaxpr)
        inner = [_walk(getattr(j, "jaxpr", j)) for j in leaves if _is_jaxpr(j)]
        times = 1
        match eqn.primitive.name:
            case "conv_general_dilated":
                kernel = eqn.invars[1].aval.shape
                features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
                terms = math.prod(kernel) // features
                macs += math.prod(eqn.outvars[0].aval.shape) * terms // math.prod(eqn.params["lhs_dilation"])
                moved += sum(map(_bytes, (*eqn.invars, *eqn.outvars)))
            case "dot_general":
                (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
                terms = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
                macs += math.prod(eqn.outvars[0].aval.shape) * terms
                sizes = sorted(map(_bytes, (*eqn.invars, *eqn.outvars)))
                moved += sum(sizes[:-1] if batch else sizes)
            case "scan":
                times = eqn.params["length"]
            case "cond":
                inner = [max(inner)]
            case "while" if any(m for m, _ in inner):
                raise ValueError("Multiply-adds in a while loop cannot be counted; write the loop as lax.scan.")
        macs += times * sum(m for m, _ in inner)
        moved += times * sum(b for _, b in inner)
    return macs, moved


def _bytes(variable):
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize


def _is_jaxpr(value):
    """Whether an equation's parameter is a Jaxpr or ClosedJaxpr."""
    return hasattr(value, "eqns")
