"""The diffusion model of one latent vector: statistics, loss, draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from survcore.diffusion import Denoiser, LatentDiffusion, NoiseSchedule

WIDTH = 16

pytestmark = pytest.mark.usefixtures("one_thread")


def latent_diffusion(width: int = WIDTH, layers: int = 2) -> LatentDiffusion:
    return LatentDiffusion("omics", Denoiser(width, layers=layers, heads=2), NoiseSchedule())


def test_statistics_whiten_and_refuse_no_rows() -> None:
    model = latent_diffusion()
    latents = torch.randn(50, WIDTH) @ torch.randn(WIDTH, WIDTH) * 3 + 1
    latents[:, 2] = 4.0
    assert not model.fitted
    with pytest.raises(RuntimeError, match="'omics' has not been trained"):
        model.draw(torch.zeros(1, 2, WIDTH), torch.tensor([1]), seed=0)
    with pytest.raises(ValueError, match="no training row has 'omics'"):
        model.fit_statistics(latents[:0])
    model.fit_statistics(latents)
    assert model.fitted
    torch.testing.assert_close(model.mean, latents.mean(0))
    whitened = (latents - model.mean) @ model.directions / model.deviation
    covariance = torch.cov(whitened.T, correction=0)
    variance = latents.var(0, correction=0).sum() / WIDTH
    expected = 1 - 0.1 * variance / model.deviation.square()
    torch.testing.assert_close(covariance, torch.diag(expected), rtol=1e-3, atol=1e-4)
    assert expected.min() < 1e-3 and expected.max() > 0.9
    model.fit_statistics(latents[:1])
    assert torch.equal(model.deviation, torch.ones(WIDTH))
    again = latent_diffusion()
    again.load_state_dict(model.state_dict())
    assert again.fitted and torch.equal(again.mean, model.mean)


def test_the_loss_counts_directions_by_their_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    model = latent_diffusion()
    latents = torch.randn(400, WIDTH) * torch.tensor([5.0] + (WIDTH - 1) * [1.0])
    model.fit_statistics(latents)
    share = model.deviation.square() / model.deviation.square().mean()
    assert share.max() > 5 * share.min()
    losses = []
    for index in (share.argmax(), share.argmin()):
        wrong = 30.0 * (torch.arange(WIDTH) == index)
        monkeypatch.setattr(model.denoiser, "forward", lambda noisy, *_, wrong=wrong: wrong.expand_as(noisy))
        losses.append(model.loss(latents, torch.zeros(400, 2, WIDTH), torch.arange(400), seed=0, repeats=2))
    torch.testing.assert_close(losses[0] / losses[1], share.max() / share.min(), rtol=0.1, atol=0.0)
    assert abs(losses[0] - 900 * share.max() / WIDTH) < 0.1 * losses[0]


def test_loss_and_draws_depend_on_seed_and_row_only() -> None:
    model = latent_diffusion()
    latents, condition = torch.randn(6, WIDTH), torch.randn(6, 2, WIDTH)
    keys = torch.tensor([11, -5, 7, 2**62, 3, 9])
    model.fit_statistics(latents)
    together = model.loss(latents, condition, keys, seed=3, repeats=4)
    apart = [model.loss(latents[i, None], condition[i, None], keys[i, None], seed=3, repeats=4) for i in range(6)]
    torch.testing.assert_close(together, torch.stack(apart).mean())
    assert together != model.loss(latents, condition, keys, seed=4, repeats=4)

    five = model.draw(condition, keys, seed=1, draws=5, num_steps=4)
    ten = model.draw(condition.flip(0), keys.flip(0), seed=1, draws=10, num_steps=4).flip(0)
    assert five.shape == (6, 5, WIDTH)
    torch.testing.assert_close(ten[:, :5], five)
    noisy = model.draw(condition, keys, seed=1, draws=2, num_steps=4, eta=1.0)
    torch.testing.assert_close(model.draw(condition[2:], keys[2:], seed=1, draws=2, num_steps=4, eta=1.0), noisy[2:])
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1"):
        model.draw(condition, keys, seed=1, draws=0)


def test_the_target_gives_the_clean_latent_back() -> None:
    clean, noise = torch.randn(2, 3, 5).double().unbind()
    kept = torch.rand(3, 1).double()
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    velocity = NoiseSchedule().target(clean, noise, kept)
    torch.testing.assert_close(kept.sqrt() * noisy - (1 - kept).sqrt() * velocity, clean)
    torch.testing.assert_close(NoiseSchedule(prediction="noise").target(clean, noise, kept), noise)


def test_a_trained_model_draws_from_the_conditional() -> None:
    """x | c = 10 + (2 c_0, -c_1, ...) + N(0, .5^2): the draws for a new condition have its mean and spread."""
    width, rows = 16, 512
    model = latent_diffusion(width)

    def rows_of(count: int) -> tuple[Tensor, Tensor]:
        condition = torch.randn(count, 2, width)
        condition[:, 1] = 0.1  # the class token's place: the same for every row
        return condition, 10 + torch.stack((2 * condition[:, 0, 0], -condition[:, 0, 1]), dim=1).repeat(1, width // 2)

    condition, mean = rows_of(rows)
    model.fit_statistics(mean + 0.5 * torch.randn(rows, width))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for step in range(400):
        condition, mean = rows_of(64)
        latents = mean + 0.5 * torch.randn(64, width)
        loss = model.loss(latents, condition, torch.arange(64), seed=step, repeats=4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    condition, mean = rows_of(30)
    drawn = model.draw(condition, torch.arange(30), seed=0, draws=64, num_steps=20)
    error = (drawn.mean(1) - mean).square().mean().sqrt()
    assert error < 0.5 * (mean - 10).square().mean().sqrt()
    assert abs(drawn.mean() - mean.mean()) < 0.3
    assert 0.4 < drawn.std(1).mean() < 1.4
