"""Train MAFT+, and evaluate it and OpenSeg-R.

    python train_net.py --config-file configs/semantic/train_semantic_base.yaml --num-gpus 8
    python train_net.py --config-file configs/semantic/eval_base_reason.yaml --eval-only

Flags, yaml files and keys are the reference's: `--config-file FILE --num-gpus N --resume --eval-only KEY VALUE ...`.
Several processes come from `--num-gpus N`, or from torchrun.
"""

from __future__ import annotations

import os

from maft.errors import run_command, run_process


def command() -> int:
    """The command line, with the imports that take seconds."""
    from maft.launch import INTERRUPTED, main, parse_arguments

    arguments = parse_arguments(description=__doc__)
    # Of several processes under torchrun, one speaks.
    line = INTERRUPTED if os.environ.get("LOCAL_RANK", "0") == "0" else ""
    return run_command(lambda: main(arguments), debug=arguments.debug, interrupted=line)


if __name__ == "__main__":
    run_process(command)
