"""Whether the package serves CUDA tensors by its own kernels: ``python -m survcore.benchmarks.gpu_import OUT``."""

from __future__ import annotations

import sys
from pathlib import Path


def main(out: Path) -> int:
    """Write what ``survcore info`` tells; 0 if the CUDA library is loaded and Triton's kernels load."""
    import survcore.ops  # noqa: F401 (registers the kernels)
    from survcore import _library
    from survcore._information import information, render

    text = render(information())
    (out / "import.txt").write_text(text + "\n")
    print(text)
    names = _library.op_names()
    unloaded = [name for name in names if _library.has_triton_kernel(name) and _library._triton_kernel(name) is None]
    sources = [_library.kernel_source(name, "CUDA") for name in names]
    counts = ", ".join(f"{sources.count(source)} {source}" for source in dict.fromkeys(sources))
    problem = f"; Triton kernels that do not load: {', '.join(unloaded)}" if unloaded else ""
    print(f"CUDA library: {_library.cuda_library_state}; ops by source on CUDA: {counts}{problem}")
    return 0 if _library.cuda_library_state == "loaded" and not unloaded else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
