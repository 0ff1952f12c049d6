"""Finds the files that a recipe names, fetches those that lie elsewhere, and says what is in them by a hash."""

from ft_pipeline.datasets.sources.credentials import without_credentials
from ft_pipeline.datasets.sources.find import Found, SourceFault, find_sources, raise_faults, search_sources
from ft_pipeline.datasets.sources.open import open_source
from ft_pipeline.datasets.sources.source_file import TRAINING_SET, SourceFile
from ft_pipeline.datasets.sources.suffixes import find_encoding, split_suffix

__all__ = [
    "TRAINING_SET",
    "Found",
    "SourceFault",
    "SourceFile",
    "find_encoding",
    "find_sources",
    "open_source",
    "raise_faults",
    "search_sources",
    "split_suffix",
    "without_credentials",
]
