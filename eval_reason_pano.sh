#!/bin/sh
# Evaluates OpenSeg-R with MAFT+ large, panoptic: ADE20K.
#   bash eval_reason_pano.sh [BENCHMARK ...] [--names-only] [--num-gpus N] [--list] [-- KEY VALUE ...]
#   bash eval_reason_pano.sh mini      the whole method on a drawn world that ships with the repository, in minutes
# Sets the environment up first where that is still to be done. python -m tools.run_benchmarks --help says more.
cd "$(dirname "$0")" || exit 1
bash install.sh || exit 1
exec .venv/bin/python -m tools.run_benchmarks pano "$@"
