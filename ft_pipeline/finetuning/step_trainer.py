"""TRL's SFTTrainer, whose batches are whole optimizer steps.

The trainer keeps what it is good at: optimizer, learning rate, clipping, precision. Which rows a step holds and how
they go through the model is `step_runner.py`'s, noise on their embeddings `neftune.py`'s; what happens around a step is
`watch.py`'s; what a run goes on from is a checkpoint of `checkpoints.py`, which holds no pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ft_pipeline.finetuning.checkpoints import Snapshot, restore_rng, restore_trainable
from ft_pipeline.finetuning.job import Job
from ft_pipeline.finetuning.neftune import EmbeddingNoise
from ft_pipeline.finetuning.optimizers import make_optimizer, restore_scaler
from ft_pipeline.finetuning.step_runner import StepRunner

# The library's `constant` knows no warm-up.
_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


class Observer(Protocol):
    """What looks at each step, before the weights change and after."""

    def judge(self, trainer: Any, index: int, loss: float) -> None:
        """Called with gradients and loss of step `index`, before the optimizer; raises to end the training."""

    def __call__(self, trainer: Any, logs: dict[str, float]) -> None:
        """Called after the optimizer with the trainer's own figures: loss, learning_rate, grad_norm."""


def make_trainer(job: Job, model: Any, tokenizer: Any, runner: StepRunner, observer: Observer) -> Any:
    """A trainer that goes through the runner's steps once."""
    from datasets import Dataset

    if alpha := job.settings.neftune_noise_alpha:
        runner.noise = EmbeddingNoise(alpha, job.settings.seed)
        runner.noise.install(model)
    trainer_class = _define_trainer(runner, observer)
    return trainer_class(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"step": list(range(len(runner.steps)))}),
        args=_configure(job, len(runner.steps)),
        data_collator=lambda entries: {"step": entries[0]["step"]},
    )


def resume(trainer: Any, snapshot: Snapshot, scratch: Path) -> str:
    """Make the trainer go on from a snapshot.

    Returns:
        What its `train(resume_from_checkpoint=...)` is given.
    """
    from transformers import TrainerState

    restore_trainable(trainer.model, snapshot.adapter)
    trainer.snapshot = snapshot
    folder = scratch / "resume"
    folder.mkdir(parents=True)
    state = TrainerState(
        global_step=snapshot.step, logging_steps=1, save_steps=trainer.args.save_steps, train_batch_size=1
    )
    state.save_to_json(str(folder / "trainer_state.json"))
    return str(folder)


def _define_trainer(runner: StepRunner, observer: Observer) -> Any:
    from trl import SFTTrainer

    class StepTrainer(SFTTrainer):  # type: ignore[misc]
        snapshot: Snapshot | None = None
        optimizer: Any

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
            loss = runner.run(model, int(inputs["step"]), self.add_gradients)
            observer.judge(self, int(inputs["step"]), float(loss))
            return loss

        def create_optimizer(self, model: Any = None) -> Any:  # noqa: ARG002
            if self.optimizer is None:
                if (asked := runner.job.plan.layout.optimizer) != "adamw_torch":
                    # On the CPU Unsloth puts another one in the arguments, though bitsandbytes steps there too.
                    self.args.optim = asked
                optimizer, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                self.optimizer = make_optimizer(optimizer, arguments, self.model, runner.job.settings)
            return self.optimizer

        def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return inputs  # on the device already, but for what the model reads on the host

        def add_gradients(self, batch: dict[str, Any], targets: int) -> Any:
            return super().training_step(self.model_wrapped, batch, self._to_count(targets))

        def loss_of(self, batch: dict[str, Any], targets: int) -> Any:
            with self.compute_loss_context_manager():
                return self.compute_loss(self.model, batch, num_items_in_batch=self._to_count(targets))

        def _to_count(self, targets: int) -> Any:
            import torch

            return torch.tensor(targets, device=self.args.device)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002
            if "loss" in logs:
                observer(self, logs)

        def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
            return 0

        def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
            """The adapter is restored already."""

        def _load_optimizer_and_scheduler(self, _checkpoint: str | None) -> None:
            if self.snapshot is not None:
                self.optimizer.load_state_dict(self.snapshot.optimizer)
                self.lr_scheduler.load_state_dict(self.snapshot.scheduler)

        def _load_scaler(self, _checkpoint: str | None) -> None:
            if self.snapshot is not None:
                restore_scaler(self.accelerator.scaler, self.snapshot.scaler)

        def _load_rng_state(self, _checkpoint: str | None) -> None:
            if self.snapshot is not None:
                restore_rng(self.snapshot.rng)

    return StepTrainer


def _configure(job: Job, steps: int) -> Any:
    from trl import SFTConfig

    settings = job.settings
    bf16 = job.device.is_gpu and job.device.supports_bf16
    return SFTConfig(
        output_dir=str(job.scratch / "trainer"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULERS[settings.lr_scheduler],
        warmup_steps=round(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=job.plan.layout.optimizer,
        seed=settings.seed,
        bf16=bf16,
        fp16=job.device.is_gpu and not bf16,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        # The backend has set it on the model; the trainer's own would be for all layers or none.
        gradient_checkpointing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
    )
