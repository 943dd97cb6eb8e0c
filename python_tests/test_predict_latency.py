"""`survcore bench latency`: the plain rival, the made-up patients, the numbers and what pages show of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import survcore
from survcore.batch import dense
from survcore.benchmarks import pages, predict_bars, predict_figure, predict_latency, predict_tables, results, roofs
from survcore.benchmarks.agreement import told
from survcore.benchmarks.case import LeftOut
from survcore.benchmarks.predict_latency import OP, Settings, measure
from survcore.benchmarks.predict_model import made_up_model
from survcore.benchmarks.predict_patients import cohort_of, made_up_records, mixed, scenarios, shown
from survcore.benchmarks.predict_plain import made_plain
from survcore.benchmarks.predict_worker import PredictProcess, PredictWorker
from survcore.benchmarks.provider_process import ProviderProblem
from survcore.cli import main
from survcore.data.preprocessor import Preprocessor

WIDTH, RANK, FEATURES, COLUMNS, BINS = 16, 4, 24, 12, 4
SMALL: dict[str, Any] = {
    "features": FEATURES,
    "columns": COLUMNS,
    "settings": {"width": WIDTH, "rank": RANK, "heads": 2, "denoiser_layers": 1, "denoiser_heads": 2},
}
SCENARIOS = ["complete", "without slide", "without genomics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predict") / "model"
    made_up_model(**SMALL).save(path)
    return path


# ---- made-up patients


def test_values_of_made_up_patients_are_ordinary_once_they_are_scaled() -> None:
    draw, ids = np.random.default_rng(0), [f"p{number}" for number in range(40)]
    index = pd.Index(ids, name="row_id")

    def frame(values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index, [f"c{column}" for column in range(values.shape[1])])

    cohort = survcore.Cohort.from_frames(
        {
            "rna": frame(np.exp(5 + 2 * draw.standard_normal((40, 200)))),
            "clinical": frame(draw.uniform(100, 200, (40, 200))),
            "mutations": frame(draw.integers(0, 2, (40, 30)).astype(float)),
            "slide": {row: draw.standard_normal((5, 8), dtype=np.float32) for row in ids},
        },
        pd.DataFrame({"row_id": ids, "time": draw.exponential(size=40), "event": np.arange(40) % 2}),
        time_unit="months",
        kinds={"mutations": "panel"},
        transforms={"rna": "signed_log"},
    )
    preprocessor = Preprocessor.fit(cohort, {"modalities": {"clinical": {"scale": "minmax"}}})
    records = made_up_records(preprocessor, 6, patches=50)
    prepared = preprocessor.transform(cohort_of(preprocessor, records))
    rna, clinical, mutations = (dense(prepared.tables[name]).numpy() for name in ("rna", "clinical", "mutations"))
    assert abs(rna.mean()) < 0.1 and abs(rna.std() - 1) < 0.1
    assert clinical.min() >= -1e-5 and clinical.max() <= 1 + 1e-5 and abs(clinical.mean() - 0.5) < 0.05
    assert set(np.unique(mutations)) == {0.0, 1.0}
    assert not prepared.extreme
    slides = [record["slide"] for record in records]
    assert all(slide.shape == (50, 8) and slide.dtype == torch.float16 for slide in slides)
    assert not any(torch.equal(slides[0], other) for other in slides[1:])


def test_patients_are_mixed_over_the_scenarios(folder: Path) -> None:
    preprocessor = survcore.load(folder, "cpu").preprocessor
    assert scenarios(preprocessor) == SCENARIOS
    cohort = cohort_of(preprocessor, mixed(made_up_records(preprocessor, 7, patches=3), SCENARIOS))
    assert cohort.only(["slide", "genomics"]).availability.tolist() == (
        [[True, True], [False, True], [True, False]] * 2 + [[True, True]]
    )


# ---- plain PyTorch


def plain(folder: Path) -> survcore.Predictor:
    predictor = survcore.load(folder, "cpu", "float32")
    made_plain(predictor.system)
    return predictor


@pytest.mark.parametrize("slide", ["bag", "embedding"])
def test_the_plain_model_predicts_what_survcore_does(slide: str, tmp_path: Path) -> None:
    made_up_model(slide, **SMALL).save(tmp_path / "model")
    ours, theirs = survcore.load(tmp_path / "model", "cpu", "float32"), plain(tmp_path / "model")
    patients = cohort_of(ours.preprocessor, mixed(made_up_records(ours.preprocessor, 6, patches=70), SCENARIOS))
    for options in ({"steps": 5}, {"steps": 4, "solver": "dpm_solver++", "draws": 3, "seed": 2}):
        expected, found = (model.predict(patients, errors="raise", **options) for model in (ours, theirs))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
        assert (expected["risk_spread"].iloc[[1, 2]] > 0).all()


def test_the_plain_model_says_what_it_does_not_serve(folder: Path) -> None:
    predictor = plain(folder)
    patient = cohort_of(
        predictor.preprocessor, [shown(made_up_records(predictor.preprocessor, 1, patches=3)[0], "without slide")]
    )
    with pytest.raises(LeftOut, match="bfloat16"):
        predictor.predict(patient, errors="raise", precision="bfloat16")


# ---- a provider


def test_operations_are_those_of_the_products(tmp_path: Path) -> None:
    made_up_model("embedding", **SMALL).save(tmp_path)
    worker = PredictWorker("eager", "cpu")
    worker.load(tmp_path)
    worker.prepare(1, 1)

    def attention(queries: int, keys: int) -> int:
        return 2 * queries * WIDTH**2 * 2 + 2 * keys * 2 * WIDTH**2 + 4 * queries * keys * WIDTH

    def summed(tokens: int, layers: int) -> int:
        return layers * attention(tokens + 1, tokens + 1)

    tokens = {"slide": 1, "genomics": 6}
    expected = 2 * (FEATURES + COLUMNS) * WIDTH + 2 * 7 * WIDTH**2  # tokenizers
    expected += sum(summed(count, 2) + summed(count, 1) for count in tokens.values())
    expected += sum(attention(queries, 7 - queries) + summed(queries, 1) for queries in tokens.values())
    expected += 2 * 2 * 2 * WIDTH * RANK  # the recovered parts, projected
    expected += 6 * 2 * (3 * WIDTH**2 + WIDTH * BINS)  # the head, of the mean and of five draws
    assert worker.operations("complete") == expected


def test_a_provider_makes_its_calls(folder: Path) -> None:
    worker = PredictWorker("survcore", "cpu")
    assert worker.load(folder) > 0
    worker.prepare(3, 20)
    assert worker.facts().scenarios == SCENARIOS and dict(worker.facts().modalities)["slide"] == "bag"
    assert len(worker.time("complete", 7, 60.0)) == 7
    assert len(worker.time("complete", 7, 0.0)) == 1
    assert len(worker.time("without slide", 4, 60.0, {"steps": 3}, "record")) == 4
    assert len(worker.risks("without genomics")) == len(set(worker.risks("without genomics"))) == 3
    assert all(seconds > 0 for seconds in worker.together())
    assert isinstance(worker.growth("without slide", 20), int)


def test_a_provider_in_a_process_of_its_own(folder: Path) -> None:
    process = PredictProcess("survcore", device="cpu", threads=1, limit=120.0)
    try:
        process.ask("load", folder)
        process.ask("prepare", 2, 20)
        found = process.ask("risks", "complete")
        with pytest.raises(ProviderProblem, match="CheckpointError"):
            process.ask("load", folder / "nothing")
    finally:
        process.close()
    predictor = survcore.load(folder, "cpu", "float32")
    records = made_up_records(predictor.preprocessor, 2, patches=20)
    assert found == pytest.approx(predictor.predict(cohort_of(predictor.preprocessor, records))["risk"].tolist())


# ---- a run


class Here:
    """A provider in this process, in place of :class:`PredictProcess`; adds ``off`` to risks but the reference's."""

    def __init__(self, provider: str, *, device: str, threads: int, limit: float, off: float = 0.0) -> None:
        self._worker = PredictWorker(provider, device)
        self._off = 0.0 if provider == "survcore, float32" else off

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self._worker, method)(*arguments)
        except Exception as error:
            raise ProviderProblem(told(error)) from error
        return [risk + self._off for risk in answer] if method == "risks" else answer

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lets runs be small and keep to this process; torch's number of threads is as before afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(predict_latency, "made_up_model", partial(made_up_model, **SMALL))
    monkeypatch.setattr(roofs, "_PRODUCTS", {"cpu": (64,)})
    monkeypatch.setattr(predict_latency, "_MOST_PLAIN_PATCHES", 30)
    monkeypatch.setattr(predict_latency, "native_bfloat16", lambda device: False)
    monkeypatch.setattr(predict_latency, "_PATIENTS", 2)
    for name, value in {"calls": 2, "together": (3, 1), "curve": (20, 40), "rate_seconds": 0.001}.items():
        monkeypatch.setattr(Settings, name, value)

    def replace(off: float = 0.0) -> None:
        monkeypatch.setattr(predict_latency, "PredictProcess", partial(Here, off=off))

    replace()
    yield replace
    torch.set_num_threads(threads)


CONTEXT = results.context("cpu", "float32", 1)


def run(model: Path | None, **options: Any) -> tuple[list[results.Record], list[str]]:
    said: list[str] = []
    settings = Settings(**{"patches": 20, "predictions": 20, "against": ("eager",)} | options)
    return measure(model, settings, CONTEXT, said.append), said


def of(records: list[results.Record], measured: str, **facts: Any) -> list[results.Record]:
    wanted = facts | {"measured": measured}
    return [record for record in records if all(record.get(name) == value for name, value in wanted.items())]


def test_a_run_measures_every_provider_in_every_scenario(here: Callable[..., None], tmp_path: Path) -> None:
    found, said = run(None)
    for provider in ("survcore", "survcore, float32", "eager"):
        for measured in ("cold", "after warm-up", "warm"):
            rows = of(found, measured, provider=provider)
            assert [row["scenario"] for row in rows if row.get("source") != "record"] == SCENARIOS
    assert len(of(found, "warm", source="record", scenario="without slide")) == 1
    assert [(row["provider"], row["patches"]) for row in of(found, "patches")] == [
        ("survcore", 20), ("survcore", 40), ("survcore, float32", 20), ("survcore, float32", 40), ("eager", 20),
    ]  # fmt: skip
    assert {row["provider"] for row in of(found, "agreement")} == {"survcore", "eager"}
    assert all(row["largest_difference"] < 1e-3 for row in of(found, "agreement"))
    assert len(of(found, "steps")) == 10 and len(of(found, "kept", scenario="without genomics")) == 1
    assert [row["of"] for row in of(found, "together", provider="survcore")] == [
        "slides of 20 patches",
        "tables alone, in an untrained MUST",
    ]
    for row in of(found, "together"):
        assert row["product_share"] == row["operations"] / row["seconds"] / row["product_rate"]
    assert of(found, "threads")[0]["numbers"] == [1, 2] and of(found, "growth")[0]["predictions"] == 20
    left_out = {row["provider"]: row["problem"] for row in of(found, "problem", patches=0)}
    assert set(left_out) == {"survcore, bfloat16", "compiled"}
    assert any("untrained MUST" in line for line in said)

    path = predict_latency.write(tmp_path, "cpu", found)
    assert path.name == "predict_latency_cpu.jsonl" and results.read(tmp_path) == found
    page = tmp_path / "page.md"
    names = ("predict", *(f"predict {name}" for name in predict_tables.TABLES if name))
    page.write_text("".join(f"<!-- bench {name} -->\nold\n<!-- /bench -->\n" for name in names))
    figure = tmp_path / "predict_latency.svg"
    assert pages.stale([page], tmp_path) == pages.write([page], tmp_path) == [page, figure]
    written = page.read_text()
    assert "old" not in written and "| 40 |" in written and "left out" in written
    assert "| without slide, from a record | survcore |" in written
    assert predict_figure.data_hash(found) in figure.read_text()
    assert pages.stale([page], tmp_path) == []
    slower = [row | {"median": 2 * row["median"]} if "median" in row else row for row in found]
    predict_latency.write(tmp_path, "cpu", slower)
    assert pages.stale([page], tmp_path) == [page, figure]
    page.write_text("<!-- bench predict nothing -->\n<!-- /bench -->\n")
    with pytest.raises(ValueError, match="predict nothing"):
        pages.write([page], tmp_path)


def test_a_wrong_provider_is_named_and_not_timed(here: Callable[..., None], folder: Path) -> None:
    here(off=1e-3)
    found, said = run(folder, emulated=True)
    problems = {row["provider"]: row["problem"] for row in of(found, "problem", patches=0)}
    assert problems["eager"].startswith("wrong: complete: ")
    assert any(line.startswith("eager: wrong") for line in said)
    # The same error is allowed to bfloat16.
    assert {row["provider"] for row in of(found, "warm")} == {"survcore", "survcore, float32", "survcore, bfloat16"}
    assert {row["dtype"] for row in of(found, "warm", provider="survcore, bfloat16")} == {"bfloat16"}
    assert all(row["model"].startswith("must of model") for row in found)


def test_a_model_that_plain_pytorch_is_not_written_for(
    here: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("survcore.benchmarks.predict_plain.MUST", int)
    found, _ = run(folder)
    assert "left out: plain PyTorch" in of(found, "problem", provider="eager")[0]["problem"]
    assert of(found, "together") and not any("product_share" in row for row in found)


def test_a_risk_that_is_not_a_number_is_wrong() -> None:
    assert predict_latency.wrong([1.0, 2.0], [1.0, 2.0 * (1 - 1e-6)], 1e-4) == ""
    assert "inf" in predict_latency.wrong([1.0, float("nan")], [1.0, 2.0], 1e-4)
    assert "1.0e-03" in predict_latency.wrong([-1.001], [-1.0], 1e-4)


def test_the_command(here: Callable[..., None], folder: Path, tmp_path: Path) -> None:
    arguments = ["bench", "latency", str(folder), "--quick", "--threads", "1", "--patches", "20"]
    result = CliRunner().invoke(main, [*arguments, "--predictions", "20", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for told_of in ("in one call, per second", "p99 / p50", "dpm_solver++, 10 steps", "risks with 1, 2 threads"):
        assert told_of in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"predict_latency_cpu.jsonl", "predict_latency.svg"}
    assert all(row["quick"] and row["op"] == OP for row in results.read(tmp_path))


# ---- numbers of a run


def record(measured: str, **facts: Any) -> results.Record:
    common = {"op": OP, "measured": measured, "provider": "survcore", "model": "a model"}
    return CONTEXT | common | facts


def warm(scenario: str, milliseconds: float, p99: float | None = None, **facts: Any) -> results.Record:
    times = {"median": milliseconds / 1e3, "p95": None, "p99": None if p99 is None else p99 / 1e3, "calls": 200}
    return record("warm", scenario=scenario, patches=4096, source="cohort", peak_extra_bytes=2_000_000, **times | facts)


ROWS = [
    warm("complete", 120.0, 190.0),
    warm("without slide", 14.0, 16.8),
    warm("without genomics", 110.0),
    warm("without slide", 900.0, provider="eager"),
    record("steps", scenario="without slide", solver="ddim", steps=50, precision="full", median=0.014),
    record("steps", scenario="without slide", solver="ddim", steps=50, precision="bfloat16", median=0.007),
    record("patches", scenario="without genomics", patches=4096, median=0.11, p95=0.12),
    record("together", of="tables", patients=100, patches=1, seconds=0.5, one_by_one=0.9, product_share=0.71),
    record("growth", scenario="without slide", predictions=10_000, bytes=4_000_000),
    record("threads", numbers=[1, 2], largest_difference=2e-5),
]


def test_bars_are_met_or_missed() -> None:
    found = {(bar["what"], bar["met"]) for bar in predict_bars.bars(ROWS, 4096)}
    assert found == {
        ("complete, p99 / p50", False),
        ("without slide, p50", True),
        ("without slide, p99 / p50", True),
        ("without genomics, p50", False),
        ("100 mixed patients, tables: one by one / together", False),
        ("100 mixed patients, tables: of matrix products", True),
        ("memory over 10,000 predictions", True),
        ("risks with 1, 2 threads", False),
    }
    assert ("without genomics, p50", False) not in {(bar["what"], bar["met"]) for bar in predict_bars.bars(ROWS, 1000)}


def test_cells_of_the_tables() -> None:
    cold = record("cold", scenario="complete", load_seconds=1.25, first=0.3)
    table = predict_tables.table(None, [*ROWS, cold, record("after warm-up", scenario="complete", first=0.2)])
    assert table.rows[0] == ["complete", "survcore", "1.2", "300", "200", "120", "", "190", "1.58", "2.0"]
    assert table.rows[2][:6] == ["without slide", "eager", "", "", "", "900"]
    assert predict_tables.table("throughput", ROWS).rows == [
        ["tables", "survcore", "100", "200.0", "111.1", "1.8 x", "71 %"]
    ]
    assert predict_tables.table("steps", ROWS).rows == [["ddim, 50 steps", "14.0", "7.00"]]
    assert predict_tables.table("patches", ROWS).rows == [["4,096", "110"]]
    with pytest.raises(ValueError, match="no results of predictions"):
        predict_tables.table("bars", ROWS)


def test_percentiles_leave_out_the_first_call() -> None:
    found = predict_latency._spread([1e3, *range(200)])
    assert found == {"median": 100, "p95": 190, "p99": 198, "calls": 200}
    assert predict_latency._spread([5.0]) == {"median": 5.0, "p95": None, "p99": None, "calls": 1}
