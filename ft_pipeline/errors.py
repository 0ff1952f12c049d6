"""Everything that this package raises on purpose.

    PipelineError
    ├── RecipeError            a recipe that does not load: every wrong field at once
    ├── SourceError            a data source that cannot be found or read
    ├── DatasetError           a data set that breaks its contract: empty, too much quarantined, template unusable
    ├── BaseModelError         a base model that is missing, unsafe or unfit
    ├── ArtifactError          an artifact that is missing, damaged or not the one asked for
    │   ├── MissingArtifact
    │   ├── CorruptArtifact
    │   └── NewerFormat        a newer version of ft_pipeline has written it: it is neither read nor touched
    ├── ResourceError          the machine does not have what a stage needs
    │   ├── DiskSpaceError
    │   ├── MemoryBudgetError  a card (or a limit on it) too small for the plan
    │   ├── LeaseTimeout       the device stayed with somebody else
    │   └── EnvironmentMismatch  a package or tool that is missing or of the wrong version
    ├── TrainingError          training ran and its result is unusable: NaN loss, nothing to learn from
    ├── ConversionError        the base or the merged model cannot become a GGUF
    ├── EvaluationError        a GGUF cannot be scored
    ├── PublicationError       an alias cannot be moved
    ├── AlertError             nobody can be told: wrong settings, or a receiver that takes nothing
    └── StageProcessError      a stage's process died or failed in a way that nobody foresaw
        └── StageCancelled     a stage's process was asked to stop, and did

A message says the rule, the value that broke it, where, and what to do, in that order.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of all errors that are meant for the person who runs the pipeline."""


class RecipeError(PipelineError):
    """The recipe does not load."""


class SourceError(PipelineError):
    """A data source cannot be found or read."""


class DatasetError(PipelineError):
    """The data set breaks its contract."""


class BaseModelError(PipelineError):
    """The base model is missing, unsafe or unfit."""


class ArtifactError(PipelineError):
    """An artifact is not what was asked for."""


class MissingArtifact(ArtifactError):
    """The artifact was never built, or retention has removed it."""


class CorruptArtifact(ArtifactError):
    """A file of the artifact does not match its manifest."""


class NewerFormat(ArtifactError):
    """A newer version of ft_pipeline has written the file."""


class ResourceError(PipelineError):
    """The machine does not have what a stage needs."""


class DiskSpaceError(ResourceError):
    """Not enough free disk space for what a stage will write."""


class MemoryBudgetError(ResourceError):
    """The device's memory, or the limit set on it, is too small."""


class LeaseTimeout(ResourceError):
    """The device was not free within the waiting time."""


class EnvironmentMismatch(ResourceError):
    """A package or tool is missing or of the wrong version."""


class TrainingError(PipelineError):
    """Training ran and its result is unusable."""


class ConversionError(PipelineError):
    """A model cannot become a GGUF."""


class EvaluationError(PipelineError):
    """A GGUF cannot be scored."""


class PublicationError(PipelineError):
    """An alias cannot be moved."""


class AlertError(PipelineError):
    """Nobody can be told of a run."""


class StageProcessError(PipelineError):
    """A stage's process died or failed unforeseen."""


class StageCancelled(StageProcessError):
    """A stage's process was asked to stop, and did."""


def _subclasses(root: type[PipelineError]) -> dict[str, type[PipelineError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _subclasses(child)
    return found


def error_class(name: str) -> type[PipelineError]:
    """The class of that name in the tree above, `StageProcessError` for any other name."""
    return _subclasses(PipelineError).get(name, StageProcessError)
