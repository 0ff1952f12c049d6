"""The Hugging Face Hub: what its refusals mean for a person, and which commit a repository is at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ft_pipeline.errors import PipelineError

RepositoryKind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
_ANSWER_SECONDS = 30.0


@contextmanager
def hub_errors(name: str, revision: str | None, kind: type[PipelineError]) -> Iterator[None]:
    """Say what the Hub's answer to a request means.

    Args:
        name: The repository, owner/name.
        revision: What was asked for.
        kind: The class of the error that is raised instead of the library's.

    Raises:
        PipelineError: of that class: gated, not there or private, no such revision, or not to be had.
    """
    from httpx import HTTPError
    from huggingface_hub import errors

    at = f"{name} at {revision}" if revision else name
    try:
        yield
    except errors.GatedRepoError as err:
        raise kind(
            f"{name} is gated and this account was not let in. Ask for access on its page of the Hub, and set HF_TOKEN "
            "to a token of that account."
        ) from err
    except errors.RepositoryNotFoundError as err:
        raise kind(
            f"{name} must be a repository of the Hub that this account may see: there is none, or it is private. Check "
            "the name; a private one needs HF_TOKEN."
        ) from err
    except errors.RevisionNotFoundError as err:
        raise kind(
            f"{name} has no commit {revision}. Take one from its page of the Hub (Files and versions, History), or "
            "remove the revision and run make pin."
        ) from err
    except (OSError, ValueError, HTTPError) as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise kind(
            f"{at} is neither in the cache nor to be had from the Hub: {reason}. Check the name, the commit and the "
            "network."
        ) from err


def resolve_commit(name: str, of: RepositoryKind, revision: str | None, kind: type[PipelineError]) -> str:
    """The commit that a revision stands for, asked from the Hub now.

    Args:
        name: The repository, owner/name.
        of: What it holds.
        revision: A commit, branch or tag; None: the default branch.
        kind: The class of the error.

    Raises:
        PipelineError: of that class, if the Hub cannot be asked or refuses; a commit is never guessed.
    """
    from huggingface_hub import HfApi

    with hub_errors(name, revision, kind):
        found = HfApi().repo_info(name, repo_type=of, revision=revision, timeout=_ANSWER_SECONDS).sha
        if not COMMIT.fullmatch(found or ""):
            raise ValueError(f"its answer names no commit but {found!r}")
        return str(found)
