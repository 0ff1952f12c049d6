"""A 16-bit model becomes GGUF files that carry the same tokens."""
