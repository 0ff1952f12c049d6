"""Fine-tuning pipeline for one GPU: data in, a tested and published GGUF out."""

__version__ = "0.1.0"
