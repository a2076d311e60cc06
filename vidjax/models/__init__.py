"""Architectures by file name: one family per file, with its variants, sizes, references and conversion tables."""

import difflib
import importlib
import math
import pkgutil

import jax
import jax.numpy as jnp

from vidjax import attention, nn


def names():
    """Names of all architectures: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def family(name):
    """The module of architecture `name`; ValueError names the nearest one that exists."""
    if name not in names():
        raise ValueError(f"There is no model {name!r} in vidjax/models{_nearest(name, names())}.")
    return importlib.import_module(f"{__name__}.{name}")


def build(cfg, *, within="", **extra):
    """{name, variant, field: value, ...} -> Model; `extra` fields (such as num_classes) override those of `cfg`.

    `within` another module's `__call__` is the name it has there. ValueError, in one sentence with the nearest existing
    name, for an unknown model, variant or field.
    """
    fields = dict(cfg) | extra
    if "name" not in fields:
        raise ValueError(f"The model section needs the key 'name': one of {', '.join(names())}.")
    name, variant = fields.pop("name"), fields.pop("variant", None)
    module = family(name)
    if variant not in module.VARIANTS:
        hint = _nearest(str(variant), module.VARIANTS)
        raise ValueError(f"Model {name!r} has no variant {variant!r}{hint}.")
    known = [f for f in module.Model.__dataclass_fields__ if f not in ("name", "parent")]
    for key in fields:
        if key not in known:
            raise ValueError(f"Model {name!r} has no field {key!r}{_nearest(key, known)}.")
    place = {"name": within} if within else {}
    return module.Model(**(module.VARIANTS[variant] | {k: _frozen(v) for k, v in fields.items()}), **place)


def references():
    """All convertible reference nets: {(source, arch): row of its family's REFERENCES, plus `model`}."""
    rows = {}
    for name in names():
        rows |= {key: row | {"model": name} for key, row in getattr(family(name), "REFERENCES", {}).items()}
    return rows


def reference(source, arch):
    """Row {model, variant, table, head, preprocess, ...} of the net that `source` calls `arch`.

    A row has besides, where they are needed: `fields` of the Model that the variant leaves open, `input` (T, H, W, C)
    where it is not RGB of the preprocessing's size, or a function of the tensors that gives it (of a head alone);
    `stem`, a tensor whose second axis is the number of channels; and `prepare`, a function of the reference's tensors
    that gives those which the table names.
    Names are compared by their words: "piergiaj_i3d", "rgb" is "piergiaj", "i3d_rgb". What is left out must leave one
    net, that on RGB where there is one on flow too; ValueError names the nearest otherwise.
    """
    rows = references()
    if (source, arch) in rows:
        return rows[source, arch]
    both, own = _words(source, arch), _words(arch)
    keys = {key: _words(*key) for key in rows}
    for fits in (
        lambda words: words in (both, own),
        lambda words: both | {"rgb"} == words,
        lambda words: both < words,  # less is said than the name has
        lambda words: own <= words < both,  # more is said of the source
    ):
        found = [key for key, words in keys.items() if fits(words)]
        if len(found) == 1:
            return rows[found[0]]
    known = [" ".join(key) for key in rows]
    raise ValueError(f"No converter knows {arch!r} of {source!r}{_nearest(f'{source} {arch}', known)}.")


def _words(*names):
    """The words of names, each once."""
    return frozenset("_".join(names).lower().replace("-", "_").split("_"))


def for_reference(source, arch, num_classes):
    """The Model whose variables `convert.from_reference(source, arch, ...)` returns."""
    row = reference(source, arch)
    fields = {"name": row["model"], "variant": row["variant"]} | row.get("fields", {})
    return build(fields, num_classes=num_classes)


def shapes(model, example):
    """Nested ShapeDtypeStructs of the variables of `model` on its input; computes nothing.

    `example` is the shape of a video (B, T, H, W, C), a dict of such shapes, or a tree of ShapeDtypeStructs.
    """
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), _input(example))


def parameters(model, example):
    """Number of trained parameters of `model` on its input; `example` as in `shapes`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(model, example)["params"]))


def macs(model, example):
    """Multiply-adds of all convolutions and matrix products of one evaluation of an input; `example` as in `shapes`.

    Counted from the jaxpr of the native lowering, zero padding included, as torchvision and fvcore count them.
    """
    return costs(model, example)["macs"]


def costs(model, example):
    """{params, macs}: what `parameters` and `macs` count, of one tracing."""
    with nn.lowering("native"), attention.using("plain"):
        variables = shapes(model, example)
        jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, _input(example))
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {})))
    return {"params": params, "macs": count(jaxpr)}


def _input(example):
    leaf = lambda x: jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x  # noqa: E731
    return jax.tree.map(leaf, example, is_leaf=lambda x: isinstance(x, tuple))


def batched(shape, batch=1):
    """The shape of a batch of inputs: (T, H, W, C) -> (B, T, H, W, C), of each where several are given by name."""
    return {key: batched(s, batch) for key, s in shape.items()} if isinstance(shape, dict) else (batch, *shape)


def table(only=()):
    """Yields the rows of `vidjax models`; `only` names the families wanted, by default all."""
    for name in only or names():
        for variant in family(name).SIZES:
            yield size(name, variant)


def size(name, variant):
    """{name, variant, frames, size, params, gmac, paper} of a variant, counted on its native input."""
    row = family(name).SIZES[variant]
    head = {"num_classes": row["classes"]} if "classes" in row else {}  # a net of flow has none
    model, shape = build({"name": name, "variant": variant}, **head), batched(row["input"])
    _, frames, width, *_ = next(iter(shape.values())) if isinstance(shape, dict) else shape
    found = costs(model, shape)
    return {
        "name": name,
        "variant": variant,
        "frames": frames,
        "size": width,
        "params": found["params"],
        "gmac": found["macs"] / 1e9,
        "paper": row["paper"],
    }


def _nearest(word, known):
    """The tail of an error: the nearest existing name, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; the nearest is {close[0]!r}" if close else f"; there are {', '.join(sorted(known))}"


def _frozen(value):
    """Lists of a config as tuples and sections as tuples of (key, value), so that a model stays hashable."""
    if hasattr(value, "items"):
        return tuple((key, _frozen(own)) for key, own in sorted(value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def count(closed):
    """Multiply-adds of all convolutions and matrix products of a ClosedJaxpr."""
    return _count(closed.jaxpr)


def _count(jaxpr):
    """Multiply-adds of a jaxpr: loops times their length, branches at their dearest."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [_count(j) for j in jax.tree.leaves([*eqn.params.values()], is_leaf=_is_jaxpr) if _is_jaxpr(j)]
        match eqn.primitive.name:
            case "conv_general_dilated":
                kernel = eqn.invars[1].aval.shape
                features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
                total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
            case "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                terms = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
                total += math.prod(eqn.outvars[0].aval.shape) * terms
            case "scan":
                total += sum(inner) * eqn.params["length"]
            case "cond":
                total += max(inner)
            case "while" if sum(inner):
                raise ValueError("Multiply-adds in a while loop cannot be counted; write the loop as lax.scan.")
            case _:
                total += sum(inner)
    return total


def _is_jaxpr(value):
    """Whether an equation's parameter is a Jaxpr or ClosedJaxpr."""
    return hasattr(value, "eqns")
