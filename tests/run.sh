#!/usr/bin/env bash
# Sets the environments up where that is still to be done, then checks style and types and runs the tests: those of the
# reasoning (tests/reason) in .venv-reason, all others in .venv.
# Arguments go to pytest; paths among them choose the environment: bash tests/run.sh tests/text -k templates
# For work in progress there are tests that take less than a minute together: bash tests/run.sh -m fast
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

words=() segmentor=() reasoning=()
previous=""
for word in "$@"; do
  path="${word%%::*}" && path="${path#"$PWD/"}" && path="${path#./}" && path="${path%/}"
  case "$previous" in
    -[kmpnoc]) path="" ;; # the word is this option's value, not a path
  esac
  case "$path" in
    tests/reason | tests/reason/*) reasoning+=("$word") ;;
    tests) segmentor+=("$word") && reasoning+=(tests/reason) ;;
    tests/*) segmentor+=("$word") ;;
    *) words+=("$word") ;;
  esac
  previous="$word"
done
if [ ${#segmentor[@]} -eq 0 ] && [ ${#reasoning[@]} -eq 0 ]; then
  segmentor=(tests) reasoning=(tests/reason)
fi

set_up() { # both environments side by side, where both are wanted: most of the time goes into downloads
  local log status=0 pid=""
  if [ ${#reasoning[@]} -gt 0 ]; then
    log="$(mktemp)"
    bash install.sh reason >"$log" 2>&1 &
    pid=$!
  fi
  bash install.sh demo || status=1
  if [ -n "$pid" ]; then
    wait "$pid" || status=1
    cat "$log"
    rm -f "$log"
  fi
  return "$status"
}

set_up || exit 1
python=.venv/bin/python
failed=()
ran=0

check() { # $1 its name, then the command
  local name="$1" start=$SECONDS
  shift
  printf '\n%s\n' "== $name"
  "$@" || failed+=("$name")
  printf '%s\n' "-- $name: $((SECONDS - start)) s"
}

run_tests() { # $1 the Python of an environment, then pytest's arguments; pytest's status
  local markers=()
  # Tests that need a GPU are left out, and said to be, where there is none.
  if ! "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    markers=(-m "not gpu")
    echo "(without those marked gpu: no GPU here)"
  fi
  # The default-signal: bash lets what it starts in the background ignore Ctrl-C.
  env --default-signal=INT nice -n "$niceness" "$1" -m pytest "${markers[@]}" "${@:2}"
}

judge() { # $1 pytest's status
  # 5: of these paths nothing is left by -k or -m, which is an error only if that holds for both environments.
  [ "$1" -eq 5 ] || ran=1
  [ "$1" -eq 0 ] || [ "$1" -eq 5 ]
}

segmentor_tests() {
  # A process a core, each with one thread: threads of several processes would wait for each other. tests/conftest.py puts
  # the modules that take longest first. The reasoning's tests, one process whose servers start and stop in turn, would end
  # last and leave a core idle: these give way to them.
  OMP_NUM_THREADS=1 run_tests "$python" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
    --ignore=tests/reason "${words[@]}" "${segmentor[@]}"
  judge $?
}

reasoning_tests() {
  run_tests .venv-reason/bin/python "${words[@]}" "${reasoning[@]}"
  judge $?
}

await() { # $1 a process in the background, $2 the file of what it says; its status
  local status
  wait "$1"
  status=$?
  cat "$2"
  rm -f "$2"
  return "$status"
}

await_reasoning() {
  await "$reasoning_pid" "$reasoning_log"
  judge $?
}

reasoning_pid=""
niceness=0
if [ ${#segmentor[@]} -gt 0 ] && [ ${#reasoning[@]} -gt 0 ]; then
  # Beside all else, since the reasoning's tests wait for servers much of their time; what they say comes afterwards.
  reasoning_log="$(mktemp)"
  run_tests .venv-reason/bin/python "${words[@]}" "${reasoning[@]}" >"$reasoning_log" 2>&1 &
  reasoning_pid=$!
  niceness=2
fi
check ruff "$python" -m ruff check .
mypy_log="$(mktemp)"
env --default-signal=INT "$python" -m mypy >"$mypy_log" 2>&1 &
mypy_pid=$!
if [ -n "$reasoning_pid" ]; then
  check "pytest, segmentor" segmentor_tests
  check "pytest, reasoning (the time is what it took longer)" await_reasoning
elif [ ${#segmentor[@]} -gt 0 ]; then
  check "pytest, segmentor" segmentor_tests
else
  check "pytest, reasoning" reasoning_tests
fi
check "mypy (the time is what it took longer)" await "$mypy_pid" "$mypy_log"
[ "$ran" = 1 ] || failed+=("no test ran")
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
