"""Configs on disk: the Python file that makes one, a workdir's `config.json`, and the hash of its values."""

import hashlib
import json
import os
import runpy
import sys

from ml_collections import ConfigDict

SHIPPED = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # configs/ lies beside the package


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key or file."""


def from_file(name):
    """The config of `FILE.py` or `FILE.py:ARG`, by its `get_config(ARG)`; raises ConfigError if there is none.

    configs/NAME.py that is not in the working folder is the one that came with vidjax.
    """
    path, _, arg = name.partition(".py:")
    path = path.removesuffix(".py") + ".py"
    shipped = os.path.join(SHIPPED, os.path.normpath(path))
    if os.path.dirname(os.path.normpath(path)) == "configs" and os.path.isfile(shipped) and not os.path.isfile(path):
        path = shipped
    if not os.path.isfile(path):
        raise ConfigError(f"there is no config file {path}; the ones that come with vidjax lie in configs/.")
    folder = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    if folder not in sys.path:
        sys.path.append(folder)  # so that a config can build on another: `from configs import quickstart`
    found = runpy.run_path(path)
    if "get_config" not in found:
        raise ConfigError(f"{path} has no function get_config(arg); see configs/quickstart.py for one.")
    return found["get_config"](arg)


def keys(cfg, prefix=""):
    """The dotted names of a config's values, such as data.clip.size."""
    names = []
    for key, value in cfg.items():
        names += keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]
    return names


def dumps(cfg):
    """A config as sorted, readable JSON."""
    return json.dumps(cfg.to_dict() if isinstance(cfg, ConfigDict) else cfg, indent=2, sort_keys=True)


def from_dict(values):
    """The config of nested dictionaries, such as JSON gives; lists become tuples, as in Python configs."""

    def freeze(value):
        if isinstance(value, dict):
            return {key: freeze(item) for key, item in value.items()}
        return tuple(freeze(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(freeze(values))


def complete(cfg, defaults):
    """A config with what it leaves out filled in from nested dictionaries, so that every value is a flag."""
    filled = ConfigDict(defaults)
    with filled.unlocked(), filled.ignore_type():
        filled.update(cfg)
    return filled


def changes(old, new):
    """What differs between two configs as dictionaries, one `key: old -> new` each."""
    old, new = ({key: cfg[key] for key in keys(cfg)} for cfg in (from_dict(old), from_dict(new)))
    named = sorted({*old, *new})
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in named if old.get(key) != new.get(key)]


def digest(cfg):
    """Twelve hexadecimal digits that change with any value of a config."""
    return hashlib.sha256(dumps(cfg).encode()).hexdigest()[:12]


def save(cfg, workdir, name="config.json"):
    """Writes `config.json`, whole or not at all."""
    path = os.path.join(workdir, name)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(dumps(cfg))
    os.replace(path + ".tmp", path)


def recipe(workdir):
    """{recipe: the file that a run's config is from, config: what that makes} of `recipe.json`; None without one."""
    try:
        with open(os.path.join(workdir, "recipe.json"), encoding="utf-8") as file:
            found = json.load(file)
        return {"recipe": str(found["recipe"]), "config": dict(found["config"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load(workdir):
    """Reads a workdir's `config.json`; raises ConfigError if there is none or it is damaged."""
    path = os.path.join(workdir, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return from_dict(json.load(file))
    except FileNotFoundError:
        raise ConfigError(f"no run in {workdir}: {path} is missing; give --config to start one there.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); give --config to write it again.") from None
