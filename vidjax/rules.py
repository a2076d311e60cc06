"""Conversion rules that the tables of three or more models share: one PyTorch layer each, for `convert.convert`.

`source` is a regex of the layer's name in the reference, `path` ours, which may use the regex's groups (`\\1`).
"""


def norm(source, path):
    """A batch norm with its statistics; the batches it counts are dropped by `COUNTS`, once a table."""
    return [
        (rf"{source}\.weight", f"params/{path}/scale", None),
        (rf"{source}\.bias", f"params/{path}/bias", None),
        (rf"{source}\.running_(?P<stat>mean|var)", rf"batch_stats/{path}/\g<stat>", None),
    ]


def layer_norm(source, path):
    """A layer norm."""
    return [(rf"{source}\.weight", f"params/{path}/scale", None), (rf"{source}\.bias", f"params/{path}/bias", None)]


def conv(source, path, bias=False, transform="oithw_to_thwio"):
    """A 3-D convolution; of another rank with another `transform`."""
    rules = [(rf"{source}\.weight", f"params/{path}/kernel", transform)]
    return rules + ([(rf"{source}\.bias", f"params/{path}/bias", None)] if bias else [])


def dense(source, path, bias=True):
    """A linear layer."""
    return conv(source, path, bias, "oi_to_io")


def unit(conv_source, norm_source, path):
    """A convolution without a bias and its batch norm, `path/conv` and `path/bn`."""
    return conv(conv_source, f"{path}/conv") + norm(norm_source, f"{path}/bn")


COUNTS = [(r".*\.num_batches_tracked", None, None)]
