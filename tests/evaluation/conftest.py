"""Makes `evaluation_scene` importable: tests use it in-process, and run it as a program that can be killed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
