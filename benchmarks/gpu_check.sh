#!/usr/bin/env bash
# Everything that only a GPU can prove of survcore, and what it reaches there, in one unattended command without internet.
#
#   bash benchmarks/gpu_check.sh [--quick] [OUT_DIR]
#
# Needs a CUDA build of PyTorch, Triton, pytest, pandas and click; builds with CMake and Ninja, else with nvcc and g++ alone,
# else takes the libraries that lie in survcore/. Nothing outside the work folder and OUT_DIR is written. From the environment:
#   PYTHON                    the interpreter (python3)
#   SURVCORE_WORK=FOLDER      the work folder (build/gpu_check); caches of compiled kernels stay there from run to run
#   SURVCORE_CARRIED=1        take the libraries that lie in survcore/, build nothing
#   SURVCORE_WHEELS=FOLDER    wheels to install beside the package first
#   SURVCORE_COMMIT=ID        the commit, where the tree has no history
# Exit status: 0, nothing was wrong and every step came to its end (met or missed bars are neither); 1, something was wrong or
# failed; 2, no CUDA device; 3, nothing was wrong, but the clock cut a step short: its files are kept.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."
source=$PWD

python=${PYTHON:-python3}
work=$(cd "$caller" && mkdir -p "${SURVCORE_WORK:-$source/build/gpu_check}" && cd "${SURVCORE_WORK:-$source/build/gpu_check}" && pwd)
site=$work/site
rm -rf "$site" "$work/temporary"
mkdir -p "$site" "$work/temporary" "$work"/cache/{cuda,inductor,triton}
cp -r survcore "$site/survcore"
rm -rf "$site/survcore/kernels" "$site/survcore/benchmarks" # links, where the tree is installed in place
cp -r kernels "$site/survcore/kernels"
cp -r benchmarks "$site/survcore/benchmarks"

export TMPDIR=$work/temporary CUDA_CACHE_PATH=$work/cache/cuda HYPOTHESIS_STORAGE_DIRECTORY=$work/cache/hypothesis
export TRITON_CACHE_DIR=$work/cache/triton TORCHINDUCTOR_CACHE_DIR=$work/cache/inductor
if [ -n "${SURVCORE_WHEELS:-}" ]; then
  wheels=$(cd "$caller" && cd "$SURVCORE_WHEELS" && pwd)
  "$python" -m pip install --quiet --no-cache-dir --no-index --find-links "$wheels" --no-deps --target "$site" "$wheels"/*.whl
fi
if [ -z "${SURVCORE_COMMIT:-}" ] && commit=$(git rev-parse --short HEAD 2> /dev/null); then
  git diff --quiet HEAD 2> /dev/null || commit="$commit+"
  export SURVCORE_COMMIT=$commit
fi

"$python" -m compileall -q "$site/survcore"
# The package is the one that was laid out above, wherever a step runs; tests leave no bytecode beside them.
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Small tensors: threads that wait for each other cost more than they save. Inductor compiles in the process that asks.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TORCHINDUCTOR_COMPILE_THREADS=1
cd "$work"
exec "$python" -m survcore.benchmarks.gpu_check --caller "$caller" --source "$source" --site "$site" "$@"
