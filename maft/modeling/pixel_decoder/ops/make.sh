#!/bin/sh
# Builds the compiled kernels of deformable attention with the repository's own environment; arguments go to build.py.
set -e
cd "$(dirname "$0")/../../../.."
if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=python3; fi
exec "$python" -m maft.modeling.pixel_decoder.ops.build "$@"
