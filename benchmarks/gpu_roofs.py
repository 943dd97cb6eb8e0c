"""The rates of this GPU, of copies and matrix products: ``python -m survcore.benchmarks.gpu_roofs OUT [--quick]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from survcore.benchmarks.roofs import copy_rates, product_rate


def main(out: Path, quick: bool) -> int:
    """Write them to ``roofs.json`` and, to be read, ``roofs.txt``."""
    seconds = 0.05 if quick else 0.5
    copies = copy_rates("cuda", seconds)
    products = {
        str(dtype).removeprefix("torch."): product_rate(dtype, "cuda", seconds)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    torch.backends.cuda.matmul.allow_tf32 = True
    products["float32 with tf32"] = product_rate(torch.float32, "cuda", seconds)
    (out / "roofs.json").write_text(json.dumps({"copies": copies, "products": products}, indent=2) + "\n")
    lines = [f"copy of {1e-6 * size:10.1f} MB  {1e-9 * rate:8.0f} GB/s" for size, rate in copies]
    lines += [f"product, {name:<18} {1e-12 * rate:8.1f} TFLOP/s" for name, rate in products.items()]
    (out / "roofs.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--quick" in sys.argv))
