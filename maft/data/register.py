"""Data sets of a user's own: modules of DATASETS.REGISTER, each with a function `register`, and yaml files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

from maft.data.catalog import register_custom
from maft.errors import USER_ERRORS, UserError
from reason.datasetfile import DatasetFile, is_dataset_file, read_dataset_file

KEY = "DATASETS.REGISTER"


def register_modules(names: Iterable[str]) -> None:
    """Import each module and call its `register()`, which makes data sets known with `maft.data.register_custom`.

    A yaml file (`reason.datasetfile`) may stand in a module's place.

    A module is looked for as Python does, and in the current folder. `register` is called once in every process, and
    again when another configuration names the module; a second call must change nothing, or replace the first.

    Args:
        names: such as "tools.mini.dataset", or "my.yaml".

    Raises:
        UserError: there is no such module, importing it fails, it has no function `register`, or what that raises.
    """
    for name in map(str, names):
        if is_dataset_file(name):
            register_file(name)
            continue
        register = getattr(_import(name), "register", None)
        if not callable(register):
            raise UserError(f"{KEY}: module {name} has no function register(); datasets/README.md shows one")
        register()


def register_file(path: str) -> DatasetFile:
    """Make the data set of a yaml file known under the name that it gives itself.

    Raises:
        UserError, VocabularyError: the file cannot be used, or its name is a built-in data set's.
    """
    own = read_dataset_file(path)
    folders = (own.vocabulary, own.images, own.labels)
    register_custom(own.name, *folders, panoptic_json=own.panoptic, semantic_dir=own.semantic, ignore_label=own.ignore)
    return own


def registered_name(name: str) -> str:
    """The name of a data set as a user gives it: a registered one, or a yaml file, which is then registered.

    Raises:
        UserError, VocabularyError: see `register_file`.
    """
    return register_file(name).name if is_dataset_file(name) else name


def _import(name: str) -> ModuleType:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{KEY}: '{name}' is no module name; write 'my_data' for ./my_data.py")
    here = "" in sys.path
    if not here:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{KEY}: no module {name}; it is looked for in the current folder and among what is installed"
            ) from error
        raise UserError(f"{KEY}: module {name} needs {error.name}, which is not installed") from error
    except USER_ERRORS:
        raise
    except Exception as error:  # whatever a user's module does wrong when it is imported
        raise UserError(f"{KEY}: module {name} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        if not here:
            sys.path.remove("")
