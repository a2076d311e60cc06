"""Tables of movinet.py: the blocks of its nets, and the names of TF Garden, of the PyTorch port and of TFLite."""

import functools
import re

import numpy as np

from vidjax import rules


def _net(stem, project, widths, *stages):
    """Fields of a net; a stage is its blocks' (expanded widths, kernels), a kernel "53" of 5 frames by 3x3."""
    kernels = tuple(tuple((int(code[0]), int(code[1])) for code in codes.split()) for _, codes in stages)
    fields = {"stem_width": stem, "project_width": project, "widths": widths, "kernels": kernels}
    return fields | {"expansions": tuple(expansions for expansions, _ in stages)}


NETS = {
    "a0": _net(
        *(8, 480, (8, 32, 56, 56, 104)),
        ((24,), "15"),
        ((80, 80, 80), "33 33 33"),
        ((184, 112, 184), "53 33 33"),
        ((184, 184, 184, 184), "53 33 33 33"),
        ((384, 280, 280, 344), "53 15 15 15"),
    ),
    "a1": _net(
        *(16, 600, (16, 40, 64, 64, 136)),
        ((40, 40), "15 33"),
        ((96, 120, 96, 96), "33 33 33 33"),
        ((216, 128, 216, 168, 216), "53 33 33 33 33"),
        ((216, 216, 216, 128, 128, 216), "53 33 33 33 15 33"),
        ((456, 360, 360, 360, 456, 456, 544), "53 15 15 15 15 33 13"),
    ),
    "a2": _net(
        *(16, 640, (16, 40, 72, 72, 144)),
        ((40, 40, 64), "15 33 33"),
        ((96, 120, 96, 96, 120), "33 33 33 33 33"),
        ((240, 160, 240, 192, 240), "53 33 33 33 33"),
        ((240, 240, 240, 240, 144, 240), "53 33 33 33 15 33"),
        ((480, 384, 384, 480, 480, 480, 576), "53 15 15 15 15 33 13"),
    ),
    "a3": _net(
        *(16, 744, (16, 48, 80, 88, 168)),
        ((40, 40, 64, 40), "15 33 33 33"),
        ((112, 144, 112, 112, 144, 144), "33 33 33 15 33 33"),
        ((240, 152, 240, 192, 240), "53 33 33 33 33"),
        ((264, 264, 264, 264, 160, 264, 264, 264), "53 33 33 33 15 33 33 33"),
        ((560, 448, 448, 560, 560, 560, 448, 448, 560, 672), "53 15 15 15 15 33 15 15 33 13"),
    ),
    "a4": _net(
        *(24, 856, (24, 56, 96, 96, 192)),
        ((64, 64, 96, 64, 96, 64), "15 33 33 33 33 33"),
        ((168, 168, 136, 136, 168, 168, 168, 136, 136), "33 33 33 33 33 33 33 15 33"),
        ((320, 160, 320, 192, 320, 160, 320, 256, 320), "53 33 33 33 33 33 33 33 33"),
        ((320, 320, 320, 320, 192, 320, 320, 192, 320, 320), "53 33 33 33 15 33 33 33 33 33"),
        (
            (640, 512, 512, 640, 640, 640, 512, 512, 640, 768, 640, 640, 768),
            "53 15 15 15 15 33 15 15 15 15 15 33 33",
        ),
    ),
    "a5": _net(
        *(24, 992, (24, 64, 112, 120, 224)),
        ((64, 64, 96, 64, 96, 64), "15 15 33 33 33 33"),
        ((192, 152, 152, 152, 192, 192, 192, 152, 152, 192, 192), "53" + " 33" * 10),
        ((376, 224, 376, 376, 296, 376, 224, 376, 376, 296, 376, 376, 376), "53" + " 33" * 12),
        ((376, 376, 376, 376, 224, 376, 376, 224, 376, 376, 376), "53 33 33 33 15" + " 33" * 6),
        (
            (744, 744, 600, 600, 744, 744, 744, 896, 600, 600, 896, 744, 744, 896, 600, 600, 744, 744),
            "53 33 15 15 15 15 33 15 15 15 15 15 33 15 15 15 15 33",
        ),
    ),
}
SMALL = _net(16, 160, (24, 40, 64), ((64,), "33"), ((120, 96), "33 33"), ((192, 160), "53 33"))  # ours

BLOCK = r"block(\d)_layer(\d+)"
UNITS = {"expansion": "expand", "feature": "feature", "projection": "project", "skip/skip_project": "skip"}
NORMS = {"gamma": "params/{}/scale", "beta": "params/{}/bias"}
NORMS |= {"moving_mean": "batch_stats/{}/mean", "moving_variance": "batch_stats/{}/var"}
POINTS = (5, lambda x: x[0, 0, 0], lambda x: x[None, None, None])  # 1x1x1 convolution -> product
PLANE_POINTS = (4, lambda x: x[0, 0], lambda x: x[None, None])
PLANE = (4, lambda x: x[None], lambda x: x[0])
DEPTHWISE = (4, lambda x: x.swapaxes(2, 3)[None], lambda x: x[0].swapaxes(2, 3))
TEMPORAL = (4, lambda x: x.swapaxes(2, 3)[:, :, None], lambda x: x[:, :, 0].swapaxes(2, 3))


def _norm(source, path):
    """A batch norm of Keras."""
    return [(f"{source}/{name}:0", where.format(path), None) for name, where in NORMS.items()]


def _dense(source, path, transform):
    """A pointwise convolution of Keras with a bias."""
    return [
        (f"{source}/kernel:0", f"params/{path}/kernel", transform),
        (f"{source}/bias:0", f"params/{path}/bias", None),
    ]


def tf_base():
    """Variables of the base nets (conv_type "3d")."""
    units = {rf"{BLOCK}/bneck/{name}": rf"stage\1_block\2/{path}" for name, path in UNITS.items()}
    table = [(rf"{BLOCK}/scale:0", r"params/stage\1_block\2/scale", None)]
    for source, path in (units | {"stem/stem": "stem", "head/project": "project"}).items():
        table += [
            *_norm(f"{source}/bn", f"{path}/bn"),
            (f"{source}/conv3d/kernel:0", f"params/{path}/conv/kernel", None),
        ]
    for name in ("reduce", "expand"):
        table += _dense(rf"{BLOCK}/bneck/se/se_{name}/conv3d", rf"stage\1_block\2/se/{name}", POINTS)
    table += _dense("classifier_head/head/conv3d", "hidden", POINTS)
    return table + _dense("classifier_head/classifier/conv3d", "head", POINTS)


def tf_stream(layers=()):
    """Variables of the stream nets (conv_type "2plus1d"); `layers`, blocks of each stage, where positions are added."""
    table = [(rf"{BLOCK}/scale:0", r"params/stage\1_block\2/scale", None)]
    places = [(i, j) for i, count in enumerate(layers) for j in range(count)]
    for n, (i, j) in enumerate(places):  # the original does not name their scales: they are numbered
        table.append(("scale:0" + (f"#{n}" if n else ""), f"params/stage{i}_block{j}/se/positions", None))
    here = r"stage\1_block\2"
    for source, conv, path, transform in (
        ("stem/stem/conv2d", "conv2d/kernel", "stem", PLANE),
        ("head/project/conv2d", "conv2d/kernel", "project", PLANE),
        (rf"{BLOCK}/bneck/expansion/conv2d", "conv2d/kernel", f"{here}/expand", PLANE),
        (rf"{BLOCK}/bneck/feature/conv2d", "depthwise_conv2d/depthwise_kernel", f"{here}/feature", DEPTHWISE),
        (rf"{BLOCK}/bneck/projection/conv2d", "conv2d_3/kernel", f"{here}/project", PLANE),
        (rf"{BLOCK}/bneck/skip/skip_project/conv2d", "conv2d_4/kernel", f"{here}/skip", PLANE),
    ):
        table += [*_norm(f"{source}/bn", f"{path}/bn"), (f"{source}/{conv}:0", f"params/{path}/conv/kernel", transform)]
    temporal, path = rf"{BLOCK}/bneck/feature/conv2d_temporal", f"{here}/feature_temporal"
    table += _norm(f"{temporal}/bn_temporal", f"{path}/bn")
    table += [(f"{temporal}/depthwise_conv2d_1/depthwise_kernel:0", f"params/{path}/conv/kernel", TEMPORAL)]
    for number, name in enumerate(("reduce", "expand"), 1):
        table += _dense(rf"{BLOCK}/bneck/se/se_{name}/conv2d/conv2d_{number}", f"{here}/se/{name}", PLANE_POINTS)
    table += _dense("classifier_head/head/conv2d/conv2d", "hidden", PLANE_POINTS)
    return table + _dense("classifier_head/classifier/conv2d/conv2d_1", "head", PLANE_POINTS)


def tf_names(tensors, layers):
    """Variables by the names of the tables, from those or from a checkpoint's paths of objects; `layers` as above.

    The number that a head's name may have counts the nets of a process and is left out. Of a checkpoint only the net
    is kept; kernels of nets trained as "3d_2plus1d" lose the axis of size 1 that the stream nets' kernels lack.
    """
    places = [f"block{i}_layer{j}" for i, count in enumerate(layers) for j in range(count)]
    if not any(name.endswith("VARIABLE_VALUE") for name in tensors):
        return {re.sub(r"^classifier_head_\d+/", "classifier_head/", name): x for name, x in tensors.items()}
    planes, found = any("_batch_norm_temporal" in name for name in tensors), {}
    for name, x in tensors.items():
        path = re.fullmatch(r"(?:.*/)?layer_with_weights-(\d+)/_(.*)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE", name)
        if path is None or "/.OPTIMIZER_SLOT/" in name:
            continue
        number, parts, kind = int(path[1]), path[2].replace("/_", "/").split("/"), path[3]
        found |= _variable(places, number, parts, kind, x, planes)
    return found


def _variable(places, number, parts, kind, x, planes):
    """{name: array} of a variable of layer `number`, `parts` its objects; `planes`: convolutions are 2-D."""
    top, conv = parts[0], "conv2d" if planes else "conv3d"
    if top in ("head", "classifier"):
        place = f"classifier_head/{top}"
    elif top in ("stem", "project"):
        place = "stem/stem" if top == "stem" else "head/project"
    else:
        place = places[number - 1]
        if parts[:2] == ["attention", "pos_encoding"]:
            return {"scale:0" + (f"#{number - 1}" if number > 1 else ""): x}
        if parts == ["mobile_bottleneck", "rezero"]:
            return {f"{place}/scale:0": x}
        inner = {"attention": f"se/{parts[1]}", "skip": "skip/skip_project"}.get(top, top)
        place = f"{place}/bneck/{inner}"
    temporal = "_temporal" if any(part.endswith("_temporal") for part in parts) else ""
    if not planes:
        return {f"{place}/{'bn' if 'batch_norm' in parts else conv}/{kind}:0": x}
    if f"batch_norm{temporal}" in parts:
        return {f"{place}/conv2d{temporal}/bn{temporal}/{kind}:0": x}
    layer = next((layer for end, layer in _LAYER_NAMES.items() if f"{place}{temporal}".endswith(end)), "conv2d")
    if x.ndim == 5:
        x = x[:, 0] if temporal else x[0]
        x, kind = (x.swapaxes(2, 3), "depthwise_kernel") if layer.startswith("depthwise") else (x, kind)
    return {f"{place}/conv2d{temporal}/{layer}/{kind}:0": x}


_LAYER_NAMES = {  # Keras numbers the layers of a block
    "feature_temporal": "depthwise_conv2d_1",
    "feature": "depthwise_conv2d",
    "se_reduce": "conv2d_1",
    "se_expand": "conv2d_2",
    "projection": "conv2d_3",
    "skip_project": "conv2d_4",
    "classifier": "conv2d_1",
}


def atze(rank):
    """Tensors of the PyTorch port, whose base nets have convolutions of rank 3 and stream nets of rank 2."""
    point = {3: "oithw_to_thwio", 2: "oihw_to_1hwio"}[rank]
    product = {
        3: (5, lambda x: x[:, :, 0, 0, 0].T, lambda x: x.T[:, :, None, None, None]),
        2: (4, lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
    }[rank]
    temporal = (4, lambda x: x.transpose(2, 3, 1, 0)[:, :, None], lambda x: x[:, :, 0].transpose(3, 2, 0, 1))
    block, here = r"blocks\.b(\d)_l(\d+)", r"stage\1_block\2"
    units = {"conv1.conv_1": "stem", "conv7.conv_1": "project"}
    units |= {rf"{block}.{name}.conv_1": f"{here}/{ours}" for name, ours in (("expand", "expand"), ("deep", "feature"))}
    units |= {rf"{block}.project.conv_1": f"{here}/project"}
    units |= {r"blocks\.b([0124])_l(0).res.1.conv_1": f"{here}/skip", r"blocks\.b(3)_l(0).res.0.conv_1": f"{here}/skip"}
    table = [(rf"{block}\.alpha", rf"params/{here}/scale", None), *rules.COUNTS]
    for source, path in units.items():
        table += rules.conv(rf"{source}\.conv{rank}d", f"{path}/conv", transform=point)
        table += rules.norm(rf"{source}\.norm", f"{path}/bn")
    if rank == 2:
        table += rules.conv(rf"{block}\.deep\.conv_2\.conv2d", f"{here}/feature_temporal/conv", transform=temporal)
        table += rules.norm(rf"{block}\.deep\.conv_2\.norm", f"{here}/feature_temporal/bn")
    for source, path in {rf"{block}\.se\.fc1": "se/reduce", rf"{block}\.se\.fc2": "se/expand"}.items():
        table += rules.conv(rf"{source}\.conv_1\.conv{rank}d", f"{here}/{path}", True, product)
    for source, path in {r"classifier\.0": "hidden", r"classifier\.3": "head"}.items():
        table += rules.conv(rf"{source}\.conv_1\.conv{rank}d", path, True, product)
    return table


KEPT = (4, lambda x: x.transpose(1, 2, 3, 0)[None], lambda x: x[0].transpose(3, 0, 1, 2))  # (O, h, w, I) of TFLite
KEPT_POINTS = (4, lambda x: x[:, 0, 0].T, lambda x: x.T[:, None, None])
KEPT_TEMPORAL = (4, lambda x: x.swapaxes(0, 1)[:, :, :, None], lambda x: x[:, :, :, 0].swapaxes(0, 1))
KEPT_DEPTHWISE = (4, lambda x: x[:, :, :, None], lambda x: x[:, :, :, 0])


def tflite():
    """TFLite's arrays by the names of `tflite_names`; batch norms are folded into convolutions with a bias."""
    here, table = r"stage\1_block\2", [(rf"{BLOCK}/scale", r"params/stage\1_block\2/scale", None)]
    layers = {"stem": ("stem/conv", KEPT), "project": ("project/conv", KEPT)}
    layers |= {"head": ("hidden", KEPT_POINTS), "classifier": ("head", KEPT_POINTS)}
    layers |= {f"{BLOCK}/{name}": (f"{here}/{UNITS[name]}/conv", KEPT) for name in ("expansion", "projection")}
    layers |= {f"{BLOCK}/skip": (f"{here}/skip/conv", KEPT)}
    layers |= {f"{BLOCK}/feature/conv2d": (f"{here}/feature/conv", KEPT_DEPTHWISE)}
    layers |= {f"{BLOCK}/feature/conv2d_temporal": (f"{here}/feature_temporal/conv", KEPT_TEMPORAL)}
    layers |= {f"{BLOCK}/se_{name}": (f"{here}/se/{name}", KEPT_POINTS) for name in ("reduce", "expand")}
    for source, (path, transform) in layers.items():
        table += [
            (f"{source}/kernel", f"params/{path}/kernel", transform),
            (f"{source}/bias", f"params/{path}/bias", None),
        ]
    return [*table, (r".*/mul/y", None, None), (r".*/truediv;.*", None, None)]  # 1 / 6 and 1 / positions


def tflite_names(tensors):
    """{tensor name: array} of tflite.py, or with quantised ones as NAME|int8, |scale, |axis -> {LAYER/kernel: ...}.

    A name lists the operations that became one; the first says the layer. Integers (shapes) are left out.
    """
    found = {}
    for name, x in tensors.items():
        name, _, part = name.partition("|")
        if part in ("scale", "axis") or (not part and x.dtype.kind != "f"):
            continue
        if part:
            along = [-1 if i == tensors[f"{name}|axis"] else 1 for i in range(x.ndim)]
            x = x.astype(np.float32) * tensors[f"{name}|scale"].reshape(along)
        first = name.split(";")[0]
        if block := re.fullmatch(r".*/(block\d_layer\d+)/bneck/rezero/mul", first):
            found[f"{block[1]}/scale"] = x.ravel()[0]  # repeated for every position
        elif layer := re.match(_LAYERS, first):
            x = x - 3 if first.endswith("/Relu6") else x  # the bias has the 3 of the hard sigmoid
            path = "/".join(part for part in layer.groups() if part)
            found[f"{path}/{'kernel' if x.ndim == 4 else 'bias'}"] = x
        else:
            found[name] = x
    return found


_LAYERS = (
    r"(?:.*/)?(?:(stem)/stem/|head/(project)/|classifier_head\w*/(head|classifier)/"
    r"|(block\d_layer\d+)/bneck/(?:se/)?(expansion|projection|skip|se_reduce|se_expand|feature/conv2d(?:_temporal)?)/)"
    r"(?!.*(?:mul/y|truediv)$)"
)


def references():
    """Rows of REFERENCES without `preprocess`: {(source, arch): row}."""
    rows = {}
    for net, fields in NETS.items():
        layers = tuple(map(len, fields["kernels"]))
        base, stream = {"variant": f"{net}_base"}, {"variant": f"{net}_stream"}
        names = {"prepare": functools.partial(tf_names, layers=layers)}
        head = "classifier_head/classifier"
        rows["movinet_tf", f"{net}_base"] = base | names | {"table": tf_base(), "head": f"{head}/conv3d/bias:0"}
        table = tf_stream(layers if net > "a2" else ())
        rows["movinet_tf", f"{net}_stream"] = (
            stream | names | {"table": table, "head": f"{head}/conv2d/conv2d_1/bias:0"}
        )
        head = "classifier.3.conv_1.conv"
        rows["atze_movinet", f"{net.upper()}_base"] = base | {"table": atze(3), "head": f"{head}3d.bias"}
        if net < "a3":  # nobody has published others
            port = {"table": atze(2), "head": f"{head}2d.bias", "fields": {"gating": "keras_hard_sigmoid"}}
            rows["atze_movinet", f"{net.upper()}_stream"] = stream | port
            kept = {"table": tflite(), "head": "classifier/bias", "prepare": tflite_names, "fields": {"folded": True}}
            rows["movinet_tflite", f"{net}_stream"] = stream | kept
    return {key: row | {"classes": "kinetics600"} for key, row in rows.items()}
