"""What libraries read from the environment when they are imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft_pipeline.finetuning.job import Job


def set_environment(job: Job) -> None:
    """Show the libraries one device, and keep them quiet."""
    os.environ["CUDA_VISIBLE_DEVICES"] = job.device.name if job.device.is_gpu else ""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not job.device.is_gpu:
        # With Triton installed the first CPU step would compile for about a minute and gain nothing.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
