"""trained_adapter: holds the device, plans, trains, and says how it went.

It runs in a process of its own: the GPU's memory comes back when that ends, and the lease dies with it.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.base_model import copy_tokenizer
from ft_pipeline.errors import MemoryBudgetError, StageCancelled
from ft_pipeline.finetuning.backends import BACKENDS, Backend
from ft_pipeline.finetuning.batches import RowTable
from ft_pipeline.finetuning.checkpoints import CheckpointStore, Snapshot
from ft_pipeline.finetuning.curves import Curves, Log, open_logs
from ft_pipeline.finetuning.device import Device, find_settled
from ft_pipeline.finetuning.early_stopping import EarlyStopping, best_adapter_file
from ft_pipeline.finetuning.guards import LossGuard
from ft_pipeline.finetuning.held_out import HeldOut
from ft_pipeline.finetuning.importance import measure_importance, write_importance
from ft_pipeline.finetuning.job import HISTORY_FILE, Job, TrainRequest
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.finetuning.loading import limit_vram, told_when_short
from ft_pipeline.finetuning.preflight import Preflight, examine, plan
from ft_pipeline.finetuning.probe import prove_layout
from ft_pipeline.finetuning.replay import choose_rows
from ft_pipeline.finetuning.step_runner import Batches, StepRunner, free_cached_memory
from ft_pipeline.finetuning.step_trainer import make_trainer, resume
from ft_pipeline.finetuning.watch import Watch, peak_reserved_bytes
from ft_pipeline.plots import save_training_plots
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.scratch import open_scratch
from ft_pipeline.summary import Summary

TENSORBOARD_DIR, _BEST_DIR = "tensorboard", "best"


@dataclass(frozen=True)
class Training:
    """All that takes part in one training."""

    job: Job
    model: Any
    trainer: Any
    runner: StepRunner
    watch: Watch
    held_out: HeldOut


def train_adapter(request: TrainRequest, reporter: Reporter) -> Summary:
    """Train a LoRA adapter while holding the device; goes on from the checkpoint of a run that was cut off.

    Writes PEFT's `adapter_model.safetensors` and `adapter_config.json`, the tokenizer, `history.json`, plots and
    TensorBoard's files.

    Raises:
        LeaseTimeout: the device was not free in time.
        MemoryBudgetError: it is too small.
        DiskSpaceError: the disk does not hold the checkpoints.
        ResourceError: a tracker does not take what is logged.
        TrainingError: what is asked for cannot be trained, or the loss went wrong.
        StageCancelled: a stop was asked for; a checkpoint is written.
    """
    request = choose_rows(request, reporter)
    found = examine(request)
    with hold_device(
        found.device.name,
        lock_dir=request.gpu.lock_dir,
        timeout_seconds=request.gpu.wait_seconds,
        holder=request.holder,
        tell=reporter.info,
    ):
        device = find_settled(found.device)
        with open_scratch(request.checkpoints) as scratch:
            return _train(found, device, scratch, request, reporter)


def _train(found: Preflight, device: Device, scratch: Path, request: TrainRequest, reporter: Reporter) -> Summary:
    store = CheckpointStore(request.checkpoints, request.fingerprint, tell=reporter.warning)
    snapshot = _load_snapshot(store, found, request, reporter)
    job = plan(found, device, request, scratch, progress=snapshot.progress if snapshot else None, tell=reporter.info)
    training = _assemble(job, found, request, store, reporter)
    with closing(training.watch), _asked_to_stop(training.runner):
        _run(training, snapshot, reporter)
    if training.watch.early_stopping:
        training.watch.early_stopping.load_best(training.model)
    held_out_loss = (
        training.held_out.compute_loss(training.model, training.runner, training.trainer.loss_of)
        if found.held_out
        else None
    )
    figures = _measure_importance(training, request, reporter)
    _save(request, training)
    return _summarize(training, request, {"held_out_loss": held_out_loss, **figures})


def _load_snapshot(
    store: CheckpointStore, found: Preflight, request: TrainRequest, reporter: Reporter
) -> Snapshot | None:
    snapshot, best_dir = store.load_latest(), request.checkpoints / _BEST_DIR
    if snapshot and (fault := _find_fault(snapshot, found, best_dir)):
        reporter.warning(f"{fault}: the training begins anew")
        store.pass_over_all()
        snapshot = None
    if snapshot is None:
        shutil.rmtree(best_dir, ignore_errors=True)
    return snapshot


def _find_fault(snapshot: Snapshot, found: Preflight, best_dir: Path) -> str | None:
    """Why the training cannot go on from a checkpoint that is whole."""
    optimizer, stopping = snapshot.progress["layout"]["optimizer"], snapshot.progress["early_stopping"]
    # A paged state is the same state, kept elsewhere.
    if optimizer.removeprefix("paged_") != found.optimizer.removeprefix("paged_"):
        return (
            f"the checkpoint of step {snapshot.step} holds the state of {optimizer}, and a training on "
            f"{found.device.label} takes {found.optimizer}"
        )
    if stopping and stopping["best_step"] and not best_adapter_file(best_dir, stopping["best_step"]).is_file():
        return f"the best adapter so far is gone from {best_dir}"
    return None


def _assemble(
    job: Job, found: Preflight, request: TrainRequest, store: CheckpointStore, reporter: Reporter
) -> Training:
    backend = BACKENDS[job.settings.backend]
    backend.prepare_environment(job)
    limit_vram(job)
    with told_when_short(job):
        model, tokenizer = backend.load(job)
    runner = StepRunner(
        job=job, batches=_open(request.rows, backend, job, tokenizer), steps=found.steps, tell=reporter.warning
    )
    held_out = HeldOut(_open(request.held_out, backend, job, tokenizer), found.held_out)
    watch = Watch(
        runner=runner,
        guard=LossGuard(job.settings.execution.max_loss_jump),
        curves=Curves(),
        logs=_open_logs(request, reporter),
        store=store,
        early_stopping=_open_early_stopping(job, held_out, request),
        reporter=reporter,
        checkpoint_seconds=job.settings.execution.checkpoint_minutes * 60,
        total_tokens=sum(found.lengths[row] for rows in found.steps for row in rows),
    )
    with told_when_short(job):
        trainer = make_trainer(job, model, tokenizer, runner, watch)
        backend.settle(model, job)
    # Loading leaves up to 1.3 GiB behind (13B): tensors in reference cycles, and what the allocator keeps.
    free_cached_memory()
    return Training(job, model, trainer, runner, watch, held_out)


def _open_logs(request: TrainRequest, reporter: Reporter) -> list[Log]:
    """TensorBoard's files lie beside the checkpoints, where a training that fails leaves them.

    Those of an earlier run go: what its checkpoint knows is written again (`Watch.restore`).
    """
    folder = request.checkpoints / TENSORBOARD_DIR
    shutil.rmtree(folder, ignore_errors=True)
    reporter.info(f"TensorBoard's files, while this trains and if it fails: {folder}")
    return open_logs(request.settings.execution.trackers, folder, request.holder)


def _open(path: Path, backend: Backend, job: Job, tokenizer: Any) -> Batches:
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    table = RowTable(path, cache_dir=job.scratch / "datasets")
    return Batches(table=table, backend=backend, device=job.device, pad_id=int(pad_id))


def _open_early_stopping(job: Job, held_out: HeldOut, request: TrainRequest) -> EarlyStopping | None:
    settings = job.settings.early_stopping
    if settings is None:
        return None
    return EarlyStopping(settings, held_out, request.checkpoints / _BEST_DIR)


def _run(training: Training, snapshot: Snapshot | None, reporter: Reporter) -> None:
    folder, watch = None, training.watch
    if snapshot:
        folder = resume(training.trainer, snapshot, training.job.scratch)
        watch.restore(snapshot.progress)
        reporter.info(f"goes on after step {snapshot.step} of {len(training.runner.steps)}, from a checkpoint")
        watch.finish_step(training.trainer)
        if watch.early_stopping and watch.early_stopping.is_over:
            return
    else:
        prove_layout(training.trainer, training.runner, training.held_out, reporter.info)
    watch.begin()
    try:
        training.trainer.train(resume_from_checkpoint=folder)
    except StageCancelled:
        if step := int(training.trainer.state.global_step):
            watch.save(training.trainer)
            reporter.info(f"asked to stop: a checkpoint of step {step} is written")
        raise


@contextmanager
def _asked_to_stop(runner: StepRunner) -> Iterator[None]:
    """SIGTERM only says that the training shall end: raised in the middle of a step, it would lose the weights."""

    def ask(_signal: int, _frame: Any) -> None:
        runner.stop_asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if runner.stop_asked:
        raise StageCancelled("the stage was asked to stop")


def _measure_importance(training: Training, request: TrainRequest, reporter: Reporter) -> dict[str, float]:
    """For quantizing; what is trained is not lost for want of it."""
    runner, tokens = training.runner, request.settings.importance_tokens
    if not tokens:
        return {}
    started = time.monotonic()
    try:
        found = measure_importance(training.model, runner, training.trainer.loss_of, tokens, reporter.warning)
    except MemoryBudgetError as err:
        reporter.warning(f"quantizing will have no importance matrix: {err}")
        return {}
    write_importance(request.out_dir, found)
    return {"importance_tokens": found.tokens, "importance_seconds": round(time.monotonic() - started, 2)}


def _save(request: TrainRequest, training: Training) -> None:
    out_dir = request.out_dir
    training.model.save_pretrained(str(out_dir), safe_serialization=True)
    _settle_config(out_dir / "adapter_config.json", request.base_name)
    (out_dir / "README.md").unlink(missing_ok=True)
    copy_tokenizer(request.base, out_dir)
    shutil.copytree(request.checkpoints / TENSORBOARD_DIR, out_dir / TENSORBOARD_DIR, dirs_exist_ok=True)
    (out_dir / HISTORY_FILE).write_text(json.dumps(training.watch.curves.as_history()), encoding="utf-8")


def _settle_config(path: Path, base_name: str) -> None:
    """Take out of PEFT's file what is another one on each machine and in each process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    # The folder that it loaded from; what identifies the base is the recipe's name for it.
    config["base_model_name_or_path"] = base_name
    for name in ("target_modules", "exclude_modules"):  # sets, whose order follows Python's random hashes
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _find_base_dtype(model: Any) -> str | None:
    """The type that 4-bit weights are multiplied in: a merge into NF4 rounds to it too. None: there are none."""
    states = (getattr(parameter, "quant_state", None) for parameter in model.parameters())
    return next((str(state.dtype).removeprefix("torch.") for state in states if state is not None), None)


def _summarize(training: Training, request: TrainRequest, measured: dict[str, float | None]) -> Summary:
    job, watch, runner = training.job, training.watch, training.runner
    history = watch.curves.as_history()
    figures: dict[str, Any] = {
        "device": job.device.label,
        "backend": job.settings.backend,
        "steps": int(history[-1]["step"]),
        "planned_steps": len(runner.steps),
        "final_loss": history[-1]["loss"],
        **measured,
        "base_dtype": _find_base_dtype(training.model),
        "train_seconds": round(watch.train_seconds, 1),
        "trained_tokens": watch.trained_tokens,
        "tokens_per_second": round(watch.trained_tokens / watch.train_seconds),
        "trainable_parameters": sum(p.numel() for p in training.model.parameters() if p.requires_grad),
        **job.plan.as_metadata(),
        **{f"used_{name}": value for name, value in asdict(runner.layout).items()},
        "stepped_down": "; ".join(runner.stepped_down) or None,
    }
    if job.device.is_gpu:
        figures["peak_reserved_bytes"] = peak_reserved_bytes()
    return Summary(figures=figures, plots=save_training_plots(history, request.out_dir))
