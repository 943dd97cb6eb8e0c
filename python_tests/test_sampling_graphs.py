"""The cache of recorded sampling loops, with recordings that are run again instead of CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from survcore.ops._sampling_graphs import SamplingGraphs
from survcore.reference import ddim_sample as reference
from survcore.reference.pack_denoiser import flatten_denoiser, pack_denoiser, unflatten_denoiser
from survcore.testing.ddim_sample import ddim_arguments, denoiser_weights


class Recorder:
    """Makes recordings that run their function again; what they do is listed."""

    def __init__(self, fails: bool = False) -> None:
        self.events: list[str] = []
        self.fails = fails

    def __call__(self, run: Callable[[], Tensor]) -> Recorder.Recording:
        if self.fails:
            raise RuntimeError("capture failed")
        self.events.append("record")
        return Recorder.Recording(run, self.events)

    class Recording:
        def __init__(self, run: Callable[[], Tensor], events: list[str]) -> None:
            self._run, self._events = run, events
            self.output = run()

        def begin(self) -> None:
            self._events.append("begin")

        def replay(self) -> None:
            self.output.copy_(self._run())
            self._events.append("replay")

        def end(self) -> None:
            self._events.append("end")


def _graphs(recorder: Recorder, capturing: bool = False) -> SamplingGraphs:
    return SamplingGraphs(recorder, lambda: capturing)


def test_the_second_call_records_and_later_ones_replay() -> None:
    recorder = Recorder()
    graphs = _graphs(recorder)
    for call in range(4):
        arguments = list(ddim_arguments(torch.float32, 5))
        arguments[0] = arguments[0] + call
        arguments[5] = arguments[5] * (1 + call)
        assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
    assert recorder.events == ["record", *["begin", "replay", "end"] * 3]


def test_the_result_is_the_callers_and_the_inputs_stay() -> None:
    graphs = _graphs(Recorder())
    arguments = ddim_arguments(torch.float32, 5)
    before = [argument.clone() for argument in arguments]
    first, second, third = (graphs(*arguments) for _ in range(3))
    expected = third.clone()
    second.fill_(7)
    graphs(arguments[0] + 1, *arguments[1:])
    assert torch.equal(third, expected) and torch.equal(first, expected)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_new_weights_of_the_same_size_are_used_without_recording_again() -> None:
    recorder = Recorder()
    graphs = _graphs(recorder)
    arguments = list(ddim_arguments(torch.float32, 4))
    for factor in (1, 1, 2, 3):
        weights = denoiser_weights(torch.float32, 2, 16)
        weights = weights._replace(output_weight=weights.output_weight * factor)
        arguments[4] = flatten_denoiser(weights, 4)
        assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
    # In place: the version of the tensor tells.
    arguments[4].copy_(flatten_denoiser(denoiser_weights(torch.float32, 2, 16), 2))
    assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
    assert recorder.events.count("record") == 1


def test_weights_of_another_denoiser_in_a_tensor_without_a_version_give_nan() -> None:
    graphs = _graphs(Recorder())
    arguments = list(ddim_arguments(torch.float32, 4))
    with torch.inference_mode():
        arguments[4] = arguments[4].clone()
        for _ in range(2):
            assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
        arguments[4].copy_(flatten_denoiser(denoiser_weights(torch.float32, 2, 16), 2))
        assert graphs(*arguments).isnan().all()


def test_inference_mode_and_views_are_of_no_matter() -> None:
    recorder = Recorder()
    graphs = _graphs(recorder)
    noise, condition, *rest = ddim_arguments(torch.float32, 6)
    strided = torch.stack((noise, noise), dim=-1)[..., 0]
    expected = reference.ddim_sample(noise, condition, *rest)
    with torch.inference_mode():
        graphs(strided, condition, *rest)
        assert torch.equal(graphs(strided, condition, *rest), expected)
    assert torch.equal(graphs(noise, condition.mT.contiguous().mT, *rest), expected)
    assert recorder.events.count("record") == 1


def test_the_latest_kinds_are_kept() -> None:
    recorder = Recorder()
    graphs = _graphs(recorder)
    graphs.most_kinds = 2
    for draws in (1, 1, 2, 2, 3, 3, 2, 1):
        arguments = ddim_arguments(torch.float32, draws)
        assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
    assert recorder.events.count("record") == 3 and len(graphs._kinds) == 2


def test_what_does_not_pay_is_not_recorded() -> None:
    recorder = Recorder()
    graphs = _graphs(recorder)
    graphs.most_draws = 3
    noise, condition, index, step_noise, flat, modulation, table = ddim_arguments(torch.float32, 4)
    many = (noise, condition, index, step_noise, flat, modulation, table)
    none = (noise[:0], condition, index[:0], step_noise[:, :0], flat, modulation, table)
    no_steps = (noise[:2], condition, index[:2], step_noise[:0, :2], flat, modulation[:0], table[:0])
    for arguments in (many, none, no_steps):
        for _ in range(3):
            assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))
    assert recorder.events == []


def test_a_loop_that_cannot_be_recorded_runs_plainly() -> None:
    graphs = _graphs(Recorder(fails=True))
    arguments = ddim_arguments(torch.float32, 4)
    for _ in range(3):
        assert torch.equal(graphs(*arguments), reference.ddim_sample(*arguments))


def test_a_callers_capture_takes_the_plain_loop_and_never_reads_from_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    capturing = False
    graphs = SamplingGraphs(recorder, lambda: capturing)
    arguments = ddim_arguments(torch.float32, 4)
    expected = graphs(*arguments)
    capturing = True

    def refused(*_: object) -> None:
        raise AssertionError("waits for the device")

    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "__bool__", "cpu", "nonzero"):
            patch.setattr(Tensor, name, refused)
        result = graphs(*arguments)
    assert torch.equal(result, expected) and recorder.events == []
    with pytest.raises(RuntimeError, match="has not seen: sample once before"):
        graphs(*ddim_arguments(torch.float32, 4))


def test_threads_share_a_recording() -> None:
    graphs = _graphs(Recorder())
    problems = []
    for seed in range(4):
        arguments = list(ddim_arguments(torch.float32, 5))
        arguments[0] = arguments[0] * (seed + 1)
        problems.append((arguments, reference.ddim_sample(*arguments)))
    wrong: list[int] = []

    def run(position: int) -> None:
        arguments, expected = problems[position % 4]
        for _ in range(5):
            if not torch.equal(graphs(*arguments), expected):
                wrong.append(position)

    workers = [threading.Thread(target=run, args=(position,)) for position in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("width", [3, 16])
def test_a_flat_pack_in_bfloat16_gives_the_rounded_weights_back(width: int) -> None:
    weights = denoiser_weights(torch.float32, 2, width)
    packed = pack_denoiser(flatten_denoiser(weights, 1), "bfloat16", "")
    again, heads = unflatten_denoiser(packed)
    assert heads == 1 and packed.numel() % 16 == 2
    for stored, given in zip(again.tensors(), weights.tensors(), strict=True):
        expected = given.bfloat16().float() if given.dim() == 2 else given
        assert torch.equal(stored, expected)
