"""`python setup.py build install`, as older instructions have it: builds the kernels where the operator looks for them.

The libraries hold no Python, so nothing is packaged; whatever the arguments, this is `python -m
maft.modeling.pixel_decoder.ops.build`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from maft.modeling.pixel_decoder.ops.build import main

if __name__ == "__main__":
    sys.exit(main([]))
