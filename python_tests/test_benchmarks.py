"""The benchmarks: what disagrees with the oracle is not timed, and what is measured is told and kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from survcore.benchmarks.agreement import agreements
from survcore.benchmarks.case import BenchmarkCase, Work, mapped
from survcore.benchmarks.cases import CASES
from survcore.benchmarks.cli import bench
from survcore.benchmarks.cox_ph_loss import IN_ORDER, INDEXED, UNSORTED
from survcore.benchmarks.latency import busy_neighbour
from survcore.benchmarks.report import lines
from survcore.benchmarks.roofs import Roofs, matrix_product_rate, read_rate
from survcore.benchmarks.runner import run_case
from survcore.benchmarks.timing import time_alone


def _with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Sum of squares whose gradient is changed."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values: Tensor) -> Tensor:
            ctx.save_for_backward(values)
            return values.square().sum()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return change(2 * gradient * ctx.saved_tensors[0])

    return Changed.apply


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (_with_gradient(lambda gradient: gradient), ""),
        (_with_gradient(lambda gradient: gradient * torch.nan), "wrong: gradient 1 has relative error nan"),
        (_with_gradient(lambda gradient: 1.01 * gradient), "wrong: gradient 1 has relative error 1.0e-02"),
        (lambda values: values.square().sum() * torch.nan, "wrong: loss has relative error nan"),
        (lambda values: values.square().sum().reshape(1), "wrong: loss has shape (1,), expected ()"),
        (lambda values: values.no_such_method(), "failed: AttributeError"),
    ],
)
def test_only_what_agrees_with_the_oracle_is_timed(provider: Callable[[Tensor], Tensor], problem: str) -> None:
    case = BenchmarkCase(
        name="sum_of_squares",
        sizes={"five": {}},
        quick=("five",),
        inputs=lambda dtype, device: (torch.arange(1, 6, dtype=dtype, device=device).requires_grad_(),),
        providers={"survcore": provider, "eager": lambda values: values.square().sum()},
    )
    (report,) = run_case(case, device="cpu", dtype=torch.float32, quick=True)
    ours, eager, compiled = report.results
    assert [result.provider for result in report.results] == ["survcore", "eager", "compiled"]
    assert ours.agreement.problem.startswith(problem) and bool(ours.agreement.problem) == bool(problem)
    assert (ours.spread is None) == bool(problem) and eager.spread and compiled.spread
    assert report.passes == "forward and backward" and not report.latencies and report.roofs is None


def _rows_case(**changes: object) -> BenchmarkCase:
    """Doubling [3, 2], which has no gradient here."""
    case = BenchmarkCase(
        name="double",
        sizes={"base": {"factor": 1}, "more": {"factor": 2}},
        quick=("base", "more"),
        inputs=lambda dtype, device, factor: (factor * torch.arange(1.0, 7.0, dtype=dtype).view(3, 2), None),
        providers={
            "survcore": lambda values, _: values + values,
            "eager": lambda values, _: 2 * values,
            "compiled": lambda values, _: values * 2,
        },
    )
    return replace(case, **changes)


def test_without_leaves_the_forward_pass_is_timed() -> None:
    torch_saw = []

    def survcore(values: Tensor, _: None) -> Tensor:
        torch_saw.append(torch.is_grad_enabled())
        return values + values

    case = _rows_case(providers=_rows_case().providers | {"survcore": survcore})
    reports = list(run_case(case, device="cpu", dtype=torch.float32, quick=True))
    assert [(report.size, report.passes) for report in reports] == [("base", "forward"), ("more", "forward")]
    for result in (result for report in reports for result in report.results):
        assert result.spread and result.spread.calls >= 5
        assert result.agreement.error == 0.0 and result.agreement.cosine == pytest.approx(1.0)
    assert torch_saw and not any(torch_saw) and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda values: 2.001 * values, "wrong: output has relative error 5.0e-04"),
        (lambda values: torch.full_like(values, torch.nan), "wrong: output has relative error nan"),
        (lambda values: values[:2], "wrong: output has shape (2, 2), expected (3, 2)"),
    ],
)
def test_a_wrong_output_is_told_and_not_timed(change: Callable[[Tensor], Tensor], problem: str) -> None:
    providers = _rows_case().providers | {"survcore": lambda values, _: change(values)}
    case = _rows_case(providers=providers, latency=("survcore", "eager"), work=lambda *_: Work(1.0, 1.0, 64))
    report = next(run_case(case, device="cpu", dtype=torch.float32, quick=True))
    assert report.results[0].agreement.problem == problem and report.results[0].spread is None
    assert [latency.provider for latency in report.latencies] == ["eager"]
    text = "\n".join(lines(report))
    assert problem in text and "survcore reaches" not in text and "fastest other" not in text


def test_context_is_no_rival_and_may_have_its_own_oracle() -> None:
    context = {
        "threefold": lambda values, _: 3 * values,
        "threefold, unsaid": lambda values, _: 3 * values,
        "row by row": lambda values, _: torch.cat([2 * row for row in values.split(1)]),
    }
    case = _rows_case(context=context, oracles={"threefold": "threefold"})
    base, more = run_case(case, device="cpu", dtype=torch.float32, quick=True)
    results = {result.provider: result for result in base.results}
    assert list(results) == ["survcore", "eager", "compiled", *context]
    assert results["threefold"].spread and results["row by row"].spread
    assert results["threefold, unsaid"].agreement.problem == "wrong: output has relative error 5.0e-01"
    assert [result.provider for result in base.results if not result.rival] == list(context)
    assert [result.provider for result in more.results] == ["survcore", "eager", "compiled"]


class _Pair(NamedTuple):
    first: Tensor
    second: None


def test_tensors_in_tuples_are_changed_and_the_rest_is_kept() -> None:
    given = (torch.ones(2), None, (torch.zeros(1), 3), _Pair(torch.ones(2), None))
    changed = mapped(lambda tensor: tensor + 1, given)
    assert changed[0].tolist() == [2, 2] and changed[1] is None and changed[2][0].item() == 1 and changed[2][1] == 3
    assert isinstance(changed[3], _Pair) and changed[3].first.tolist() == [2, 2] and changed[3].second is None


def test_time_alone_keeps_its_limits() -> None:
    assert time_alone(lambda: None, "cpu", calls=7, seconds=60.0).calls == 7
    spread = time_alone(lambda: time.sleep(0.02), "cpu", calls=1000, seconds=0.05)
    assert spread.calls < 10
    assert spread.low <= spread.median <= spread.high
    assert spread.p95 is None and spread.p99 is None  # so few calls do not show them
    spread = time_alone(lambda: None, "cpu", calls=200, seconds=60.0)
    assert spread.high <= spread.p95 <= spread.p99
    assert time_alone(lambda: None, "cpu", calls=50, seconds=60.0).p99 is None


def test_roofs() -> None:
    bandwidth, reader = read_rate(4096, "cpu", seconds=0.01)
    roofs = Roofs(matrix_product_rate(torch.float32, "cpu", seconds=0.0), bandwidth, reader)
    assert roofs.operations > 0 and bandwidth > 0 and reader in ("sum", "dot", "max")
    assert Roofs(100.0, 10.0, "sum").shares(Work(50.0, 20.0, 1), 2.0) == (0.25, 1.0)


def _gone(process: int) -> bool:
    """Whether a process has ended (perhaps nobody has asked for its exit status yet)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_neighbour_is_gone_after_the_block() -> None:
    with busy_neighbour() as neighbour:
        assert neighbour.poll() is None
    assert neighbour.returncode == -signal.SIGKILL
    with pytest.raises(KeyboardInterrupt), busy_neighbour() as neighbour:
        raise KeyboardInterrupt
    assert neighbour.returncode == -signal.SIGKILL


def test_neighbour_that_ends_early_is_told() -> None:
    with pytest.raises(RuntimeError, match="ended early"), busy_neighbour() as neighbour:
        neighbour.kill()
        neighbour.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_neighbour_of_a_killed_process_ends_itself() -> None:
    code = """
import os, signal
from survcore.benchmarks.latency import busy_neighbour
with busy_neighbour() as neighbour:
    print(neighbour.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL
    neighbour = int(result.stdout)
    try:
        deadline = time.monotonic() + 60
        while not _gone(neighbour) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _gone(neighbour)
    finally:
        if not _gone(neighbour):
            os.kill(neighbour, signal.SIGKILL)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_quick_sizes_are_sizes_and_begin_with_the_first(case: BenchmarkCase) -> None:
    assert set(case.quick) <= set(case.sizes) and case.quick[0] == next(iter(case.sizes))


@pytest.mark.parametrize("arrangement", [IN_ORDER, INDEXED, UNSORTED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "cohort", [{}, {"tied_percent": 10}, {"strata": 7}, {"late": 1}, {"weighted": 1}], ids=lambda cohort: str(*cohort)
)
@pytest.mark.parametrize("times", [0, 20])
@pytest.mark.filterwarnings("ignore:Ties in `time` detected")
def test_cox_peers_compute_the_same_loss(
    times: int, cohort: dict[str, int], dtype: torch.dtype, arrangement: int
) -> None:
    case = CASES["cox_ph_loss"]
    inputs = case.inputs(dtype, "cpu", rows=300, times=times, arrangement=arrangement, **cohort)
    peers = ["survcore", "eager", "coxdev"]
    if arrangement == UNSORTED:
        peers.append("radix")
    # It computes in float32, and where no events of a stratum tie, leaves out censored rows of an event's time.
    if dtype == torch.float32 and not {"late", "weighted"} & set(cohort) and not (times and "strata" in cohort):
        peers.append("torchsurv")
    found = agreements(case, {name: case.providers[name] for name in peers}, inputs, dtype)
    problems = {name: agreement.problem for name, agreement in found.items() if agreement.problem}
    assert all(problem.startswith("failed: ModuleNotFoundError") for problem in problems.values()), problems


def test_ddim_sizes_are_sweeps_around_one_patient() -> None:
    sizes = list(CASES["ddim_sample"].sizes.values())
    base = {"rows": 5, "steps": 50, "layers": 4, "width": 256}
    assert sizes[0] == base and len(sizes) == 10
    assert all(sum(size[axis] != base[axis] for axis in base) <= 1 for size in sizes)


def test_ddim_work_is_what_the_reference_multiplies() -> None:
    case = CASES["ddim_sample"]
    inputs = case.inputs(torch.float32, "cpu", rows=12, steps=3, layers=2, width=32)
    with FlopCounterMode(display=False) as counter:
        case.providers["eager"](*inputs)
    products = {operation: count for operation, count in counter.get_flop_counts()["Global"].items()}
    expected = sum(
        count for operation, count in products.items() if "mm" in str(operation) and "bmm" not in str(operation)
    )
    work = case.work(*inputs)
    assert work.operations == expected > 0
    # The weights in float32, a header of 64 bytes, and vectors filled up to whole panels.
    assert 4 * (2 * 12 + 1) * 32**2 < work.weight_bytes < 1.2 * 4 * (2 * 12 + 1) * 32**2
    assert work.read_bytes == 3 * work.weight_bytes


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("bfloat16", 1e-1)])
def test_bench_run_ddim_sample(dtype: str, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["ddim_sample"]
    size = {"rows": 5, "steps": 4, "layers": 1, "width": 32}
    monkeypatch.setitem(CASES, "ddim_sample", replace(case, sizes={"tiny": size}, quick=("tiny",)))
    out = tmp_path / "results.jsonl"
    arguments = ["run", "ddim_sample", "--quick", "--dtype", dtype, "--out", str(out)]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert "ddim_sample, tiny, forward\n" in result.output and "survcore reaches" in result.output
    assert "survcore, busy neighbour" in result.output

    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(record["op"], record["size"], record["passes"]) for record in records} == {
        ("ddim_sample", "tiny", "forward")
    }
    assert {record["dtype"] for record in records} == {dtype}
    turns = {record["provider"]: record for record in records if record["measured"] == "in turns"}
    assert list(turns) == ["survcore", "eager", "compiled", "eager, joint", "eager, one draw at a time"]
    for record in turns.values():
        assert record["error"] <= error and record["lowest_cosine"] > 0.999
        assert {"median", "p20", "p80", "p95", "p99", "calls", "product_roof", "read_roof", "read_by"} <= set(record)
    assert [name for name, record in turns.items() if "read_share" in record and "product_share" in record] == [
        "survcore"
    ]
    others = [record for record in records if record["measured"] != "in turns"]
    assert [(record["provider"], record["measured"]) for record in others] == [
        (provider, measured)
        for provider in ("survcore", "eager")
        for measured in ("alone", "alone beside a busy neighbour")
    ]
    for idle, busy in zip(others[::2], others[1::2], strict=True):
        shown = min(idle["calls"], busy["calls"]) >= 20  # fewer calls, as on a busy machine, show no 95th percentile
        assert ("p95_to_idle_p95" in busy) == ("p95_to_idle_median" in busy) == shown and busy["calls"] <= 100
