"""Nets taken apart: gradients to the pixels by three rules for ReLUs, the logits as a function of an activation.

C3D's figures 4 and 5 (Tran et al., ICCV 2015) project `conv5b` back so: it looks at appearance in the first frames and
follows motion after them. Theirs is the deconvolution of Zeiler & Fergus (ECCV 2014).
"""

import functools

import jax
import jax.extend
import jax.numpy as jnp

RULES = {  # of a ReLU's input x and the gradient g above it: what reaches x
    "gradient": lambda x, g: g * (x > 0),  # saliency, Simonyan et al., 2014
    "deconvolution": lambda x, g: jnp.maximum(g, 0),  # Zeiler & Fergus, ECCV 2014
    "guided": lambda x, g: jnp.maximum(g, 0) * (x > 0),  # Springenberg et al., 2015
}


def project(apply, video, layer, channel, rule="guided"):
    """The gradient of a feature map's largest activation in each clip: inputs -> maps of their shapes.

    `apply` is inputs -> (logits, out), `layer` a name in `out`, whose last axis holds `channel`. `video` is an array or
    a dict of them, (B, ...); so are the maps. A net inside `lax.scan` has plain gradients there. ValueError for an
    unknown layer, channel or rule.
    """
    if rule not in RULES:
        raise ValueError(f"There is no rule {rule!r} for a ReLU; take {', '.join(RULES)}.")

    def strongest(x):
        _, out = apply(x)
        if layer not in out:
            raise ValueError(f"The net has no activation {layer!r}; there are {', '.join(out)}.")
        if not 0 <= channel < out[layer].shape[-1]:
            raise ValueError(f"{layer} has channels 0 to {out[layer].shape[-1] - 1}, not {channel}.")
        found = out[layer][..., channel].astype(jnp.float32)
        return found.reshape(len(found), -1).max(axis=-1).sum()

    return jax.grad(with_rule(strongest, rule))(video)


def with_rule(function, rule):
    """`function` of one tree of arrays whose gradient passes each `jax.nn.relu` by a rule of RULES."""

    def changed(x):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
        flat = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(x), _relu(rule))
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return changed


@functools.cache
def _relu(rule):
    """max(x, 0) with the gradient of a rule."""
    relu = jax.custom_vjp(lambda x: jnp.maximum(x, 0))
    relu.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, g: (RULES[rule](x, g),))
    return relu


def _is_relu(eqn):
    """Whether an equation is `jax.nn.relu`: a function with its own derivative around a compiled one of that name."""
    inner = eqn.params["call_jaxpr"].eqns if eqn.primitive.name == "custom_jvp_call" else ()
    return [part.params.get("name") for part in inner] == ["relu"]


def from_layer(apply, x, layer):
    """(function from an activation of `apply`'s `out` to the logits, the activation): `apply` cut at a layer.

    ValueError for a name that is not in `out`.
    """
    closed, (_, out) = jax.make_jaxpr(apply, return_shape=True)(x)
    if layer not in out:
        raise ValueError(f"The net has no activation {layer!r}; there are {', '.join(out)}.")
    places = jax.tree.leaves(({}, {name: name == layer for name in out}))  # the logits come first
    var, args = closed.jaxpr.outvars[1 + places.index(True)], jax.tree.leaves(x)

    def logits(values):
        return _evaluate(closed.jaxpr, closed.consts, args, instead={var: values})[0]

    return logits, _evaluate(closed.jaxpr, closed.consts, args)[1 + places.index(True)]


def _evaluate(jaxpr, consts, args, relu=None, instead=()):
    """The outputs of a jaxpr, with another function for its ReLUs, also in calls, and other values for variables."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        given = [v.val if isinstance(v, jax.extend.core.Literal) else values[v] for v in eqn.invars]
        if relu and _is_relu(eqn):
            found = [relu(*given)]
        elif relu and eqn.primitive.name in ("jit", "remat2"):  # remat2: jax.checkpoint, whose jaxpr is not closed
            inner = eqn.params["jaxpr"]
            found = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given, relu)
        else:
            found = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(eqn.params))
            found = found if eqn.primitive.multiple_results else [found]
        found = [instead.get(v, x) for v, x in zip(eqn.outvars, found, strict=True)] if instead else found
        values |= dict(zip(eqn.outvars, found, strict=True))
    return [v.val if isinstance(v, jax.extend.core.Literal) else values[v] for v in jaxpr.outvars]
