"""Every op, through its OpCase: float64 oracle, registration, gradients, compilation, views, memory, threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import survcore.ops  # noqa: F401 (loads the compiled ops)
from survcore.testing import FLOORS, OP_CASES, Arguments, OpCase, assert_close_to_oracle, convert

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else ["cpu"]
CASES = [pytest.param(case, id=case.name) for case in OP_CASES.values()]
DIFFERENTIABLE = [parameter for parameter in CASES if parameter.values[0].differentiable]
ALL = [
    pytest.param(case, kind, name, id=f"{case.name}-{name}")
    for case in OP_CASES.values()
    for kind in ("samples", "extremes")
    for name in getattr(case, kind)(torch.float64)
]
SAMPLES = [parameter for parameter in ALL if parameter.values[1] == "samples"]


def _arguments(
    case: OpCase, kind: str, name: str, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Arguments:
    return convert(getattr(case, kind)(dtype)[name], device=device)


def _with_gradient(case: OpCase, arguments: Arguments) -> tuple[Arguments, list[Tensor]]:
    """The arguments with the differentiable ones as fresh leaves, and these leaves."""
    arguments = tuple(
        value.detach().requires_grad_() if position in case.differentiable else value
        for position, value in enumerate(arguments)
    )
    return arguments, [arguments[position] for position in case.differentiable]


def _gradients(case: OpCase, function, arguments: Arguments) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of sum(output * fixed cotangent) over the differentiable outputs."""
    arguments, leaves = _with_gradient(case, arguments)
    outputs = _as_tuple(function(*arguments))
    if not leaves:
        return list(outputs), []
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    for position in case.differentiable_outputs:
        output = outputs[position]
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(leaves[0].dtype)
        total = total + torch.where(output.isfinite(), output, 0.0).double().mul(cotangent.to(output.device)).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return [output.detach() for output in outputs], list(gradients)


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _outputs(case: OpCase, arguments: Arguments) -> list[Tensor]:
    outputs, gradients = _gradients(case, case.function, arguments)
    return [*outputs, *gradients]


@pytest.mark.parametrize("dtype", list(FLOORS), ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("case", "kind", "name"), ALL)
def test_values_and_gradients_match_the_oracle(
    case: OpCase, kind: str, name: str, device: str, dtype: torch.dtype
) -> None:
    arguments = _arguments(case, kind, name, dtype)
    actual = _gradients(case, case.function, convert(arguments, device=device))
    reference = _gradients(case, case.reference, arguments)
    oracle = _gradients(case, case.reference, convert(arguments, torch.float64))
    for what, kernel, plain, exact in zip(("output", "gradient"), actual, reference, oracle, strict=True):
        for position, (a, r, o) in enumerate(zip(kernel, plain, exact, strict=True)):
            assert a.dtype == r.dtype
            assert_close_to_oracle(a, o, r, dtype, f"{what} {position}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("case", "kind", "name"), [parameter for parameter in SAMPLES if parameter.values[0].differentiable]
)
def test_reference_backward_is_the_gradient_of_the_reference(case: OpCase, kind: str, name: str, device: str) -> None:
    """The explicit formula, which serves devices without a kernel, against automatic differentiation."""
    arguments = _arguments(case, kind, name, device=device)
    forward = case.reference(*arguments)
    with_gradient, leaves = _with_gradient(case, arguments)
    outputs = [case.reference(*with_gradient)[position] for position in case.differentiable_outputs]
    cotangents = [torch.randn_like(output) for output in outputs]
    expected = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    actual = case.reference_backward(*case.backward_arguments(arguments, forward, cotangents))
    actual = actual if isinstance(actual, tuple) else (actual,)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_registration_passes_opcheck(case: OpCase, device: str) -> None:
    samples = list(case.samples(torch.float32))
    for name in (samples[0], samples[1], samples[3]):
        arguments = _arguments(case, "samples", name, torch.float32, device)
        torch.library.opcheck(case.op, _with_gradient(case, arguments)[0])
        if not case.differentiable:
            continue
        outputs = case.op(*arguments)
        cotangents = [torch.randn_like(outputs[position]) for position in case.differentiable_outputs]
        backward = getattr(torch.ops.survcore, f"{case.name}_backward").default
        torch.library.opcheck(backward, case.backward_arguments(arguments, outputs, cotangents))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradcheck(case: OpCase, device: str) -> None:
    for name in list(case.samples(torch.float64))[:5]:
        arguments, _ = _with_gradient(case, _arguments(case, "samples", name, device=device))

        def outputs(*values, case=case):
            results = case.function(*values)
            return tuple(results[position] for position in case.differentiable_outputs)

        assert torch.autograd.gradcheck(outputs, arguments, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_second_derivative_is_refused_with_a_reason(case: OpCase, device: str) -> None:
    name = next(iter(case.samples(torch.float64)))
    arguments, leaves = _with_gradient(case, _arguments(case, "samples", name, device=device))
    output = case.function(*arguments)[case.differentiable_outputs[0]]
    # Of a function of the output, whose own derivative depends on the output, and of the output itself.
    for loss in (output.square().sum(), output.sum()):
        gradient = torch.autograd.grad(loss, leaves[0], create_graph=True)[0]
        assert torch.equal(gradient, torch.autograd.grad(loss, leaves[0], retain_graph=True)[0])
        with pytest.raises(RuntimeError, match=f"{case.name} has a first derivative only"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_compiles_as_one_graph(case: OpCase, device: str) -> None:
    names = list(case.samples(torch.float32))[:2]
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    for name in names:
        arguments = _arguments(case, "samples", name, torch.float32, device)
        eager = _gradients(case, case.function, arguments)
        graph = _gradients(case, compiled, arguments)
        for e, g in zip([*eager[0], *eager[1]], [*graph[0], *graph[1]], strict=True):
            torch.testing.assert_close(g, e)
    torch._dynamo.reset()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("case", "kind", "name"), SAMPLES)
def test_views_give_the_same_bits(case: OpCase, kind: str, name: str, device: str) -> None:
    """Outputs and gradients of offset, non-contiguous and expanded arguments are those of their contiguous copies."""
    arguments = _arguments(case, kind, name, torch.float32, device)
    for view in (_offset, _strided, _transposed, _expanded):
        # An opaque pack keeps its bytes.
        views = tuple(
            view(value)
            if isinstance(value, Tensor) and (value.dtype != torch.uint8 or view is not _expanded)
            else value
            for value in arguments
        )
        copies = tuple(value.clone().contiguous() if isinstance(value, Tensor) else value for value in views)
        for actual, wanted in zip(_outputs(case, views), _outputs(case, copies), strict=True):
            assert torch.equal(actual, wanted), view.__name__


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_expanded_gradients_give_the_same_bits(case: OpCase, device: str) -> None:
    """What ``loss.sum().backward()`` hands to the backward op: one element, repeated with stride 0."""
    backward = getattr(torch.ops.survcore, f"{case.name}_backward").default
    for name in case.samples(torch.float32):
        arguments = _arguments(case, "samples", name, torch.float32, device)
        outputs = case.op(*arguments)
        expanded = [torch.ones_like(outputs[i]).sum().expand_as(outputs[i]) for i in case.differentiable_outputs]
        results = [
            backward(*case.backward_arguments(arguments, outputs, cotangents))
            for cotangents in (expanded, [cotangent.contiguous() for cotangent in expanded])
        ]
        actual, wanted = (result if isinstance(result, tuple) else (result,) for result in results)
        assert all(torch.equal(a, w) for a, w in zip(actual, wanted, strict=True)), name


def _offset(value: Tensor) -> Tensor:
    storage = value.new_empty(value.numel() + 3)
    return storage[3:].view(value.shape).copy_(value)


def _strided(value: Tensor) -> Tensor:
    if value.dim() == 0:
        return value
    return value.new_empty((*value.shape[:-1], 2 * value.shape[-1]))[..., ::2].copy_(value)


def _transposed(value: Tensor) -> Tensor:
    return value.transpose(0, -1).contiguous().transpose(0, -1) if value.dim() > 1 else value


def _expanded(value: Tensor) -> Tensor:
    """The first row repeated (the first entry of a vector), with stride 0."""
    return value[..., :1, :].expand_as(value) if value.dim() > 1 else value[:1].expand_as(value)


# Makes glibc fill all memory it hands out with the byte 0x7f (128 xor 255), which as a float is huge.
POISONED = "glibc.malloc.perturb=128:glibc.malloc.tcache_count=0:glibc.malloc.mmap_threshold=1073741824"


def _all_outputs() -> list[list[Tensor]]:
    return [_outputs(case, _arguments(case, kind, name, torch.float32)) for case, kind, name in (p.values for p in ALL)]


def _write_poisoned_outputs(path: str) -> None:
    """Runs in a process with poisoned memory."""
    results = _all_outputs()
    for output in (output for outputs in results for output in outputs):
        fresh = torch.empty_like(output, memory_format=torch.contiguous_format).flatten().view(torch.uint8)
        assert (fresh == 0x7F).all(), "fresh memory does not hold the poison"
    torch.save(results, path)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="the memory is poisoned by glibc")
def test_no_output_element_is_left_unwritten(tmp_path: Path) -> None:
    """Outputs that land on poisoned memory are the same as without."""
    code = f"import test_ops; test_ops._write_poisoned_outputs({str(tmp_path / 'outputs.pt')!r})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"GLIBC_TUNABLES": POISONED},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    poisoned = torch.load(tmp_path / "outputs.pt")
    for parameter, actual, wanted in zip(ALL, poisoned, _all_outputs(), strict=True):
        for position, (a, w) in enumerate(zip(actual, wanted, strict=True)):
            assert torch.equal(a.nan_to_num(7.0), w.nan_to_num(7.0)), f"{parameter.id}, output {position}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_output_element_is_left_unwritten_on_cuda() -> None:
    """torch's allocator hands freed blocks out again, so all blocks that are free are poisoned first."""

    def poison(outputs: list[Tensor], byte: int) -> None:
        # Whole blocks of the allocator, which come back in other sizes and orders.
        sizes = [max(512, -(-output.nbytes // 512) * 512) for output in outputs for _ in range(4)]
        held = [torch.full((size,), byte, dtype=torch.uint8, device="cuda") for size in sizes]
        del held

    for case, kind, name in (parameter.values for parameter in ALL):
        arguments = _arguments(case, kind, name, torch.float32, "cuda")
        expected = _outputs(case, arguments)
        for byte in (0xFF, 0x7F):
            torch.cuda.empty_cache()
            poison(expected, byte)
            fresh = [torch.empty_like(output, memory_format=torch.contiguous_format) for output in expected]
            held = [memory.flatten().view(torch.uint8).cpu() for memory in fresh]
            assert all((memory == byte).all() for memory in held), "fresh memory does not hold the poison"
            del fresh
            poison(expected, byte)
            for actual, wanted in zip(_outputs(case, arguments), expected, strict=True):
                assert torch.equal(actual.nan_to_num(7.0), wanted.nan_to_num(7.0)), f"{case.name}, {name}"


@pytest.mark.parametrize("case", CASES)
def test_empty_outputs_have_the_strides_of_the_fake_kernel(case: OpCase) -> None:
    for arguments in case.extremes(torch.float32).values():
        meta = tuple(value.to("meta") if isinstance(value, Tensor) else value for value in arguments)
        actual, expected = ([output.stride() for output in _as_tuple(case.op(*values))] for values in (arguments, meta))
        assert actual == expected


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_function_transforms(case: OpCase, device: str) -> None:
    """torch.func's grad and vmap give what autograd gives; a second derivative is refused there too."""
    arguments = _arguments(case, "samples", next(iter(case.samples(torch.float64))), device=device)

    def loss(first: Tensor) -> Tensor:
        outputs = case.function(first, *arguments[1:])
        return sum(outputs[position].square().sum() for position in case.differentiable_outputs)

    first = arguments[0].clone().requires_grad_()
    expected = torch.autograd.grad(loss(first), first)[0]
    torch.testing.assert_close(torch.func.grad(loss)(arguments[0]), expected)
    stacked = torch.vmap(torch.func.grad(loss))(torch.stack((arguments[0], arguments[0])))
    torch.testing.assert_close(stacked, torch.stack((expected, expected)))

    def outputs(first: Tensor) -> Tensor:
        values = case.function(first, *arguments[1:])
        return sum(values[position].sum() for position in case.differentiable_outputs)

    for function in (loss, outputs):
        with pytest.raises(RuntimeError, match="has a first derivative only"):
            torch.func.jacrev(torch.func.grad(function))(arguments[0])


@pytest.mark.parametrize(
    "mode", ["torch.inference_mode()", "torch._subclasses.fake_tensor.FakeTensorMode()", "torch.device('meta')"]
)
def test_first_use_inside_a_mode_leaves_no_trace(mode: str) -> None:
    """Imported and first called inside the mode, then trained outside."""
    code = f"""
import torch, torch._subclasses.fake_tensor
def step(grad):
    from survcore.ops import discrete_hazard_nll, low_rank_decompose
    logits = torch.zeros(3, 4, requires_grad=grad)
    loss = discrete_hazard_nll(logits, torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    basis, parts = torch.ones(5, 2, requires_grad=grad), torch.ones(2, 3, 5)
    parts = low_rank_decompose(basis, parts, parts, torch.ones(2, 2, 3, 5), torch.ones(3, 2, dtype=torch.bool))
    return loss + parts.shared_loss + parts.decomposition_loss, logits
with {mode}:
    step(False)
loss, logits = step(True)
loss.backward()
assert torch.allclose(logits.grad.sum(), torch.tensor(0.5)), logits.grad
with {mode}:
    step(False)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("case", CASES)
def test_runs_repeat_bitwise(case: OpCase) -> None:
    arguments = case.large(torch.float32)
    for count in (1, 2):
        torch.set_num_threads(count)
        first = _outputs(case, arguments)
        for _ in range(4):
            for again, once in zip(_outputs(case, arguments), first, strict=True):
                assert torch.equal(again, once)
