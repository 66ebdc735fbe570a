#!/usr/bin/env bash
# Puts a multimodal model into llm/, ready for python -m reason: bash tools/fetch_llm.sh --help
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
if [ ! -x .venv-reason/bin/python ]; then
  echo "error: the reasoning's environment is missing: run 'bash install.sh reason' first" >&2
  exit 2
fi
exec .venv-reason/bin/python -m tools.fetch_llm "$@"
