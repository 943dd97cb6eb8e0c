"""Latent diffusion: noise schedule, denoiser, DDIM sampling, and the model of one latent vector."""

from __future__ import annotations

from survcore.diffusion.denoiser import Denoiser
from survcore.diffusion.latent_diffusion import LatentDiffusion
from survcore.diffusion.sampler import check_options, sample
from survcore.diffusion.schedule import NoiseSchedule

__all__ = ["Denoiser", "LatentDiffusion", "NoiseSchedule", "check_options", "sample"]
