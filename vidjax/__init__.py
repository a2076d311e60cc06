"""vidjax: video action recognition in JAX and Flax."""

__version__ = "0.1.0"


def __getattr__(name):
    if name == "load":  # imported when it is asked for: `import vidjax` stays quick
        from vidjax.loading import load

        return load
    raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
