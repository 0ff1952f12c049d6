"""Adapter and base become one 16-bit model, verified."""
