"""Starting a run: flags, set-up, processes."""

from .defaults import default_argument_parser, default_setup
from .launch import DEFAULT_TIMEOUT, launch

__all__ = ["DEFAULT_TIMEOUT", "default_argument_parser", "default_setup", "launch"]
