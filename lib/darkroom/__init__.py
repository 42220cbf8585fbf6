"""Darkroom: batch image generation and training with diffusion models, on Ray."""

__version__ = "0.1.0"
