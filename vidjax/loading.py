"""Anyone's weights in one call: `vidjax.load`, `vidjax.predictor`."""

import os
import pathlib
import typing

from vidjax import checkpoint, convert, predict
from vidjax.convert import converted, weights


class Loaded(typing.NamedTuple):
    """A net that is ready to call: `model.apply(variables, preprocess(path), train=False)[0]` are logits.

    `preprocess` takes a video file to what the model sees of its windows, float32 (windows, T, H, W, C); the
    columns of the logits are `class_names`.
    """

    model: object
    variables: dict
    preprocess: typing.Callable
    class_names: list


def load(path, reference="", classes=None, step=None):
    """`Loaded` from a run's folder, or from another library's weights: a file, or a Hugging Face folder.

    The other arguments are those of `predictor`.
    """
    found = predictor(path, reference, classes, step)
    return Loaded(found.model, found.variables, found.inputs, found.class_names)


def predictor(path, reference="", classes=None, step=None):
    """A `predict.Predictor`, to be called with a video file, from a run's folder or from another library's weights.

    `reference` is their SOURCE:ARCH as of `vidjax convert`; without it the one net that they fit is taken. `classes`
    is a file of class names where the weights' are not known, `step` a run's checkpoint. Raises CheckpointError,
    WeightsError or ConvertError, each with one sentence.
    """
    if not reference and not of_others(pathlib.Path(path)):
        return predict.Predictor(os.fspath(path), step)
    tensors = weights.load(path)
    source, arch = converted.reference_of(reference, "reference") if reference else only(path, tensors)
    return predict.Predictor(loaded=converted.read(source, arch, path, classes, tensors))


def of_others(path):
    """Whether a path names another library's weights, and not a run's folder."""
    if path.is_dir():
        theirs = any((path / f"{name}{end}").is_file() for name in weights.FOLDER for end in ("", ".index.json"))
        return theirs and not checkpoint.Checkpoints(path, write=False).steps()
    return path.suffix in weights.READERS or path.is_file() or path.with_name(f"{path.name}.index").is_file()


def only(path, tensors):
    """The (source, arch) that the tensors of `path` fit; ConvertError if there is none or more than one."""
    found = convert.guess(tensors)
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(":".join(pair) for pair in found)
        raise convert.ConvertError(f"{path} fits several nets; give reference= one of {choices}.")
    raise convert.ConvertError(f"{path} fits no net that vidjax knows; `vidjax models` lists the architectures.")
