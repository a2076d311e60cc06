"""vidjax: video action recognition in JAX and Flax."""

__version__ = "0.1.0"


def __getattr__(name):
    if name in ("load", "predictor"):  # imported when it is asked for: `import vidjax` stays quick
        from vidjax import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
