#!/bin/sh
# Evaluates OpenSeg-R with MAFT+ large: PAS-20, PC-59, A-150, PC-459, A-847.
#   bash eval_reason_large.sh [BENCHMARK ...] [--model sed] [--names-only] [--num-gpus N] [--list] [-- KEY VALUE ...]
# Sets the environment up first where that is still to be done. python -m tools.run_benchmarks --help says more.
cd "$(dirname "$0")" || exit 1
bash install.sh || exit 1
exec .venv/bin/python -m tools.run_benchmarks large "$@"
