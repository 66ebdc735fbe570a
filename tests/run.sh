#!/usr/bin/env bash
# Sets the environment up where that is still to be done, then checks style and types and runs the tests.
# Arguments go to pytest: bash tests/run.sh tests/text -k templates
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

bash install.sh || exit 1
python=.venv/bin/python
failed=()

check() { # $1 its name, then the command
  local name="$1" start=$SECONDS
  shift
  printf '\n%s\n' "== $name"
  "$@" || failed+=("$name")
  printf '%s\n' "-- $name: $((SECONDS - start)) s"
}

# Tests that need a GPU are left out, and said to be, where there is none.
markers=()
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  markers=(-m "not gpu")
fi

check ruff "$python" -m ruff check .
check mypy "$python" -m mypy
start=$SECONDS
printf '\n%s\n' "== pytest${markers[*]:+ (without those marked gpu: no GPU here)}"
"$python" -m pytest "${markers[@]}" "$@"
status=$?
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed beside pytest: ${failed[*]}" >&2
  exit 1
fi
exit "$status"
