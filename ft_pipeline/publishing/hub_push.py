"""The champion as a repository of the Hugging Face Hub. The token is the library's own affair: a login, or HF_TOKEN."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.delivery import DeliveryOutcome

_TOLD_CHARS = 400


@dataclass(frozen=True)
class HubReceiver:
    """A repository of models.

    Attributes:
        repo: Its name, owner/name.
        private: Whether it is made a private one, if it is not there yet.
    """

    repo: str
    private: bool = True

    @property
    def name(self) -> str:
        return f"Hub {self.repo}"

    def bring(self, version: Path, title: str, reporter: Reporter) -> DeliveryOutcome:
        """Upload a version. What the repository holds besides stays."""
        from httpx import HTTPError, InvalidURL

        token = None
        try:
            from huggingface_hub import HfApi, get_token  # reads HF_ENDPOINT, and fails where that is no address

            token = get_token()
            api = HfApi()
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            api.upload_folder(repo_id=self.repo, folder_path=version, commit_message=title)
        except (HTTPError, InvalidURL, OSError, ValueError, RuntimeError) as err:
            # httpx quotes a header that it does not take.
            said = str(err).replace(token, "[token]") if token else str(err)
            reason = " ".join(said.split())[:_TOLD_CHARS] or type(err).__name__
            return DeliveryOutcome(
                "failed", f"{reason}. Uploading needs a token that may write, by hf auth login or in HF_TOKEN"
            )
        reporter.info(f"{title} is uploaded to {self.repo}")
        return DeliveryOutcome("delivered")
