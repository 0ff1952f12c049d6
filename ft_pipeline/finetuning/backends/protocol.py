"""What a training backend must be able to do: all that differs between libraries before, and while, a step runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ft_pipeline.finetuning.device import Device

if TYPE_CHECKING:
    from ft_pipeline.finetuning.job import Job


class Backend(Protocol):
    """Loads the base with an adapter on it; the loop that trains it is the same for all."""

    def prepare_environment(self, job: Job) -> None:
        """Set what the libraries read from the environment when they are imported; called before any of them is."""

    def load(self, job: Job) -> tuple[Any, Any]:
        """The base with a fresh adapter as a PEFT model on the device, laid out as the plan says; and its tokenizer.

        Raises:
            TrainingError: the backend lacks an option that the recipe names.
        """

    def settle(self, model: Any, job: Job) -> None:
        """Set again what TRL's trainer has changed in the model when it was made."""

    def set_checkpointed_layers(self, model: Any, layers: int) -> None:
        """How many decoder layers are computed twice instead of kept: none to all; may change between steps."""

    def offload_embeddings(self, model: Any) -> bool:
        """Keep the input embeddings in the host's memory; whether it was possible."""

    def plain_layers(self, model: Any) -> AbstractContextManager[None]:
        """While it lasts, each linear layer is called by itself, as its hooks need it; slower, and the same result."""

    def adapt(self, batch: dict[str, Any], device: Device) -> dict[str, Any]:
        """A micro-batch of `batches.py` on the device, as this backend's model takes it."""
