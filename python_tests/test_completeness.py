"""A schema without every layer of its op fails here: kernels, fake kernel, reference, OpCase, benchmark, files."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

import survcore.ops  # noqa: F401 (loads and registers the ops)
from survcore import _library
from survcore.benchmarks.cases import OPS
from survcore.testing import OP_CASES

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = _library.op_names()
FORWARD = [name for name in NAMES if not name.endswith("_backward")]
# What prepares another op's arguments is tested and timed with that op.
PREPARING = {"cox_risk_sets", "pack_denoiser"}
DEFINED = [name for name in FORWARD if name not in PREPARING]


def test_every_differentiable_op_has_its_backward_op() -> None:
    assert FORWARD
    backward = {name.removesuffix("_backward") for name in NAMES if name.endswith("_backward")}
    assert backward == {name for name, case in OP_CASES.items() if case.differentiable}
    assert {name for name, case in OP_CASES.items() if case.reference_backward} == backward


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_registered(name: str) -> None:
    assert _library.kernel_source(name, "CPU") == "compiled"
    assert _library.kernel_source(name, "CUDA") in ("compiled", "triton", "reference")
    assert torch._library.simple_registry.singleton.find(f"survcore::{name}").fake_impl.kernel is not None


@pytest.mark.parametrize("name", NAMES)
def test_schema_uses_plain_types_and_is_functional(name: str) -> None:
    schema = getattr(torch.ops.survcore, name).default._schema
    for argument in (*schema.arguments, *schema.returns):
        assert str(argument.type) in ("Tensor", "int", "float", "bool", "str"), argument
        assert argument.alias_info is None, argument


@pytest.mark.parametrize("name", FORWARD)
def test_every_layer_has_a_file_of_the_same_name(name: str) -> None:
    for module in (f"survcore.reference.{name}", f"survcore.ops.{name}"):
        assert importlib.util.find_spec(module) is not None, module
    assert (REPOSITORY / "csrc" / "cpu" / f"{name}.cpp").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_reference_has_the_arguments_of_the_schema(name: str) -> None:
    module = importlib.import_module(f"survcore.reference.{name.removesuffix('_backward')}")
    code = getattr(module, name).__code__
    expected = [argument.name for argument in getattr(torch.ops.survcore, name).default._schema.arguments]
    assert list(code.co_varnames[: code.co_argcount]) == expected


def test_cases_are_of_existing_ops() -> None:
    assert set(OP_CASES) == {module.CASE.name for module in OPS} == set(DEFINED)
