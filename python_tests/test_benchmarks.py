"""The benchmarks: what disagrees with the oracle is not timed, and what is measured is told and kept."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from survcore.benchmarks import pages, results
from survcore.benchmarks.agreement import agreements
from survcore.benchmarks.case import BenchmarkCase, Work, mapped
from survcore.benchmarks.cases import CASES
from survcore.benchmarks.compare import comparison
from survcore.benchmarks.cox_ph_loss import IN_ORDER, INDEXED, UNSORTED
from survcore.benchmarks.figures import data_hash
from survcore.benchmarks.latency import busy_neighbour
from survcore.benchmarks.memory import peak_extra_bytes
from survcore.benchmarks.provider_process import ProviderProblem, ProviderProcess
from survcore.benchmarks.report import lines, records, roof_record
from survcore.benchmarks.roofs import Roofs, measure_roofs
from survcore.benchmarks.runner import Report, Settings, chosen, roofs_of, run_case
from survcore.benchmarks.timing import time_alone

REPOSITORY = Path(__file__).resolve().parents[1]


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
        (
            lambda values: values.square().sum() * (2 if torch.is_grad_enabled() else 1),
            "wrong: loss with a graph has relative error 1.0e+00",
        ),
        (lambda values: values.no_such_method(), "failed: AttributeError"),
    ],
)
def test_only_what_agrees_with_the_oracle_is_right(provider: Callable[[Tensor], Tensor], problem: str) -> None:
    case = BenchmarkCase(
        name="sum_of_squares",
        sizes={"five": {}},
        quick=("five",),
        inputs=lambda dtype, device: (torch.arange(1, 6, dtype=dtype, device=device).requires_grad_(),),
        providers={"survcore": provider, "eager": lambda values: values.square().sum()},
    )
    found = agreements(case, case.providers, case.inputs(torch.float32, "cpu"), torch.float32)
    assert found["survcore"].problem.startswith(problem) and bool(found["survcore"].problem) == bool(problem)
    assert not found["eager"].problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda values: 2 * values, ""),
        (lambda values: 2.001 * values, "wrong: output has relative error 5.0e-04"),
        (lambda values: torch.full_like(values, torch.nan), "wrong: output has relative error nan"),
        (lambda values: values[:2], "wrong: output has shape (2, 2), expected (3, 2)"),
    ],
)
def test_output_rows_are_compared_without_a_graph(change: Callable[[Tensor], Tensor], problem: str) -> None:
    saw_gradients = []

    def survcore(values: Tensor) -> Tensor:
        saw_gradients.append(torch.is_grad_enabled())
        return change(values)

    values = torch.arange(1.0, 7.0).view(3, 2)
    case = BenchmarkCase("double", {"three": {}}, ("three",), lambda *_: (values,), {"eager": lambda x: 2 * x})
    (found,) = agreements(case, {"survcore": survcore}, (values,), torch.float32).values()
    assert found.problem == problem and saw_gradients == [False]
    assert found.cosine == (pytest.approx(1.0) if not problem else None)


# A case whose providers do what a rival may do: compute it, kill the process, hang, leave a size out, be wrong.
_CASE = """
import os, time
import torch
from survcore.benchmarks.case import BenchmarkCase, LeftOut, Work

def inputs(dtype, device, *, rows):
    return (torch.arange(1, rows + 1, dtype=dtype, device=device).requires_grad_(),)

def ours(values):
    return values.square().sum()

def crash(values):
    return os.abort() if len(values) == 9 else ours(values)

def left_out(values):
    if len(values) > 5:
        raise LeftOut("not run above 5 rows")
    return ours(values)

def context(values):
    return 3 * values.sum()

CASE = BenchmarkCase(
    name="sum_of_squares",
    sizes={"five": {"rows": 5}, "nine": {"rows": 9}},
    quick=("five", "nine"),
    inputs=inputs,
    providers={
        "survcore": ours, "eager": ours, "compiled": ours, "crash": crash,
        "left_out": left_out, "wrong": lambda values: 1.01 * ours(values),
    },
    context={"another": context},
    oracles={"another": "another"},
    work=lambda passes, values: Work(bytes=4.0 * len(values) * (1 if passes == "forward" else 2)),
    latency=("survcore", "wrong"),
    bars={"nine": 0.5},
    curve=("five", "nine"),
)
"""


@pytest.fixture(scope="module")
def run_of_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkCase, Roofs, list[Report]]:
    """The case above, run in processes that find it by the name of its module."""
    folder = tmp_path_factory.mktemp("case")
    (folder / "sum_of_squares_case.py").write_text(_CASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        case = importlib.import_module("sum_of_squares_case").CASE
        settings = Settings(quick=True)
        roofs = roofs_of("sum_of_squares_case", settings)
        return case, roofs, list(run_case("sum_of_squares_case", case, settings, roofs))


def test_what_crashes_is_told_and_the_rest_is_timed(run_of_case: tuple[BenchmarkCase, Roofs, list[Report]]) -> None:
    case, _, (five, nine) = run_of_case
    problems = [{result.provider: result.agreement.problem for result in report.results} for report in (five, nine)]
    assert problems[0] == dict.fromkeys((*case.providers, "another"), "") | {
        "wrong": "wrong: loss has relative error 1.0e-02",
    }
    assert problems[1] == dict.fromkeys(case.providers, "") | {
        "crash": "crashed: SIGABRT",
        "left_out": "left out: not run above 5 rows",
        "wrong": "wrong: loss has relative error 1.0e-02",
    }
    assert [result.provider for result in five.results if not result.rival] == ["another"]
    for report in (five, nine):
        assert report.passes == ["both", "forward", "backward"]
        for result in report.results:
            assert (set(result.spreads) == set(report.passes)) == (not result.agreement.problem)
            for name, spread in result.spreads.items():
                assert spread.calls >= 5 and spread.low <= spread.median <= spread.high, name
        survcore = report.results[0]
        assert survcore.spreads["backward"].median < survcore.spreads["both"].median
    assert [latency.provider for latency in five.latencies] == ["survcore"] and not nine.latencies


def test_lines_records_tables_and_figures_of_a_run(
    run_of_case: tuple[BenchmarkCase, Roofs, list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, roofs, reports = run_of_case
    text = "\n".join(line for report in reports for line in lines(report))
    assert "sum_of_squares, nine, forward and backward" in text and "crashed: SIGABRT" in text
    assert "survcore, busy neighbour" in text and (" x compiled" in text or " x eager" in text)

    context = results.context("cpu", "float32", 1)
    found = [roof_record(case.name, roofs, context), *(r for report in reports for r in records(report, context))]
    path = results.write(tmp_path, case.name, "cpu", "float32", found)
    assert path.name == "sum_of_squares_cpu_float32.jsonl" and results.read(tmp_path) == results.read(path) == found
    timed = [record for record in found if record["measured"] == "in turns"]
    assert {record["passes"] for record in timed} == {"forward and backward", "forward", "backward"}
    assert all({"median", "p20", "p80", "p95", "p99", "calls", "error", "threads", "run"} <= set(r) for r in timed)
    ours = [record for record in timed if record["provider"] == "survcore" and record["passes"] != "backward"]
    assert all(record["roof"] == "bytes" and 0 < record["roof_share"] < 1 for record in ours)
    assert all(record["to_fastest_rival"] > 0 for record in ours)

    monkeypatch.setitem(CASES, case.name, case)
    page = tmp_path / "page.md"
    markers = "".join(f"<!-- bench {name} -->\nold\n<!-- /bench -->\n" for name in (case.name, "bars", "latency"))
    page.write_text("before\n" + markers)
    figure = tmp_path / "sum_of_squares.svg"
    assert pages.stale([page], tmp_path) == [page, figure]
    assert pages.write([page], tmp_path) == [page, figure]
    written = page.read_text()
    assert "old" not in written and written.startswith("before\n") and "| nine |" in written
    assert "- crash: crashed: SIGABRT (nine)" in written and "left out" not in written
    assert "| sum_of_squares | nine | 0.5 |" in written and "| sum_of_squares | float32 | survcore |" in written
    assert data_hash(case, found) in figure.read_text() and figure.read_text().count("<svg") == 1
    assert pages.stale([page], tmp_path) == pages.write([page], tmp_path) == []

    slower = [
        record | {"median": 2 * record["median"], "p20": 2 * record["p80"]} if "p20" in record else record
        for record in found
    ]
    results.write(tmp_path, case.name, "cpu", "float32", slower)
    assert pages.stale([page], tmp_path) == [page, figure]
    assert all(line.endswith("x 2.00  slower") for line in comparison(found, slower))
    assert all("within the spread" in line for line in comparison(found, found))
    with pytest.raises(ValueError, match="nothing|in common"):
        comparison(found, found[:1])
    page.write_text("<!-- bench no_such_op -->\n<!-- /bench -->\n")
    with pytest.raises(ValueError, match="no_such_op"):
        pages.write([page], tmp_path)
    path.write_text('{"op": 1}\n')
    with pytest.raises(ValueError, match="line 1: expected a record"):
        results.read(tmp_path)


def test_a_provider_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_case.py").write_text(_CASE.replace("os.abort()", "time.sleep(600)"))
    monkeypatch.syspath_prepend(tmp_path)
    process = ProviderProcess("hanging_case", "crash", dtype="float32", device="cpu", threads=1, limit=60)
    try:
        process.ask("prepare", "nine")
        process._limit = 0.2
        with pytest.raises(ProviderProblem, match="no answer within 0 s"):
            process.ask("write_values", tmp_path / "values")
        process._limit = 60
        process.ask("prepare", "five")  # in a new process
    finally:
        process.close()


@pytest.mark.parametrize(
    ("against", "expected"),
    [
        ((), ["survcore", "eager", "peer", "peer, compiled", "compiled"]),
        (("peers",), ["survcore", "peer"]),
        (("eager",), ["survcore", "eager"]),
        (("compile", "eager"), ["survcore", "eager", "peer, compiled", "compiled"]),
    ],
)
def test_rivals_of_a_kind(against: tuple[str, ...], expected: list[str]) -> None:
    def provider() -> None: ...

    providers = dict.fromkeys(("survcore", "eager", "peer", "peer, compiled"), provider)
    case = BenchmarkCase("x", {"one": {}}, ("one",), provider, providers)
    assert chosen(case, against) == expected


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
def test_peak_memory_is_beside_what_a_call_returns() -> None:
    def call() -> tuple[Tensor]:
        values = torch.ones(10_000_000)
        return (values[:1_000_000].clone(),)

    def small_blocks() -> tuple[()]:
        held = [torch.ones(500_000) for _ in range(20)]
        del held
        return ()

    for _ in range(3):
        small_blocks()  # what these have freed must not be used again unseen
    for _ in range(3):
        assert 39e6 < peak_extra_bytes(call, "cpu") < 42e6
        assert 39e6 < peak_extra_bytes(small_blocks, "cpu") < 42e6
    assert peak_extra_bytes(lambda: (torch.ones(10_000_000),), "cpu") < 1e6


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
    roofs = measure_roofs(torch.float32, "cpu", seconds=0.0)
    assert roofs.operations > 1e8 and roofs.products > 1e8 and roofs.exponentials > 1e6
    assert all(rate > 1e7 for _, rate in roofs.copies)
    roofs = Roofs(copies=((100, 10.0), (10_000, 40.0)), operations=5.0, products=50.0, exponentials=2.0)
    assert [roofs.copy_rate(size) for size in (0, 100, 10_000, 10**9)] == [10.0, 10.0, 40.0, 40.0]
    assert roofs.copy_rate(1000) == pytest.approx(20.0)
    assert roofs.floor(Work(100.0)) == (10.0, "bytes")
    assert roofs.floor(Work(100.0, operations=100.0, products=100.0)) == (20.0, "operations")
    assert roofs.floor(Work(100.0, exponentials=30.0)) == (15.0, "exponentials")
    assert roofs.floor(Work(400.0, held=10_000)) == (10.0, "bytes")
    assert Roofs(roofs.copies, None, 50.0, 2.0).floor(Work(10.0, operations=1e9))[1] == "bytes"


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
from survcore.benchmarks.figures import data_hash
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


def test_pages_of_the_project_show_its_results() -> None:
    assert pages.stale(pages.of_project(REPOSITORY), REPOSITORY / "benchmarks" / "results") == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sizes_that_are_named_are_sizes(case: BenchmarkCase) -> None:
    barred = {key if isinstance(key, str) else key[0] for key in case.bars}
    assert set(case.table) | barred | set(case.curve) <= set(case.sizes)
    axis = [case.sizes[size][case.axis] for size in case.curve]
    assert axis == sorted(axis)
    others = [{key: value for key, value in case.sizes[size].items() if key != case.axis} for size in case.curve]
    assert all(other == others[0] for other in others)


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


@pytest.mark.parametrize(
    "op", ["deephit_loss", "discrete_hazard_nll", "info_nce", "masked_bce_with_logits", "masked_mse"]
)
def test_providers_of_the_losses_agree(op: str) -> None:
    case = CASES[op]
    inputs = case.inputs(torch.float32, "cpu", **case.sizes[case.quick[0]])
    providers = {name: provider for name, provider in case.providers.items() if "compiled" not in name}
    found = agreements(case, providers, inputs, torch.float32)
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
    work = case.work("forward", *inputs)
    assert work.products == expected > 0
    # The weights in float32, a header of 64 bytes, and vectors filled up to whole panels.
    assert 4 * (2 * 12 + 1) * 32**2 < work.held < 1.2 * 4 * (2 * 12 + 1) * 32**2
    assert work.bytes == 3 * work.held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ddim_providers_agree(dtype: torch.dtype) -> None:
    case = CASES["ddim_sample"]
    inputs = case.inputs(dtype, "cpu", rows=5, steps=4, layers=1, width=32)
    found = agreements(case, case.providers | case.context, inputs, dtype)
    assert list(found) == ["survcore", "eager", "compiled", "eager, joint", "eager, one draw at a time"]
    for name, agreement in found.items():
        assert not agreement.problem and agreement.cosine > 0.999, name
