"""Noise schedule, denoiser and sampling loop."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from survcore.diffusion import Denoiser, NoiseSchedule, sample
from survcore.reference.ddim_sample import sampling_loop

WIDTH = 16


pytestmark = pytest.mark.usefixtures("one_thread", "gradient_mode")


@pytest.fixture
def gradient_mode() -> Iterator[None]:
    yield
    torch.set_grad_enabled(True)


def trained_looking_denoiser(attention: str = "prefix", layers: int = 3) -> Denoiser:
    """A denoiser in float64 whose modulation is not the neutral one of a fresh instance."""
    denoiser = Denoiser(WIDTH, layers=layers, heads=4, attention=attention).double()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return denoiser


def textbook_ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    noise: Tensor,
    condition: Tensor,
    steps: int,
    eta: float,
    step_noise: Tensor,
) -> Tensor:
    """Song et al. (2021), eq. 12, one draw and one step at a time, from betas and the denoiser's training form."""
    beta = [
        schedule.first_beta + (schedule.last_beta - schedule.first_beta) * t / (schedule.timesteps - 1)
        for t in range(schedule.timesteps)
    ]
    kept = [1 - b for b in beta]
    latents = []
    for draw, latent in enumerate(noise):
        for step in range(steps):
            t = (steps - 1 - step) * schedule.timesteps // steps
            now = math.prod(kept[: t + 1])
            after = math.prod(kept[: (steps - 2 - step) * schedule.timesteps // steps + 1]) if step < steps - 1 else 1.0
            eps = denoiser(latent[None, None], torch.tensor([[t]]), condition[draw][None])[0, 0]
            if schedule.prediction == "velocity":
                eps = math.sqrt(1 - now) * latent + math.sqrt(now) * eps
            clean = (latent - math.sqrt(1 - now) * eps) / math.sqrt(now)
            sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
            latent = math.sqrt(after) * clean + math.sqrt(max(1 - after - sigma**2, 0)) * eps
            latent = latent + sigma * step_noise[step, draw]
        latents.append(latent)
    return torch.stack(latents)


def test_schedule_is_the_linear_one() -> None:
    schedule = NoiseSchedule()
    alpha_bar = schedule.alpha_bar()
    assert alpha_bar.shape == (1000,) and alpha_bar.dtype == torch.float64
    assert alpha_bar[0].item() == pytest.approx(1 - 1e-4, abs=1e-15)
    assert (alpha_bar[-1] / alpha_bar[-2]).item() == pytest.approx(1 - 0.02, abs=1e-12)
    assert schedule.sampling_timesteps(50)[[0, 1, -1]].tolist() == [980, 960, 0]
    assert schedule.sampling_timesteps(3).tolist() == [666, 333, 0]
    assert schedule.sampling_timesteps(1000).tolist() == list(range(999, -1, -1))
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match=r"1\.\.1000"):
            schedule.sampling_timesteps(wrong)


def test_last_step_ends_without_noise() -> None:
    schedule = NoiseSchedule()
    assert schedule.coefficients(50, 1.0)[-1, 2:].tolist() == [0.0, 0.0, 0.0]
    for eta in (0.0, 1.0):
        signal, noise, *rest = NoiseSchedule(prediction="noise").coefficients(50, eta)[-1].tolist()
        first = schedule.alpha_bar()[0].item()
        assert signal == pytest.approx(1 / math.sqrt(first), rel=1e-14)
        assert noise == pytest.approx(-math.sqrt(1 - first) / math.sqrt(first), rel=1e-10)
        assert rest == [0.0, 0.0, 0.0]


def test_velocity_steps_rotate_and_never_magnify() -> None:
    """A and B are cosine and sine of the angle between two times, so that errors do not grow over the steps."""
    table = NoiseSchedule().coefficients(50)
    now = NoiseSchedule().alpha_bar()[NoiseSchedule().sampling_timesteps(50)]
    after = torch.cat((now[1:], now.new_ones(1)))
    torch.testing.assert_close(table[:, 0], (now * after).sqrt() + ((1 - now) * (1 - after)).sqrt())
    assert table[:, 0].max() <= 1 and table[:, 1].abs().max() < 1
    torch.testing.assert_close(table[:, 0].square() + table[:, 1].square(), torch.ones(50, dtype=torch.float64))
    with pytest.raises(ValueError, match="velocity, noise"):
        NoiseSchedule(prediction="epsilon")


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("attention", ["prefix", "joint"])
@pytest.mark.parametrize("prediction", ["velocity", "noise"])
@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (7, 0.0), (7, 0.5), (20, 1.0)])
def test_sampler_equals_the_textbook_loop(
    attention: str, prediction: str, steps: int, eta: float, gradient: bool
) -> None:
    schedule = NoiseSchedule(timesteps=100, prediction=prediction)
    denoiser = trained_looking_denoiser(attention)
    condition = torch.randn(2, 2, WIDTH).double()
    index = torch.tensor([0, 1, 1, 0, 1])
    noise, step_noise = torch.randn(5, WIDTH).double(), torch.randn(steps, 5, WIDTH).double()
    with torch.no_grad():
        expected = textbook_ddim(denoiser, schedule, noise, condition[index], steps, eta, step_noise)
    given = {"schedule": schedule, "num_steps": steps, "eta": eta, "step_noise": step_noise if eta else None}
    with torch.set_grad_enabled(gradient):
        got = sample(denoiser, noise, condition, index, **given)
    assert got.dtype == torch.float64 and not torch.equal(got, noise)
    assert got.requires_grad == gradient
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def textbook_dpm_solver(
    denoiser: Denoiser, schedule: NoiseSchedule, noise: Tensor, condition: Tensor, steps: int
) -> Tensor:
    """Lu et al. (2022), algorithm 2 (DPM-Solver++(2M)), from the estimates of the clean latent; steps evenly spaced in
    log(alpha / sigma), the first and the last of first order."""
    alpha_bar = schedule.alpha_bar()
    ratio = [0.5 * math.log(a / (1 - a)) for a in alpha_bar.tolist()]
    wanted = [ratio[-1] + i / max(steps - 1, 1) * (ratio[0] - ratio[-1]) for i in range(steps)]
    times = [min(range(len(ratio)), key=lambda t: abs(ratio[t] - value)) for value in wanted]
    signal = [alpha_bar[t].sqrt().item() for t in times] + [1.0]
    sigma = [(1 - alpha_bar[t]).sqrt().item() for t in times] + [0.0]
    half_log = [math.log(a / s) for a, s in zip(signal[:-1], sigma[:-1], strict=True)]
    latents, before = noise, None
    for i, t in enumerate(times):
        output = denoiser(latents[:, None], torch.full((len(noise), 1), t), condition)[:, 0]
        if schedule.prediction == "velocity":
            clean = signal[i] * latents - sigma[i] * output
        else:
            clean = (latents - sigma[i] * output) / signal[i]
        direction = clean
        if 0 < i < steps - 1:
            r = (half_log[i] - half_log[i - 1]) / (half_log[i + 1] - half_log[i])
            direction = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        gain = signal[i + 1] * -math.expm1(half_log[i] - half_log[i + 1]) if i < steps - 1 else 1.0
        latents, before = sigma[i + 1] / sigma[i] * latents + gain * direction, clean
    return latents


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("prediction", ["velocity", "noise"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_dpm_solver_equals_its_algorithm(prediction: str, steps: int, gradient: bool) -> None:
    schedule, denoiser = NoiseSchedule(prediction=prediction), trained_looking_denoiser()
    condition, noise, index = torch.randn(4, 2, WIDTH).double(), torch.randn(4, WIDTH).double(), torch.arange(4)
    with torch.no_grad():
        expected = textbook_dpm_solver(denoiser, schedule, noise, condition, steps)
    with torch.set_grad_enabled(gradient):
        got = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=steps, solver="dpm_solver++")
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_dpm_solver_comes_closer_in_few_steps(prediction: str) -> None:
    """Latents from N(2, .3^2), whose best output and whose end of the flow are known."""
    schedule, mean, deviation = NoiseSchedule(prediction=prediction), 2.0, 0.3
    start = torch.linspace(-2, 2, 9).double()
    first = schedule.alpha_bar()[-1]
    exact = mean + deviation * (start - first.sqrt() * mean) / (deviation**2 * first + 1 - first).sqrt()

    def error(solver: str, steps: int) -> float:
        alpha_bar = schedule.alpha_bar()[schedule.sampling_timesteps(steps, solver)]
        x, before, output = start, torch.zeros_like(start), torch.zeros_like(start)
        for kept, (a, b, _, w, v) in zip(alpha_bar, schedule.coefficients(steps, solver=solver), strict=True):
            distance = (x - kept.sqrt() * mean) / (deviation**2 * kept + 1 - kept)
            clean, previous = mean + deviation**2 * kept.sqrt() * distance, output
            output = schedule.target(clean, (1 - kept).sqrt() * distance, kept)
            x, before = a * x + b * output + w * previous + v * before, x
        return (x - exact).abs().max().item()

    assert error("ddim", 1000) < 5e-3
    for steps in (10, 20, 40):
        assert error("dpm_solver++", steps) < 0.2 * error("ddim", steps)
    assert error("dpm_solver++", 20) < 0.3 * error("ddim", 50)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 200, 999, 1000])
def test_steps_of_the_dpm_solver_are_distinct(steps: int) -> None:
    times = NoiseSchedule().sampling_timesteps(steps, "dpm_solver++")
    assert times.shape == (steps,) and (times.diff() < 0).all() and times[0] == 999 and times[-1] >= 0
    if 1 < steps < 100:
        assert times[-1] == 0


def test_solver_and_precision_are_checked() -> None:
    with pytest.raises(ValueError, match=r"ddim, dpm_solver\+\+, got 'euler'"):
        NoiseSchedule().coefficients(10, solver="euler")
    with pytest.raises(ValueError, match="eta must be at least 0"):
        NoiseSchedule().coefficients(10, 0.5, "dpm_solver++")
    condition, index = torch.zeros(1, 2, WIDTH).double(), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="full, bfloat16"):
        sample(trained_looking_denoiser(), torch.zeros(1, WIDTH).double(), condition, index,
               schedule=NoiseSchedule(), precision="float16")  # fmt: skip


def test_compiled_sampler_follows_every_change_of_the_weights() -> None:
    schedule, denoiser = NoiseSchedule(), trained_looking_denoiser()
    condition, noise, index = torch.randn(2, 2, WIDTH).double(), torch.randn(2, WIDTH).double(), torch.arange(2)

    def check() -> None:
        with torch.no_grad():
            compiled = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=4)
        plain = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=4)
        torch.testing.assert_close(compiled, plain.detach(), rtol=1e-9, atol=1e-9)

    check()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=0.1)
    denoiser(noise[:, None], torch.full((2, 1), 5), condition).square().sum().backward()
    optimizer.step()
    check()
    denoiser.load_state_dict(trained_looking_denoiser().state_dict())
    check()
    denoiser.output.weight = torch.nn.Parameter(torch.randn_like(denoiser.output.weight))
    check()
    denoiser.time[0].bias.data.add_(1.0)  # unseen by the version counter
    denoiser.eval()
    check()


def _changes() -> dict[str, Callable[[Denoiser], object]]:
    def to_vector(denoiser: Denoiser) -> None:
        vector = torch.nn.utils.parameters_to_vector(denoiser.parameters())
        torch.nn.utils.vector_to_parameters(1.1 * vector, denoiser.parameters())

    def through_data(denoiser: Denoiser) -> None:
        denoiser.output.weight.data.mul_(2)

    return {
        "vector_to_parameters": to_vector,
        "half_and_back": lambda denoiser: denoiser.half().double(),
        "float": lambda denoiser: denoiser.float().double(),
        "data_in_training": lambda denoiser: (denoiser.train(), _draw(denoiser), through_data(denoiser)),
        "data_then_eval": lambda denoiser: (through_data(denoiser), denoiser.eval()),
    }


def _draw(denoiser: Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    condition, noise = (torch.randn(shape, generator=generator).double() for shape in ((2, 2, WIDTH), (2, WIDTH)))
    with torch.no_grad():
        return sample(denoiser, noise, condition, torch.arange(2), schedule=NoiseSchedule(), num_steps=4)


@pytest.mark.parametrize("change", list(_changes()))
def test_no_change_of_the_weights_is_overlooked(change: str) -> None:
    denoiser = trained_looking_denoiser().eval()
    before = _draw(denoiser)
    with torch.no_grad():
        _changes()[change](denoiser)
    after = _draw(denoiser)
    assert torch.equal(after, _draw(copy.deepcopy(denoiser))) and not torch.equal(after, before)


def test_weights_of_inference_mode_are_packed_anew() -> None:
    with torch.inference_mode():
        denoiser = trained_looking_denoiser().eval()
        _draw(denoiser)
        denoiser.output.weight.mul_(2)
        assert torch.equal(_draw(denoiser), _draw(copy.deepcopy(denoiser)))


def test_what_is_kept_does_not_depend_on_the_mode_of_the_first_call() -> None:
    """Autocast and a fake mode around the first call leave nothing behind."""
    denoiser = trained_looking_denoiser().eval()
    expected = _draw(copy.deepcopy(denoiser))
    with torch.autocast("cpu", torch.bfloat16):
        _draw(denoiser)
    assert torch.equal(_draw(denoiser), expected)
    with FakeTensorMode(allow_non_fake_inputs=True):
        NoiseSchedule().coefficients(37), NoiseSchedule().sampling_timesteps(37, "dpm_solver++")
    assert type(NoiseSchedule().coefficients(37)) is Tensor


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_sample_can_be_compiled_and_exported() -> None:
    class Sampler(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = trained_looking_denoiser(layers=1).eval().requires_grad_(False)

        def forward(self, noise: Tensor, condition: Tensor, index: Tensor) -> Tensor:
            return sample(self.denoiser, noise, condition, index, schedule=NoiseSchedule(), num_steps=2)

    given = (torch.randn(3, WIDTH).double(), torch.randn(2, 2, WIDTH).double(), torch.tensor([0, 1, 1]))
    module = Sampler()
    expected = module(*given)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(*given), expected)
    exported = torch.export.export(module, given)
    torch.testing.assert_close(exported.module()(*given), expected)
    assert all("survcore" not in str(node.target) for node in exported.graph.nodes)


def test_forward_mode_and_gradient_of_the_step_noise() -> None:
    denoiser = trained_looking_denoiser().eval().requires_grad_(False)
    condition, noise, index = torch.randn(2, 2, WIDTH).double(), torch.randn(2, WIDTH).double(), torch.arange(2)

    def draw(start: Tensor, added: Tensor) -> Tensor:
        return sample(denoiser, start, condition, index, schedule=NoiseSchedule(), num_steps=2, eta=1.0,
                      step_noise=added)  # fmt: skip

    added, direction = torch.randn(2, 2, WIDTH).double(), torch.randn_like(noise)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no forward mode, and says so
        value, tangent = torch.func.jvp(lambda start: draw(start, added), (noise,), (direction,))
    torch.testing.assert_close(value, draw(noise, added), rtol=1e-9, atol=1e-9)
    quotient = (draw(noise + 1e-6 * direction, added) - draw(noise - 1e-6 * direction, added)) / 2e-6
    torch.testing.assert_close(tangent, quotient, rtol=1e-5, atol=1e-6)
    draw(noise, added.requires_grad_()).sum().backward()
    assert added.grad[0].abs().sum() > 0


def test_kept_packs_are_no_part_of_the_module() -> None:
    denoiser = trained_looking_denoiser()
    condition, noise, index = torch.randn(2, 2, WIDTH).double(), torch.randn(2, WIDTH).double(), torch.arange(2)

    def draw(module: Denoiser) -> Tensor:
        with torch.no_grad():
            return sample(module, noise, condition, index, schedule=NoiseSchedule(), num_steps=3)

    keys = set(denoiser.state_dict())
    size = len(pickle.dumps(denoiser))
    first = draw(denoiser)
    assert set(denoiser.state_dict()) == keys and len(pickle.dumps(denoiser)) == size
    for twin in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert torch.equal(draw(twin), first)
        with torch.no_grad():
            twin.output.bias.add_(1.0)
        assert not torch.equal(draw(twin), first)
    assert torch.equal(draw(denoiser), first)


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad"])
def test_kept_packs_serve_later_modes(mode: str) -> None:
    """Made in one mode, used in another, and no hindrance to training."""
    denoiser = trained_looking_denoiser()
    condition, noise, index = torch.randn(2, 2, WIDTH).double(), torch.randn(2, WIDTH).double(), torch.arange(2)
    given = {"schedule": NoiseSchedule(), "num_steps": 3}
    with getattr(torch, mode)():
        first = sample(denoiser, noise, condition, index, **given)
    with torch.no_grad():
        assert torch.equal(sample(denoiser, noise, condition, index, **given), first)
    sample(denoiser, noise, condition, index, **given).sum().backward()
    assert denoiser.output.weight.grad.isfinite().all()


def test_bfloat16_keeps_the_direction_of_every_draw() -> None:
    """At the size that is used: 4 layers, D = 256, 50 steps."""
    denoiser = Denoiser(256)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
        condition, noise, index = torch.randn(3, 2, 256), torch.randn(15, 256), torch.arange(15) % 3
        full, rounded = (
            sample(denoiser, noise, condition, index, schedule=NoiseSchedule(), precision=precision)
            for precision in ("full", "bfloat16")
        )
    assert not torch.equal(full, rounded)
    assert torch.cosine_similarity(full, rounded, dim=1).min() > 0.999


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
def test_draws_do_not_depend_on_their_neighbours(gradient: bool) -> None:
    torch.set_grad_enabled(gradient)
    schedule, denoiser = NoiseSchedule(), trained_looking_denoiser()
    condition, noise = torch.randn(3, 2, WIDTH).double(), torch.randn(6, WIDTH).double()
    index = torch.tensor([0, 0, 1, 2, 2, 1])
    together = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=10)
    alone = [
        sample(
            denoiser,
            noise[i : i + 1],
            condition[index[i]][None],
            torch.zeros(1, dtype=torch.int64),
            schedule=schedule,
            num_steps=10,
        )
        for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    condition[1] = torch.nan
    poisoned = sample(denoiser, noise, condition, index, schedule=schedule, num_steps=10)
    torch.testing.assert_close(poisoned[index != 1], together[index != 1])
    assert poisoned[index == 1].isnan().all()


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
def test_a_draw_without_condition_is_nan(gradient: bool) -> None:
    denoiser = trained_looking_denoiser()
    condition, noise = torch.randn(2, 2, WIDTH).double(), torch.randn(4, WIDTH).double()
    with torch.set_grad_enabled(gradient):
        got = sample(denoiser, noise, condition, torch.tensor([1, -1, 2, 0]), schedule=NoiseSchedule(), num_steps=3)
        nobody = sample(denoiser, noise, condition[:0], torch.zeros(4, dtype=torch.int64), schedule=NoiseSchedule())
    assert got.isnan().any(1).tolist() == [False, True, True, False] and nobody.isnan().all()


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
def test_wrong_draws_are_refused_alike(gradient: bool) -> None:
    noise, condition, index = torch.zeros(3, WIDTH).double(), torch.zeros(1, 2, WIDTH).double(), torch.zeros(3).long()
    given = {"schedule": NoiseSchedule(), "num_steps": 2}
    torch.set_grad_enabled(gradient)
    for change, error, message in (
        ({"condition_index": index.int()}, TypeError, "condition_index must be int64"),
        ({"condition": condition[..., 1:]}, ValueError, r"condition must be \[P, C, 16\]"),
        (
            {"eta": 1.0, "step_noise": torch.zeros(1, 3, WIDTH).double()},
            ValueError,
            r"step_noise must have shape \(2, 3",
        ),
        ({"num_steps": 2.5}, ValueError, "num_steps must be a whole number"),
        ({"eta": math.nan}, ValueError, "eta must be at least 0"),
        ({"num_steps": 1001, "solver": "dpm_solver++"}, ValueError, r"1\.\.1000"),
        ({"noise": noise.to("meta")}, ValueError, "condition is on cpu, noise on meta"),
    ):
        arguments = {"noise": noise, "condition": condition, "condition_index": index} | given | change
        with pytest.raises(error, match=message):
            sample(trained_looking_denoiser(), **arguments)


@pytest.mark.parametrize("gradient", [False, True], ids=["compiled", "reference"])
def test_no_draws_give_no_latents(gradient: bool) -> None:
    torch.set_grad_enabled(gradient)
    noise, index = torch.zeros(0, WIDTH).double(), torch.zeros(0, dtype=torch.int64)
    condition = torch.randn(1, 2, WIDTH).double()
    got = sample(trained_looking_denoiser(), noise, condition, index, schedule=NoiseSchedule(), num_steps=3)
    assert got.shape == (0, WIDTH)


def test_noise_of_the_steps_must_be_given_when_eta_asks_for_it() -> None:
    condition, index = torch.zeros(1, 2, WIDTH).double(), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="step_noise"):
        sample(
            trained_looking_denoiser(),
            torch.zeros(1, WIDTH).double(),
            condition,
            index,
            schedule=NoiseSchedule(),
            eta=1.0,
        )


def test_the_previous_step_enters_with_its_weights() -> None:
    denoiser, schedule = trained_looking_denoiser(), NoiseSchedule()
    timesteps = schedule.sampling_timesteps(2)
    noise, condition = torch.randn(1, WIDTH).double(), torch.randn(1, 2, WIDTH).double()
    table = torch.tensor([[0.9, 0.2, 0.0, 5.0, 6.0], [0.8, 0.3, 0.0, 0.7, 0.4]], dtype=torch.float64)
    index = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        modulation = denoiser.modulation(timesteps)
        got = sampling_loop(noise, condition, index, None, denoiser.weights(), modulation, table, heads=4)
        first = denoiser(noise[:, None], timesteps[None, :1], condition)[:, 0]
        middle = 0.9 * noise + 0.2 * first
        second = denoiser(middle[:, None], timesteps[None, 1:], condition)[:, 0]
    torch.testing.assert_close(got, 0.8 * middle + 0.3 * second + 0.7 * first + 0.4 * noise)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_noisy_rows_of_one_latent_do_not_see_each_other(attention: str) -> None:
    denoiser = trained_looking_denoiser(attention)
    noisy, condition = torch.randn(2, 3, WIDTH).double(), torch.randn(2, 2, WIDTH).double()
    timesteps = torch.tensor([[5, 500, 900], [1, 20, 300]])
    together = denoiser(noisy, timesteps, condition)
    for version in range(3):
        alone = denoiser(noisy[:, version, None], timesteps[:, version, None], condition)
        torch.testing.assert_close(together[:, version], alone[:, 0])


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_condition_rows_see_the_latent_only_in_joint_attention(attention: str) -> None:
    denoiser = trained_looking_denoiser(attention)
    seen: list[Tensor] = []
    denoiser.blocks[-1].attention_norm.register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    condition, timesteps = torch.randn(1, 2, WIDTH).double(), torch.tensor([[700]])
    denoiser(torch.randn(1, 1, WIDTH).double(), timesteps, condition)
    denoiser(torch.randn(1, 1, WIDTH).double(), timesteps - 600, condition)
    assert not torch.allclose(seen[0][:, 0], seen[1][:, 0])
    assert torch.allclose(seen[0][:, 1:], seen[1][:, 1:]) == (attention == "prefix")


def test_denoiser_names_wrong_shapes_and_choices() -> None:
    with pytest.raises(ValueError, match="multiple of its heads"):
        Denoiser(12, heads=8)
    with pytest.raises(ValueError, match="prefix, joint"):
        Denoiser(16, attention="full")
