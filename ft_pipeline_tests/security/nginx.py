"""nginx on this machine with the configuration of deploy/nginx, its paths and ports those of a test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ft_pipeline_tests.certificate import make_certificate
from ft_pipeline_tests.dagster_server import wait_until

USER, PASSWORD = "ops", "a password"
_MAIN = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""


@contextmanager
def serve_behind(program: str, project: Path, port: int) -> Iterator[tuple[str, Path]]:
    """Serve what listens at a port behind nginx.

    Yields:
        Its URL, and the certificate to trust.
    """
    # Its workers are another user, who must read what lies here: no folder of pytest's, which is for its owner alone.
    with TemporaryDirectory(prefix="ft_pipeline-nginx-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with _serve(program, project, folder, port) as served:
            yield served


@contextmanager
def _serve(program: str, project: Path, folder: Path, port: int) -> Iterator[tuple[str, Path]]:
    certificate = make_certificate(folder / "certificate.pem")
    users = folder / "users"
    users.write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    users.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    ours = {
        "listen 443 ssl": f"listen 127.0.0.1:{own} ssl",
        "/etc/nginx/ft_pipeline.crt": str(certificate),
        "/etc/nginx/ft_pipeline.key": str(certificate),
        "/etc/nginx/ft_pipeline.users": str(users),
        "127.0.0.1:3000": f"127.0.0.1:{port}",
    }
    conf, proxy = (
        (project / "deploy/nginx" / name).read_text() for name in ("ft_pipeline.conf", "ft_pipeline_proxy.inc")
    )
    for theirs, here in ours.items():
        assert theirs in conf
        conf, proxy = conf.replace(theirs, here), proxy.replace(theirs, here)
    (folder / "site.conf").write_text(conf)
    (folder / "ft_pipeline_proxy.inc").write_text(proxy)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: process.poll() is not None or _answers(own), 20, lambda: "nginx does not answer")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield f"https://127.0.0.1:{own}", certificate
    finally:
        process.terminate()
        process.communicate()


def find_nginx() -> str | None:
    """Debian puts it where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
