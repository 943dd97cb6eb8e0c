"""ddim_sample and pack_denoiser: what their OpCase cannot say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from survcore.ops import ddim_sample, pack_denoiser
from survcore.reference import ddim_sample as reference
from survcore.reference import pack_denoiser as reference_pack
from survcore.testing.ddim_sample import ddim_arguments, denoiser_weights

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
SETS = ("portable", "avx2", "avx512", "amx")


def _flat(width: int = 16, heads: int = 4, layers: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return reference_pack.flatten_denoiser(denoiser_weights(dtype, layers, width), heads)


def _pack(width: int = 16, heads: int = 4, layers: int = 2, **options: object) -> Tensor:
    return pack_denoiser(denoiser_weights(torch.float32, layers, width), heads=heads, **options)


def _runnable(dtype: str) -> list[str]:
    """Instruction sets that this CPU has for a dtype."""
    found = []
    for name in SETS:
        try:
            torch.ops.survcore.pack_denoiser(_flat(), dtype, name)
        except RuntimeError as error:
            assert "is not among those that this CPU has" in str(error), error
        else:
            found.append(name)
    return found


def _sample(arguments: tuple[Tensor, ...], packed: Tensor) -> Tensor:
    noise, condition, index, step_noise, _, modulation, coefficients = arguments
    given = step_noise if step_noise.numel() else None
    return ddim_sample(noise, condition, index, packed, modulation, coefficients, step_noise=given)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_cpu_runs_the_portable_path() -> None:
    assert _runnable("float32")[0] == "portable" and "amx" not in _runnable("float32")


@pytest.mark.parametrize("size", [{"width": 64}, {"width": 21, "heads": 3}, {"width": 40, "heads": 2, "tokens": 3}])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_instruction_set_gives_the_same(dtype: str, size: dict[str, int]) -> None:
    """Forced one after the other; against the reference in float64 with the weights as they are stored."""
    real = torch.float64 if dtype == "float64" else torch.float32
    arguments = ddim_arguments(real, 14, patients=3, steps=50, **size)
    *_, flat, modulation, coefficients = arguments
    coefficients[:, 4].zero_()  # a stable recursion, as a sampler's is
    coefficients[:, :4] *= 0.8
    exact = [value.double() if value.is_floating_point() else value for value in arguments]
    exact[4] = reference_pack.pack_denoiser(flat, dtype, "")
    expected = reference.ddim_sample(*exact)
    for name in _runnable(dtype):
        actual = _sample(arguments, torch.ops.survcore.pack_denoiser(flat, dtype, name)).double()
        error = ((actual - expected).abs().max() / expected.abs().max()).item()
        allowed = 1e-12 if dtype == "float64" else 1e-2 if name == "amx" else 1e-5
        assert error < allowed, f"{name}: {error}"
        assert torch.cosine_similarity(actual, expected, dim=1).min() > 0.9999, name


def test_bfloat16_stays_in_the_direction_of_full_precision() -> None:
    arguments = ddim_arguments(torch.float32, 10, width=96, heads=4, steps=50, noisy=False)
    arguments[-1][:, 4].zero_()
    full, rounded = (_sample(arguments, _pack(96, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert torch.cosine_similarity(full, rounded, dim=1).min() > 0.999


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_nan_in_a_condition_stays_in_its_own_rows(dtype: str) -> None:
    real = torch.float64 if dtype == "float64" else torch.float32
    arguments = list(ddim_arguments(real, 9, patients=3))
    arguments[2] = torch.arange(9) % 3
    poisoned = [*arguments]
    poisoned[1] = arguments[1].clone()
    poisoned[1][1, 1, 2] = torch.nan
    for name in _runnable(dtype):
        packed = _pack(dtype=DTYPES[dtype], instruction_set=name)
        clean, dirty = _sample(arguments, packed), _sample(poisoned, packed)
        assert dirty[1::3].isnan().all()
        assert torch.equal(dirty[0::3], clean[0::3]) and torch.equal(dirty[2::3], clean[2::3])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("draws", [5, 20, 100])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_number_of_threads_does_not_matter(dtype: str, draws: int) -> None:
    """Large enough for the companion thread to be called, and for several blocks."""
    real = torch.float64 if dtype == "float64" else torch.float32
    arguments = ddim_arguments(real, draws, patients=draws // 5, width=64, layers=3, steps=40)
    packed = _pack(64, layers=3, dtype=DTYPES[dtype])
    torch.set_num_threads(1)
    alone = _sample(arguments, packed)
    for count in (2, 3):
        torch.set_num_threads(count)
        for _ in range(5):
            assert torch.equal(_sample(arguments, packed), alone)


@pytest.mark.usefixtures("threads")
def test_calls_at_the_same_time_do_not_disturb_each_other() -> None:
    torch.set_num_threads(2)
    problems = [ddim_arguments(torch.float32, draws, width=64, layers=3, steps=40) for draws in (3, 5, 8, 40)]
    packed = _pack(64, layers=3)
    expected = [_sample(problem, packed) for problem in problems]
    wrong: list[int] = []

    def run(position: int) -> None:
        for _ in range(6):
            if not torch.equal(_sample(problems[position], packed), expected[position]):
                wrong.append(position)

    workers = [threading.Thread(target=run, args=(i % len(problems),)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("environment", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}])
def test_granted_threads_fork_and_exit_leave_nobody_waiting(environment: dict[str, str]) -> None:
    """Ends in time with one thread, after a fork while the companion exists, and with the companion in a call."""
    code = """
import os, threading, torch
from survcore.ops import ddim_sample, pack_denoiser
from survcore.testing.ddim_sample import ddim_arguments, denoiser_weights
packed = pack_denoiser(denoiser_weights(torch.float32, 3, 64), heads=4)
def sample(draws):
    noise, condition, index, step_noise, _, modulation, table = ddim_arguments(
        torch.float32, draws, patients=3, width=64, layers=3, steps=60)
    return ddim_sample(noise, condition, index, packed, modulation, table, step_noise=step_noise)
expected = sample(5), sample(70)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(sample(5), expected[0]) else 1)
assert os.waitpid(child, 0)[1] == 0
torch.set_num_threads(2)
assert torch.equal(sample(5), expected[0]) and torch.equal(sample(70), expected[1])
threading.Thread(target=lambda: [sample(5) for _ in range(1000)], daemon=True).start()
sample(5)
print("done", flush=True)
os._exit(0)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and result.stdout == "done\n", result.stderr


def test_a_pack_of_another_machine_or_kind_is_refused() -> None:
    arguments = ddim_arguments(torch.float32, 3)
    packed = _pack()
    numbers = packed[:64].clone().view(torch.int64)

    def altered(position: int, value: int) -> Tensor:
        header = numbers.clone()
        header[position] = value
        return torch.cat((header.view(torch.uint8), packed[64:]))

    for wrong, message in (
        (altered(0, 7), "not a packed denoiser"),
        (packed[:40], "not a packed denoiser"),
        (packed[:-64], r"has \d+ bytes, its header says"),
        (altered(4, 3), "a denoiser of 3 layers and width 16 has"),
        (altered(6, 5), "header of packed_weights is damaged"),
        (altered(2, 9), "header of packed_weights is damaged"),
        (altered(4, 2**62), "header of packed_weights is damaged"),
        (torch.cat((_flat()[:16], torch.tensor([2]).view(torch.uint8), _flat()[24:])), "header .* is damaged"),
        (altered(3, 3), "packed for amx, which this CPU does not have"),
        (_pack(width=32), r"noise must be \[S, 32\], as the denoiser was packed"),
        (_pack(layers=3), r"modulation must be \[3, 3, 6, 16\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            _sample(arguments, wrong)
    with pytest.raises(RuntimeError, match="packed already"):
        torch.ops.survcore.pack_denoiser(packed, "float32", "")


def test_wrong_packing_is_refused_with_a_reason() -> None:
    weights = denoiser_weights(torch.float32, 2, 16)
    with pytest.raises(ValueError, match="heads must divide the width 16, got 3"):
        pack_denoiser(weights, heads=3)
    with pytest.raises(ValueError, match="weight 2 has shape .* expected .* for width 16"):
        block = weights.blocks[0]._replace(query_key_value_weight=torch.zeros(16, 16))
        pack_denoiser(weights._replace(blocks=(block, weights.blocks[1])), heads=4)
    with pytest.raises(ValueError, match="float32, float64 or bfloat16, got torch.float16"):
        pack_denoiser(weights, heads=4, dtype=torch.float16)
    with pytest.raises(RuntimeError, match="portable, avx2, avx512 or amx, got sse"):
        pack_denoiser(weights, heads=4, instruction_set="sse")
    with pytest.raises(RuntimeError, match="amx is not among those that this CPU has for this dtype"):
        pack_denoiser(weights, heads=4, instruction_set="amx")


def test_wrong_arguments_are_refused_by_name() -> None:
    noise, condition, index, step_noise, _, modulation, table = ddim_arguments(torch.float32, 3)
    packed = _pack()
    for change, error, message in (
        ({"noise": noise[0]}, ValueError, "noise must be"),
        ({"condition": condition[..., :8]}, ValueError, r"condition must be \[P, C, 16\]"),
        ({"condition_index": index[:2]}, ValueError, r"condition_index must have shape \(3,\)"),
        ({"condition_index": index.int()}, TypeError, "condition_index must be int64"),
        ({"packed_weights": packed.int()}, TypeError, "packed_weights must be uint8"),
        ({"packed_weights": packed[None]}, ValueError, r"packed_weights must be \[bytes\]"),
        ({"modulation": modulation[:2]}, ValueError, r"modulation must be \[3, L, 6, 16\]"),
        ({"coefficients": table[:, :4]}, ValueError, r"coefficients must be \[T, 5\]"),
        ({"step_noise": step_noise[:, :2]}, ValueError, r"step_noise must have shape \(3, 3, 16\)"),
        ({"noise": noise.long()}, TypeError, "noise must be floating"),
        ({"condition": condition.to("meta")}, ValueError, "condition is on meta, noise on cpu"),
        ({"condition": condition.clone().requires_grad_()}, RuntimeError, "condition requires a gradient"),
    ):
        given = {"noise": noise, "condition": condition, "condition_index": index, "packed_weights": packed}
        given |= {"modulation": modulation, "coefficients": table} | change
        with pytest.raises(error, match=message):
            ddim_sample(**given)


def test_flat_weights_are_packed_on_the_way() -> None:
    arguments = ddim_arguments(torch.float32, 6)
    assert torch.equal(_sample(arguments, arguments[4]), _sample(arguments, _pack()))


def test_flat_form_gives_the_weights_back() -> None:
    weights = denoiser_weights(torch.float64, 3, 12)
    again, heads = reference_pack.unflatten_denoiser(reference_pack.flatten_denoiser(weights, 4))
    assert heads == 4
    assert all(torch.equal(a, b) for a, b in zip(again.tensors(), weights.tensors(), strict=True))
    with pytest.raises(ValueError, match="flat form, whole"):
        reference_pack.unflatten_denoiser(_flat()[:-8])


def test_packing_is_traced_with_an_unknown_size() -> None:
    torch.library.opcheck(torch.ops.survcore.pack_denoiser.default, (_flat(), "float32", ""))
