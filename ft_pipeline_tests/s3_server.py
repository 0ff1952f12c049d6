"""A server of S3 on 127.0.0.1, and a bucket on it. A test module that imports the two fixtures has them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

# third-party: aiobotocore and moto lag behind Python's datetime
QUIET = [
    pytest.mark.filterwarnings(f"ignore::DeprecationWarning:{package}.*")
    for package in ("botocore", "aiobotocore", "moto")
]


# What every client needs to name; the server looks at none of it.
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Bucket:
    """The bucket `rows`."""

    def __init__(self, url: str) -> None:
        self._client = boto3.client("s3", endpoint_url=url)
        self._client.create_bucket(Bucket="rows")

    def put(self, key: str, body: bytes) -> None:
        """Upload an object."""
        self._client.put_object(Bucket="rows", Key=key, Body=body)


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    """Where the server listens."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket, with the environment that leads to it."""
    for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": moto_url}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # they would go on asking the server of another module
    return Bucket(moto_url)
