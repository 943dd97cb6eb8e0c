"""`survcore predict` as a shell user and a program at the other end of a pipe see it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import survcore
from survcore.cli import main
from survcore.cli_predict import as_json
from survcore.errors import DataError

COUNT = 6
# Fast, and the same in every call.
QUICK = ["--draws", "2", "--steps", "3", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a slide and genomics, trained for a moment."""
    cohort = survcore.simulate_cohort(40, seed=2, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    settings = {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1}
    changes = {"model": settings, "stages": {stage: {"epochs": 1} for stage in ("warm_up", "joint", "diffusion")}}
    out = tmp_path_factory.mktemp("model")
    survcore.fit("must", cohort, changes=changes, out=out)
    return out


@pytest.fixture(scope="module")
def patients() -> survcore.Cohort:
    """Two without a slide, two complete, two without genomics."""
    cohort = survcore.simulate_cohort(
        COUNT, seed=3, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40)
    )
    return cohort.without("slide", np.arange(COUNT) < 2).without("genomics", np.arange(COUNT) >= 4)


@pytest.fixture
def records(patients: survcore.Cohort, tmp_path: Path) -> list[dict[str, Any]]:
    """The patients as JSON objects, with slides in files of the test's folder."""
    slide, genomics = patients.modality("slide"), patients.modality("genomics")
    found = []
    for row, row_id in enumerate(patients.row_ids.tolist()):
        record: dict[str, Any] = {"row_id": row_id}
        if slide.present[row]:
            np.save(tmp_path / f"{row_id}.npy", slide.value(row).numpy())
            record["slide"] = f"{row_id}.npy"
        if genomics.present[row]:
            record["genomics"] = dict(zip(genomics.spec.columns, genomics.value(row).tolist(), strict=True))
        found.append(record)
    return found


@pytest.fixture(scope="module")
def expected(model: Path, patients: survcore.Cohort) -> pd.DataFrame:
    return survcore.load(model, "cpu", dtype="float32").predict(patients, draws=2, steps=3)


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def lines(records: list[Any]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def answers(text: str) -> list[dict[str, Any]]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constant) for line in text.splitlines()]


def as_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per patient."""
    return pd.DataFrame(
        {"row_id": record["row_id"], "slide": record.get("slide"), **record.get("genomics", {})} for record in records
    )


def same_numbers(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    numbers = ["risk", "risk_spread", "median_survival", "survival_12", "survival_60"]
    assert found.index.tolist() == expected.index.tolist()
    np.testing.assert_allclose(found[numbers].astype(float), expected[numbers].astype(float), rtol=1e-5, atol=1e-6)
    for name in ("available", "completed"):
        assert found[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "jsonl"])
def test_every_way_to_give_patients(
    kind: str, model: Path, patients: survcore.Cohort, records: list[dict[str, Any]], expected: pd.DataFrame,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = tmp_path / ("cohort" if kind == "folder" else f"patients.{kind}")
    if kind == "folder":
        patients.to_folder(given)
    elif kind == "jsonl":
        given.write_text(lines(records))
    elif kind == "csv":
        as_table(records).to_csv(given, index=False)
    else:
        as_table(records).to_parquet(given, index=False)
    out = tmp_path / "answers.csv"
    result = run(model, given, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    assert f"{COUNT} rows (4 with completed modalities) written to {out}" in result.stdout
    found = pd.read_csv(out, index_col="row_id", keep_default_na=False)
    assert list(found.columns) == list(expected.columns)
    assert (found["error"] == "").all()
    same_numbers(found, expected)


def test_standard_output_holds_answers_alone(
    model: Path, records: list[dict[str, Any]], expected: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "patients.jsonl").write_text(lines(records))
    as_table(records).to_csv(tmp_path / "patients.csv", index=False)
    result = run(model, tmp_path / "patients.jsonl", *QUICK)
    found = answers(result.stdout)
    assert [answer["row_id"] for answer in found] == expected.index.tolist()
    assert f"{COUNT} rows" in result.stderr
    result = run(model, tmp_path / "patients.csv", *QUICK)
    assert result.stdout.startswith("row_id,risk,") and len(result.stdout.splitlines()) == COUNT + 1
    result = run(model, tmp_path / "patients.csv", "--format", "jsonl", *QUICK)
    assert answers(result.stdout) == found


@pytest.mark.parametrize(
    ("name", "options", "is_json"),
    [
        ("a.jsonl", ["--format", "jsonl"], True),
        ("a.jsonl", [], True),
        ("a.csv", [], False),
        ("a", [], True),
        ("a.csv", ["--format", "jsonl"], True),
        ("a.jsonl", ["--format", "csv"], False),
    ],
)
def test_how_a_file_is_written(
    name: str, options: list[str], is_json: bool, model: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "patients.jsonl").write_text(lines(records[2:4]))
    assert run(model, tmp_path / "patients.jsonl", "--out", tmp_path / name, *options, *QUICK).exit_code == 0
    text = (tmp_path / name).read_text()
    if is_json:
        assert [answer["row_id"] for answer in answers(text)] == [record["row_id"] for record in records[2:4]]
    else:
        assert text.startswith("row_id,") and len(text.splitlines()) == 3


def test_a_json_file_is_one_list(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "patients.jsonl").write_text(lines(records[2:5]))
    assert run(model, tmp_path / "patients.jsonl", "--out", tmp_path / "a.json", *QUICK).exit_code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [answer["row_id"] for answer in found] == [record["row_id"] for record in records[2:5]]
    assert json.loads(run(model, "--format", "json", stdin="").stdout) == []


def test_a_pipe_or_a_device_is_written_to_as_it_is(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.csv").symlink_to(tmp_path / "linked.csv")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    for out in ("pipe", "link.csv"):
        assert run(model, "--out", tmp_path / out, "--format", "csv", *QUICK, stdin=lines(records[:1])).exit_code == 0
    reader.join(60)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link.csv").is_symlink()
    assert found == [(tmp_path / "linked.csv").read_text()] and found[0].startswith("row_id,")


@pytest.mark.parametrize("row_id", ["\ud800", "a\0", 10**5000], ids=["surrogate", "NUL", "huge"])
def test_an_id_that_is_no_text_is_the_error_of_its_patient(
    row_id: Any, model: Path, records: list[dict[str, Any]]
) -> None:
    odd = [{"row_id": name, "genomics": records[1]["genomics"]} for name in ("before", row_id, "after")]
    table = survcore.load(model, "cpu").predict(odd, draws=1, steps=1)
    assert list(table["error"] != "") == [False, True, False]


def test_counted_ids_do_not_meet_given_ones_in_a_stream(model: Path, records: list[dict[str, Any]]) -> None:
    nameless = {name: value for name, value in records[1].items() if name != "row_id"}
    found = answers(run(model, *QUICK, stdin=lines([{**records[0], "row_id": "row 2"}, nameless])).stdout)
    assert [(answer["row_id"], answer["error"]) for answer in found] == 2 * [("row 2", None)]


@pytest.mark.parametrize("damage", ["short", "empty", "width"])
def test_a_damaged_file_in_a_folder_is_the_error_of_its_patient(damage: str, model: Path, tmp_path: Path) -> None:
    cohort = survcore.simulate_cohort(6, seed=3, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 20))
    cohort.to_folder(tmp_path / "patients", arrays="safetensors")
    file = tmp_path / "patients" / "slide" / f"{cohort.row_ids[2]}.safetensors"
    if damage == "width":
        save_file({"features": torch.zeros(9, 7)}, file)
    else:
        file.write_bytes(file.read_bytes()[:50] if damage == "short" else b"")
    result = run(model, tmp_path / "patients", "--format", "jsonl", *QUICK)
    assert result.exit_code == 0, result.output
    found = answers(result.stdout)
    assert [answer["error"] is None for answer in found] == [row != 2 for row in range(6)]
    assert str(cohort.row_ids[2]) in found[2]["error"]
    with pytest.raises(DataError, match=str(cohort.row_ids[2])):
        survcore.Cohort.from_folder(tmp_path / "patients")


def test_what_is_no_number_is_null(model: Path, records: list[dict[str, Any]]) -> None:
    broken = {"row_id": "broken", "genomics": {}}
    options = ["--months", "12,100000", "--restricted-mean-to", "12"]
    result = run(model, *options, *QUICK, stdin=lines([records[0], broken]))
    assert result.exit_code == 0
    good, bad = answers(result.stdout)
    assert good["error"] is None and good["survival_100000"] is None
    assert 0 < good["survival_12"] <= 1 and 0 < good["restricted_mean"] <= 12
    assert good["median_reached"] is (good["median_survival"] is not None)
    assert "'broken'" in bad["error"]
    for name in ("risk", "survival_12", "median_survival", "median_reached", "restricted_mean"):
        assert bad[name] is None


@pytest.mark.parametrize(("median", "reached"), [(float("inf"), False), (24.5, True), (float("nan"), None)])
def test_a_median_that_is_not_reached_says_so(median: float, reached: bool | None, expected: pd.DataFrame) -> None:
    answer = as_json("p", {**expected.iloc[0].to_dict(), "median_survival": median})
    assert answer["median_reached"] is reached
    assert answer["median_survival"] == (median if reached else None)


def test_bad_lines_are_answered_and_the_rest_goes_on(
    model: Path, records: list[dict[str, Any]], expected: pd.DataFrame
) -> None:
    good = lines(records[:1])
    bad = ["{torn\n", "7\n", '{"row_id": "a", "row_id": "b"}\n', "[" * 100_000 + "\n", "\n"]
    text = (good + "".join(bad) + lines(records[1:2])).encode() + b'{"row_id": "\xff"}\n'
    result = run(model, *QUICK, stdin=text)
    assert result.exit_code == 0
    found = answers(result.stdout)
    wrong = [
        "line 2 is not",
        "expected an object",
        "'row_id' is given twice",
        "nested too deeply",
        None,
        "line 8 is not",
    ]
    assert [answer["row_id"] for answer in found[1:5]] == ["row 2", "row 3", "row 4", "row 5"]
    for answer, message in zip(found, [None, *wrong], strict=True):
        assert (answer["error"] is None) if message is None else message in answer["error"]
    assert found[0]["risk"] == pytest.approx(expected["risk"].iloc[0], rel=1e-5)
    assert found[5]["risk"] == pytest.approx(expected["risk"].iloc[1], rel=1e-5)
    assert "7 rows" in result.stderr and "5 rows without a prediction" in result.stderr


def test_a_row_id_may_come_twice_in_a_stream_alone(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    text = lines([records[0], records[1], records[0]])
    first, _, again = answers(run(model, *QUICK, stdin=text).stdout)
    assert first["error"] is None and again["error"] is None and again["row_id"] == first["row_id"]
    assert again["risk"] == pytest.approx(first["risk"], rel=1e-5)
    (tmp_path / "patients.jsonl").write_text(text)
    _, other, again = answers(run(model, tmp_path / "patients.jsonl", *QUICK).stdout)
    assert "duplicate row id" in again["error"] and other["error"] is None


def test_absurd_values_are_warned_of(model: Path, records: list[dict[str, Any]]) -> None:
    records[1]["genomics"]["genomics_0_0"] = 1e6
    result = run(model, *QUICK, stdin=lines(records[:2]))
    first, second = answers(result.stdout)
    assert first["warning"] is None and "'genomics_0_0' lies" in second["warning"] and second["error"] is None
    assert "1 row with a warning" in result.stderr


def test_max_patches_and_single_gaps_are_told(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    records[2]["genomics"]["genomics_0_0"] = None
    (tmp_path / "patients.jsonl").write_text(lines(records[2:3]))
    result = run(model, tmp_path / "patients.jsonl", "--max-patches", 5, *QUICK)
    answer = answers(result.stdout)[0]
    assert answer["subsampled"] == "slide" and answer["imputed_entries"] == 1
    assert "1 row predicted from 5 patches" in result.stderr and "1 single missing entries" in result.stderr


def test_wrong_options_are_told_before_a_line_is_read(model: Path, records: list[dict[str, Any]]) -> None:
    result = run(model, "--steps", 0, stdin=lines(records))
    assert result.exit_code == 1 and "steps" in result.stderr and result.stdout == ""


def test_a_byte_order_mark_is_no_damage(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "patients.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(records[:1]).encode())
    as_table(records[:1]).to_csv(tmp_path / "patients.csv", index=False, encoding="utf-8-sig")
    for name in ("patients.jsonl", "patients.csv"):
        answer = answers(run(model, tmp_path / name, "--format", "jsonl", *QUICK).stdout)[0]
        assert answer["row_id"] == records[0]["row_id"] and answer["error"] is None


def test_it_fails_where_all_failed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("row_id,slide\na,nowhere.npy\nb,\n")
    out = tmp_path / "answers.jsonl"
    result = run(model, tmp_path / "patients.csv", "--out", out, *QUICK)
    assert result.exit_code == 1
    assert "none of the 2 patients can be predicted" in result.stderr and "'a'" in result.stderr
    assert ["nowhere.npy" in answer["error"] for answer in answers(out.read_text())] == [True, False]
    assert run(model, tmp_path / "patients.csv", "--out", "-", *QUICK).exit_code == 1


def test_no_line_is_no_failure(model: Path) -> None:
    result = run(model, *QUICK, stdin="\n")
    assert result.exit_code == 0 and result.stdout == "" and "0 rows" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("p.csv", "row_id,genomics.nothing\na,1\n", [], "does not know 1 of the table's columns"),
        ("p.csv", "row_id,slide\n", [], "no patients"),
        ("p.csv", "a,a\n1,2\n", [], "duplicate column 'a'"),
        ("p.parquet", "not parquet", [], "cannot be read as parquet"),
        ("p.jsonl", "\n", [], "no patients"),
        ("p.txt", "a", [], "expected a cohort folder or a .csv, .parquet or .jsonl file"),
        ("p.csv", "slide\nx.npy\n", ["--months", "12,b"], "months separated by commas"),
        ("p.csv", "slide\nx.npy\n", ["--threads", "0"], "--threads"),
        ("p.csv", "slide\nx.npy\n", ["--dtype", "float16"], "--dtype"),
        ("p.csv", "slide\nx.npy\n", ["--restricted-mean-to", "-1"], "--restricted-mean-to"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str, text: str, options: list[str], message: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    result = run(model, tmp_path / name, "--out", tmp_path / "out.csv", *options)
    assert result.exit_code != 0 and message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_models_and_files_that_are_not_there(model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("{}\n")
    assert "not a survcore model" in run(tmp_path, tmp_path / "p.jsonl").stderr
    assert "does not exist" in run(model, tmp_path / "nowhere.csv").stderr
    assert "cohort.toml" in run(model, tmp_path).stderr


def test_batches_do_not_change_answers(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "patients.jsonl").write_text(lines(records))
    first, second = (
        answers(run(model, tmp_path / "patients.jsonl", *QUICK, *options).stdout)
        for options in ([], ["--threads", "1", "--batch-size", "2"])
    )
    for one, two in zip(first, second, strict=True):
        assert two["risk"] == pytest.approx(one["risk"], rel=1e-5)
        assert two["survival_36"] == pytest.approx(one["survival_36"], rel=1e-5)


def test_a_pipe_is_answered_line_by_line(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """The caller waits for each answer before it sends the next line, and never closes its end before the last."""
    process = subprocess.Popen(
        [sys.executable, "-m", "survcore.cli", "predict", str(model), *QUICK],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    came: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_collect, args=(process.stdout, came), daemon=True).start()
    try:
        for record in [*records[:3], "nothing", records[3]]:
            process.stdin.write(f"{json.dumps(record)}\n")
            process.stdin.flush()
            line = came.get(timeout=120)
            assert line, process.stderr.read()
            answer = json.loads(line)
            if isinstance(record, dict):
                assert answer["row_id"] == record["row_id"] and answer["error"] is None
            else:
                assert answer["row_id"] == "row 4" and answer["error"]
            assert process.poll() is None
        process.stdin.write(lines(records))
        process.stdin.close()
        assert process.wait(timeout=120) == 0
        rest = [json.loads(came.get(timeout=10))["row_id"] for _ in records]
        assert rest == [record["row_id"] for record in records]
        assert "11 rows" in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def _collect(source: IO[str], came: queue.Queue[str]) -> None:
    for line in source:
        came.put(line)
    came.put("")
