"""Root on a store that is another user's."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from ft_pipeline.errors import ResourceError


def require_owner(store_root: Path) -> None:
    """Root would leave files there that the store's owner can neither write nor remove.

    Raises:
        ResourceError: this is root, and the store is somebody else's.
    """
    if os.geteuid() != 0 or not store_root.exists() or (owner := store_root.stat().st_uid) == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"'#{owner}'"
    raise ResourceError(
        f"a store must be written by who owns it, and {store_root} is {name}'s; root's files there would be in the way "
        f"of the next run. Say: runuser -u {name} -- and the command."
    )
