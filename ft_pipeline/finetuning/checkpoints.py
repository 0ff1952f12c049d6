"""What a training that is cut off goes on from: safetensors and JSON, whole or not there.

    <folder>/step-00000123/checkpoint.json       version, fingerprint, step; SHA-256 and size of the other files
                           adapter.safetensors   trainable parameters by name
                           state.safetensors     tensors of the optimizer and of the random generators
                           state.json            all the rest (`state_tree.py`)

One writer at a time: who builds the artifact holds its lock.
"""

from __future__ import annotations

import errno
import json
import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.durable import sync, sync_tree
from ft_pipeline.errors import ArtifactError, CorruptArtifact, DiskSpaceError, NewerFormat
from ft_pipeline.finetuning.state_tree import flatten_state, unflatten_state
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.listing import tell_some
from ft_pipeline.stored_format import require_known

# Goes up with a change of the files that makes older ones unreadable: a checkpoint of another version is not taken.
FORMAT_VERSION = 1
_HEADER, _ADAPTER, _TENSORS, _STATE = "checkpoint.json", "adapter.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8,})")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Snapshot:
    """A training after a whole step.

    Attributes:
        step: Optimizer steps that are done.
        adapter: Trainable parameters by name.
        optimizer: Its `state_dict()`.
        scheduler: Its `state_dict()`.
        rng: What `capture_rng` gave.
        progress: JSON: the loss so far, the plan, early stopping.
        scaler: `state_dict()` of the gradient scaler in fp16; empty without one.
    """

    step: int
    adapter: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    rng: dict[str, Any]
    progress: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The last two checkpoints of one training.

    Args:
        folder: Where they are.
        fingerprint: Of what is trained: a checkpoint of anything else is not taken.
        tell: Called with a sentence for each checkpoint that is passed over.
    """

    def __init__(self, folder: Path, fingerprint: str, tell: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._tell = tell or logging.getLogger(__name__).warning
        self._unfit: set[Path] = set()

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint; whenever the process is killed, a whole one is there, if one was before.

        Afterwards this one and the newest fit one before it are kept. What lies after it is of a training that went
        another way, and goes too.

        Raises:
            DiskSpaceError: it does not fit the disk; the older ones stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recover()
        target = self.folder / f"step-{snapshot.step:08}"
        draft = self.folder / f".{target.name}.draft"
        try:
            with _told_when_full(self.folder):
                draft.mkdir()
                self._write(draft, snapshot)
                sync_tree(draft)
            if target.exists():
                # A folder is not replaced at once: a kill between the two renames leaves this name to recover from.
                target.rename(_hidden(target, "replaced"))
            draft.rename(target)
            sync(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._unfit.discard(target)
        self._prune(target)
        return target

    def load_latest(self) -> Snapshot | None:
        """The newest whole checkpoint of this fingerprint, its tensors on the CPU.

        Raises:
            NewerFormat: a newer version has written one that is newer than any that reads.
        """
        self._recover()
        for folder in reversed(self._list()):
            try:
                return self._load(folder)
            except NewerFormat:
                raise
            except ArtifactError as err:
                self._unfit.add(folder)
                self._tell(f"a checkpoint is passed over: {err}")
        return None

    def pass_over_all(self) -> None:
        """None of the checkpoints that are there is gone on from: the next one that is written replaces them."""
        self._unfit.update(self._list())

    def clear(self) -> None:
        """Remove all checkpoints, and nothing else from the folder."""
        self._recover()
        for folder in self._list():
            _remove(folder)

    def _list(self) -> list[Path]:
        found = [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step_of)

    def _recover(self) -> None:
        """Bring in order what a killed writer has left."""
        for left in self.folder.glob(".step-*.*"):
            target = self.folder / left.name[1:].partition(".")[0]
            if left.suffix == ".replaced" and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left, ignore_errors=True)

    def _prune(self, newest: Path) -> None:
        others = [folder for folder in self._list() if folder != newest]
        before = [folder for folder in others if _step_of(folder) < _step_of(newest) and self._is_fit(folder)]
        for folder in others:
            if folder not in before[-1:]:
                _remove(folder)
        shutil.rmtree(_hidden(newest, "replaced"), ignore_errors=True)

    def _is_fit(self, folder: Path) -> bool:
        try:
            self._read_header(folder)
        except ArtifactError:
            return False
        return folder not in self._unfit

    def _write(self, draft: Path, snapshot: Snapshot) -> None:
        from safetensors.torch import save_file

        parts = {name: getattr(snapshot, name) for name in ("optimizer", "scheduler", "rng", "scaler")}
        tensors, encoded = flatten_state(parts)
        text = json.dumps({"parts": encoded, "progress": snapshot.progress})
        adapter = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.adapter.items()}
        size_bytes = len(text) + sum(tensor.nbytes for tensor in (*adapter.values(), *tensors.values()))
        _require_space(self.folder, size_bytes)
        save_file(adapter, draft / _ADAPTER)
        save_file(tensors, draft / _TENSORS)
        (draft / _STATE).write_text(text, encoding="utf-8")
        files = {
            name: {"size_bytes": (draft / name).stat().st_size, "sha256": hash_file(draft / name)}
            for name in (_ADAPTER, _TENSORS, _STATE)
        }
        header = {"version": FORMAT_VERSION, "fingerprint": self._fingerprint, "step": snapshot.step, "files": files}
        (draft / _HEADER).write_text(json.dumps(header, indent=2), encoding="utf-8")

    def _load(self, folder: Path) -> Snapshot:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        header = self._read_header(folder)
        try:
            for name in (_ADAPTER, _TENSORS, _STATE):
                _require_same(folder / name, header["files"][name])
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            return Snapshot(
                step=header["step"],
                adapter=load_file(folder / _ADAPTER),
                **unflatten_state(load_file(folder / _TENSORS), state["parts"]),
                progress=state["progress"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
            raise CorruptArtifact(f"{folder} must be whole and does not read: {err!r}") from err

    def _read_header(self, folder: Path) -> dict[str, Any]:
        try:
            header: dict[str, Any] = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
            version, owner, step = header["version"], header["fingerprint"], header["step"]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise CorruptArtifact(
                f"{folder / _HEADER} must describe the checkpoint and does not read: {err!r}"
            ) from err
        require_known(folder / _HEADER, version, FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ArtifactError(f"{folder} must be of format version {FORMAT_VERSION}, it is of {version}")
        if owner != self._fingerprint:
            raise ArtifactError(f"{folder} must be of the training {self._fingerprint}, it is of {owner}")
        if step != _step_of(folder):
            raise CorruptArtifact(f"{folder} must be of the step in its name, it is of {step}")
        return header


def capture_trainable(model: Any) -> dict[str, Any]:
    """Copies on the CPU of all parameters that are trained, by name: LoRA, DoRA's magnitudes, `modules_to_save`."""
    trainable = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in trainable}


def restore_trainable(model: Any, tensors: dict[str, Any]) -> None:
    """Put captured parameters back into the model.

    Raises:
        ArtifactError: their names or shapes are not the model's, or the model's type would round them; the model is
            left as it was.
    """
    import torch

    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    faults = [f"{name} is not in the checkpoint" for name in sorted(own.keys() - tensors.keys())]
    faults += [f"{name} is not trained by this model" for name in sorted(tensors.keys() - own.keys())]
    for name in sorted(own.keys() & tensors.keys()):
        saved, weight = tensors[name], own[name]
        if saved.shape != weight.shape:
            faults.append(f"{name} is {list(saved.shape)} in the checkpoint and {list(weight.shape)} in the model")
        elif torch.promote_types(saved.dtype, weight.dtype) != weight.dtype:
            faults.append(f"{name} is {saved.dtype} in the checkpoint and {weight.dtype} in the model")
    if faults:
        raise ArtifactError(
            f"a checkpoint's parameters must be those that the model trains: {tell_some(faults, 5)}. Remove the "
            "checkpoint to begin anew."
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(tensors[name])


def capture_rng() -> dict[str, Any]:
    """States of the random generators of Python, NumPy and torch; of the GPUs' once they are in use."""
    import numpy as np
    import torch

    numpy_state: Any = np.random.get_state()
    kind, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set the random generators to what `capture_rng` gave."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator, device)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _hidden(folder: Path, why: str) -> Path:
    return folder.with_name(f".{folder.name}.{why}")


def _remove(folder: Path) -> None:
    # Under its own name it would be a damaged checkpoint until the last file is gone.
    removed = _hidden(folder, "removed")
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _require_same(path: Path, recorded: dict[str, Any]) -> None:
    if path.stat().st_size != recorded["size_bytes"] or hash_file(path) != recorded["sha256"]:
        raise ValueError(f"{path.name} is not what was written")


def _require_space(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DiskSpaceError(
            f"a checkpoint needs {size_bytes / 2**30:.2f} GiB of disk in {folder}, {free / 2**30:.2f} GiB are free. "
            "Free some and run again: training goes on from the checkpoint before."
        )


@contextmanager
def _told_when_full(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as err:
        # safetensors gives the error's number in its words only.
        if getattr(err, "errno", None) in _FULL or any(f"(os error {number})" in str(err) for number in _FULL):
            raise DiskSpaceError(
                f"a checkpoint must fit the disk of {folder}, which is full: {err}. Free some and run again: training "
                "goes on from the checkpoint before."
            ) from err
        raise
