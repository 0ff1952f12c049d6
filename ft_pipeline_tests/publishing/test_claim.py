"""What the published folder takes for its own, and what it leaves alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ft_pipeline.errors import PublicationError
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline_tests.publishing.small_models import Publishing


def _refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_other_recipes_and_what_else_is_there_stay(publishing: Publishing) -> None:
    versions = publishing.published / ".versions"
    others = [versions / f"demo-b-{'0' * 24}", versions / "demo-notes", versions / f".demo-b-{'0' * 24}.draft-01234567"]
    for other in others:
        other.mkdir(parents=True)
    (publishing.published / "demo-b").symlink_to(others[0])
    publishing.publish(1)
    publishing.publish(2)
    assert all(other.is_dir() for other in (*others, publishing.published / "demo-b"))


def test_a_folder_of_the_users_is_not_replaced(publishing: Publishing) -> None:
    publishing.link.mkdir(parents=True)
    with pytest.raises(PublicationError, match=r"published/demo must be a link that this pipeline makes"):
        publishing.publish(1)
    assert publishing.champion is None


def test_another_stores_champion_is_not_replaced(publishing: Publishing, tmp_path: Path) -> None:
    publishing.publish(1)
    trial = Publishing(tmp_path / "trial")
    trial.published = publishing.published
    with pytest.raises(PublicationError, match=r"shows the champion of another artifact store, .*/artifacts; this one"):
        trial.publish(2)
    assert trial.champion is None
    assert find_faults(publishing.link) == []
    publishing.link.unlink()
    trial.publish(2)
    assert publishing.link.readlink().name == f"demo-{publishing.fingerprint(2)}"


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_moves(publishing: Publishing) -> None:
    publishing.published.write_text("a file")
    with pytest.raises(PublicationError, match=r"published cannot be written: .*FT_PIPELINE_PUBLISHED"):
        publishing.publish(1)
    assert publishing.champion is None


def test_a_link_of_the_users_is_not_replaced(publishing: Publishing, tmp_path: Path) -> None:
    publishing.publish(1)
    own = [tmp_path / "mine", tmp_path / f"demo-{publishing.fingerprint(1)}", Path(f".versions/other-{'0' * 24}")]
    for target in own:
        publishing.link.unlink()
        publishing.link.symlink_to(target)
        with pytest.raises(PublicationError, match=r"published/demo must be a link that this pipeline makes"):
            publishing.publish(2)
        assert publishing.link.readlink() == target
        assert publishing.champion == publishing.fingerprint(1)


def test_a_folder_in_which_no_link_can_be_laid_is_an_error_before_the_alias_moves(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing.publish(1)
    monkeypatch.setattr(Path, "symlink_to", _refuse_links)
    with pytest.raises(PublicationError, match=r"the published folder .* cannot be written"):
        publishing.publish(2)
    assert publishing.champion == publishing.fingerprint(1)
    assert publishing.link.readlink().name == f"demo-{publishing.champion}"
