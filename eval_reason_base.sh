#!/bin/sh
# Evaluates OpenSeg-R with MAFT+ base: PAS-20, PC-59, A-150, PC-459, A-847.
#   bash eval_reason_base.sh [BENCHMARK ...] [--model sed] [--names-only] [--num-gpus N] [--list] [-- KEY VALUE ...]
#   bash eval_reason_base.sh mini      the whole method on a drawn world that ships with the repository, in minutes
#   bash eval_reason_base.sh mini --reason     the same, and its model writes the reasons anew, under vLLM
# Sets the environment up first where that is still to be done. python -m tools.run_benchmarks --help says more.
cd "$(dirname "$0")" || exit 1
bash install.sh || exit 1
exec .venv/bin/python -m tools.run_benchmarks base "$@"
