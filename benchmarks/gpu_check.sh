#!/usr/bin/env bash
# Everything that only a GPU can prove of survcore, and what it reaches there, in one unattended command without internet.
#
#   bash benchmarks/gpu_check.sh [--quick] [OUT_DIR]
#
# Needs a CUDA build of PyTorch, Triton, pytest, pandas and click; builds with CMake and Ninja, else with nvcc and g++ alone,
# else takes the libraries that lie in survcore/. Nothing outside build/ and OUT_DIR is written. From the environment:
#   PYTHON                    the interpreter (python3)
#   SURVCORE_CARRIED=1        take the libraries that lie in survcore/, build nothing
#   SURVCORE_WHEELS=FOLDER    wheels to install beside the package first
#   SURVCORE_COMMIT=ID        the commit, where the tree has no history
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
site=$PWD/build/gpu_check/site
rm -rf "$site"
mkdir -p "$site"
cp -r survcore "$site/survcore"
rm -rf "$site/survcore/kernels" "$site/survcore/benchmarks" # links, where the tree is installed in place
cp -r kernels "$site/survcore/kernels"
cp -r benchmarks "$site/survcore/benchmarks"

if [ -n "${SURVCORE_WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --find-links "$SURVCORE_WHEELS" --no-deps --target "$site" "$SURVCORE_WHEELS"/*.whl
fi
if [ -z "${SURVCORE_COMMIT:-}" ] && commit=$(git rev-parse --short HEAD 2> /dev/null); then
  git diff --quiet HEAD 2> /dev/null || commit="$commit+"
  export SURVCORE_COMMIT=$commit
fi

# The package is the one that was laid out above, wherever a step runs.
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
# Small tensors: threads that wait for each other cost more than they save. Inductor compiles in the process that asks.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TORCHINDUCTOR_COMPILE_THREADS=1
exec "$python" -m survcore.benchmarks.gpu_check --source "$PWD" --site "$site" "$@"
