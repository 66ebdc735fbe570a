"""Where no detectron2 is installed, these tests find the subset in compat/."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("detectron2") is None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "compat"))
