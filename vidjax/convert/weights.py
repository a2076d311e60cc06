"""Files of weights as {name: array}; no code that a file holds is ever executed."""

import collections
import json
import pathlib
import pickle

import numpy as np

from vidjax.convert import tflite

FOLDER = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face's folders, or an index of several
WRAPPERS = ("state_dict", "model_state", "model", "module")  # keys below which trainers put a model's tensors


class WeightsError(ValueError):
    """A file of weights that cannot be read; the message is one sentence that says what to do."""


def load(path):
    """{name: array} of a file of weights, or of a Hugging Face folder; the format goes by the name (READERS).

    A TensorFlow checkpoint goes by the name of its .index file or by what stands before that. Floating-point tensors
    of other precisions become float32. WeightsError, in one sentence, for what cannot be read.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix != ".index" and path.with_name(f"{path.name}.index").is_file():
        path = path.with_name(f"{path.name}.index")
    if path.suffix not in READERS:
        raise WeightsError(f"{path} is none of {', '.join(READERS)}; save the weights in one of these formats.")
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    return READERS[path.suffix](path)


def _load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError) as error:
        raise WeightsError(f"{path} is not an .npz of plain arrays or is damaged; pickled ones are refused.") from error


def _load_safetensors(path):
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise WeightsError(f"Reading {path} needs safetensors: pip install safetensors.") from error
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error


def _load_torch(path):
    try:
        import torch
    except ImportError as error:
        raise WeightsError(f"Reading {path} needs PyTorch: pip install torch, or save it as .safetensors.") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} holds more than tensors or is damaged; vidjax runs no code from a file.") from error
    for key in WRAPPERS:
        tensors = tensors[key] if isinstance(tensors, dict) and isinstance(tensors.get(key), dict) else tensors
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise WeightsError(f"{path} is not a state dict (names to tensors); save model.state_dict() alone.")
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return {name.removeprefix("module."): t.numpy() for name, t in floats.items()}


def _load_keras(path):
    """Weights of a Keras model as LAYER/WEIGHT in the order of its layers; its config and optimizer are left alone."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(f"Reading {path} needs h5py: pip install h5py, or save the weights as .npz.") from error
    found = {}

    def visit(name, item):  # follows no link out of the file
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise WeightsError(f"{path} keeps {name} in another file; save it whole.")
            layer, _, weight = name.partition("/")
            found.setdefault(layer, {})[weight.removeprefix(f"{layer}/").removesuffix(":0")] = item[()]

    try:
        with h5py.File(path, "r") as file:
            weights = file.get("model_weights", file)
            weights.visititems(visit)
            layers = [name.decode() if isinstance(name, bytes) else name for name in weights.attrs["layer_names"]]
    except (OSError, KeyError) as error:
        raise WeightsError(f"{path} is not a Keras model's weights or is damaged: it lists no layers.") from error
    return {f"{layer}/{weight}": x for layer in layers for weight, x in found.get(layer, {}).items()}


def _load_folder(path):
    """The tensors of a Hugging Face model's folder, in one file or in several that an index names."""
    for name in FOLDER:
        index = path / f"{name}.index.json"
        if (path / name).is_file():
            return load(path / name)
        if index.is_file():
            try:
                parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise WeightsError(f"{index} cannot be read as an index of weights: {error}.") from error
            if any(pathlib.PurePath(part).name != part for part in parts):
                raise WeightsError(f"{index} names files outside of its folder; download the model again.")
            return {key: tensor for part in parts for key, tensor in load(path / part).items()}
    raise WeightsError(f"{path} holds neither model.safetensors nor pytorch_model.bin; name a file of weights.")


def _load_tflite(path):
    try:
        return tflite.load(path)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def _load_tensorflow(path):
    """The variables of a TensorFlow checkpoint, of which `path` is the index."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise WeightsError(f"Reading {path} needs TensorFlow: pip install tensorflow.") from error
    prefix = str(path.with_suffix(""))
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{prefix} is not a TensorFlow checkpoint or is damaged: {error}") from error


class _Arrays(pickle.Unpickler):
    """Unpickles containers and NumPy arrays; any other global, which could run code, is refused."""

    ALLOWED = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return getattr(np._core.multiarray, name)
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ALLOWED[module, name]


def _load_pickle(path):
    """The blobs of a Caffe2 pickle (VMZ), which Python 2 wrote."""
    try:
        with open(path, "rb") as file:
            found = _Arrays(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises anything
        why = f"{path} holds more than arrays or is damaged ({error}); vidjax runs no code from a file."
        raise WeightsError(why) from error
    found = found.get("blobs", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(x, np.ndarray) for x in found.values()):
        raise WeightsError(f"{path} is not a dict of names and arrays, as Caffe2's weights are.")
    return found


READERS = {
    ".npz": _load_npz,
    ".safetensors": _load_safetensors,
    **dict.fromkeys((".pt", ".pth", ".pyth", ".bin"), _load_torch),
    **dict.fromkeys((".h5", ".hdf5"), _load_keras),
    ".index": _load_tensorflow,
    ".tflite": _load_tflite,
    ".pkl": _load_pickle,
}
