"""The path manager through which files given by name, path or http address are opened."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathHandler", "PathManager"]

PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
