"""Train MAFT+, and evaluate it and OpenSeg-R.

    python train_net.py --config-file configs/semantic/train_semantic_base.yaml --num-gpus 8
    python train_net.py --config-file configs/semantic/eval_base_reason.yaml --eval-only

Flags, yaml files and keys are the reference's: `--config-file FILE --num-gpus N --resume --eval-only KEY VALUE ...`.
Several processes come from `--num-gpus N`, or from torchrun.
"""

from __future__ import annotations

import sys

from maft.errors import run_command
from maft.launch import main, parse_arguments

if __name__ == "__main__":
    arguments = parse_arguments(description=__doc__)
    sys.exit(run_command(lambda: main(arguments), debug=arguments.debug))
