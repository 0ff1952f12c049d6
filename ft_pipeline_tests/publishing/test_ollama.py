from __future__ import annotations

import http.server
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from ft_pipeline.publishing import ollama
from ft_pipeline.publishing.ollama import ollama_address
from ft_pipeline_tests.loopback_server import serving
from ft_pipeline_tests.publishing.small_models import Publishing, make_model, make_recipe

# Writes down how it was called, with which Modelfile, and ends as the file `fails` beside it says.
PROGRAM = """\
#!/bin/sh
here=$(dirname "$0")
echo "$OLLAMA_HOST $* $(cat Modelfile)" >> "$here/calls"
printf 'gathering model components\\r\\033[1Ggathering model components\\n'
test -e "$here/slow" && { sleep 30 & echo $! > "$here/slow"; wait; }
if test -e "$here/fails"; then echo "Error: unsupported architecture" >&2; exit 1; fi
echo success
"""


VERSION = b'{"version":"0.12.0"}'


class _Handler(http.server.BaseHTTPRequestHandler):
    answer = VERSION

    def do_GET(self) -> None:
        is_known = self.path == "/api/version"
        self.send_response(200 if is_known else 404)
        self.end_headers()
        self.wfile.write(self.answer if is_known else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Ollama:
    """A program of that name on PATH, and a server that says which version it is."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address

    @property
    def calls(self) -> list[str]:
        """How it was called."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def fail(self, fails: bool) -> None:
        """From now on."""
        (self.folder / "fails").touch() if fails else (self.folder / "fails").unlink()


@pytest.fixture
def ollama_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    """An Ollama on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ollama"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)) as server:
        address = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OLLAMA_HOST", address)
        yield Ollama(folder, address)


def _publishing(tmp_path: Path, mode: str = "auto", name: str | None = None) -> Publishing:
    return Publishing(tmp_path, make_recipe(ollama=mode, ollama_name=name))


def _call(here: Ollama, number: int, name: str = "ft_pipeline-demo") -> str:
    return f"{here.address} create {name} -f Modelfile Modelfile of model {number}"


def test_a_new_champion_is_created_in_ollama_once(tmp_path: Path, ollama_here: Ollama) -> None:
    publishing = _publishing(tmp_path)
    done = publishing.publish(1)
    assert done.deliveries == (f"Ollama ft_pipeline-demo: has {publishing.fingerprint(1)[:12]} now",)
    again = publishing.publish(1)
    assert again.deliveries[0].startswith(f"Ollama ft_pipeline-demo: has {publishing.fingerprint(1)[:12]} since 20")
    publishing.reject(2)
    assert ollama_here.calls == [_call(ollama_here, 1)]
    publishing.publish(3)
    assert ollama_here.calls == [_call(ollama_here, 1), _call(ollama_here, 3)]


def test_ollama_is_told_of_a_rollback(tmp_path: Path, ollama_here: Ollama) -> None:
    publishing = _publishing(tmp_path)
    publishing.publish(1)
    publishing.publish(2)
    publishing.roll_back()
    assert ollama_here.calls == [_call(ollama_here, number) for number in (1, 2, 1)]


def test_its_words_are_in_the_log_without_the_terminals_codes(
    tmp_path: Path, ollama_here: Ollama, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _publishing(tmp_path).publish(1)
    assert ollama_here.calls
    said = "create ft_pipeline-demo -f Modelfile\ngathering model components\nsuccess"
    assert said in [record.getMessage() for record in caplog.records]


def test_a_failure_is_a_warning_and_the_next_run_tries_again(
    tmp_path: Path, ollama_here: Ollama, caplog: pytest.LogCaptureFixture
) -> None:
    publishing = _publishing(tmp_path)
    ollama_here.fail(True)
    with caplog.at_level(logging.WARNING):
        done = publishing.publish(1)
    assert done.published
    assert "create ended with exit code 1: gathering model components / Error: unsupported architecture" in caplog.text
    assert "the next run of published_model tries again" in caplog.text
    assert done.deliveries[0].startswith("Ollama ft_pipeline-demo: failed, ollama create ended with exit code 1")
    ollama_here.fail(False)
    assert publishing.publish(1).deliveries[0].endswith(f"has {publishing.fingerprint(1)[:12]} now")
    assert len(ollama_here.calls) == 2
    assert publishing.state.deliveries["Ollama ft_pipeline-demo"].fault is None


def test_one_that_never_ends_is_stopped_with_all_that_it_has_started(
    tmp_path: Path, ollama_here: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama, "_CREATE_SECONDS", 0.5)
    (ollama_here.folder / "slow").touch()
    (told,) = _publishing(tmp_path).publish(1).deliveries
    assert told.endswith("failed, ollama create took longer than 0.5 seconds")
    started = Path(f"/proc/{(ollama_here.folder / 'slow').read_text().strip()}/stat")
    assert not started.exists() or started.read_text().split()[2] == "Z"


@pytest.mark.parametrize("answer", [b"null", b"5", b"[]", b'"version"', b"hi", b"[" * 100_000])
def test_a_server_that_is_no_ollama_is_passed_over(
    tmp_path: Path, ollama_here: Ollama, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(_Handler, "answer", answer)
    assert "skipped, no Ollama server answers" in _publishing(tmp_path).publish(1).deliveries[0]
    assert ollama_here.calls == []


def test_no_user_password_or_query_of_the_address_is_told_or_kept(
    tmp_path: Path, ollama_here: Ollama, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://user:s3cr3t@127.0.0.1:9/s3cr3t?key=s3cr3t#s3cr3t")
    publishing = _publishing(tmp_path, "always")
    with caplog.at_level(logging.DEBUG, logger="demo"):
        done = publishing.publish(1)
    assert "no Ollama server answers at http://127.0.0.1:9" in done.deliveries[0]
    said = [record.getMessage() for record in caplog.records if record.name == "demo"]
    assert "s3cr3t" not in f"{done} {publishing.state} {said}"
    assert ollama_here.calls == []


def test_never_is_never(tmp_path: Path, ollama_here: Ollama) -> None:
    assert _publishing(tmp_path, "never").publish(1).deliveries == ()
    assert ollama_here.calls == []


@pytest.mark.parametrize(("mode", "said"), [("auto", "skipped"), ("always", "failed")])
@pytest.mark.parametrize("lack", ["program", "server", "Modelfile"])
def test_an_ollama_that_is_not_here_is_passed_over_unless_it_must_be(
    tmp_path: Path,
    ollama_here: Ollama,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lack: str,
    mode: str,
    said: str,
) -> None:
    publishing = _publishing(tmp_path, mode)
    reasons = {
        "program": "there is no program ollama on PATH",
        "server": "no Ollama server answers at http://127.0.0.1:9 (OLLAMA_HOST)",
        "Modelfile": "the model has no Modelfile (quantization.ollama is false)",
    }
    if lack == "program":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif lack == "server":
        monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    else:
        monkeypatch.setattr(ollama, "MODELFILE", "Modelfile.missing")
    with caplog.at_level(logging.WARNING):
        done = publishing.publish(1)
    assert done.published
    assert done.deliveries == (f"Ollama ft_pipeline-demo: {said}, {reasons[lack]}",)
    assert (reasons[lack] in caplog.text) == (mode == "always")
    assert ollama_here.calls == []
    monkeypatch.undo()
    assert bool(publishing.state.deliveries) == (mode == "always")


def test_it_comes_later_where_ollama_was_not_there(
    tmp_path: Path, ollama_here: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing = _publishing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("OLLAMA_HOST", "127.0.0.1:9")
        publishing.publish(1)
    publishing.publish(1)
    assert ollama_here.calls == [_call(ollama_here, 1)]


def test_another_name_is_another_model_of_ollamas(tmp_path: Path, ollama_here: Ollama) -> None:
    publishing = _publishing(tmp_path)
    publishing.publish(1)
    publishing.recipe = make_recipe(ollama="auto", ollama_name="me/tickets:v2")
    publishing.publish(1)
    assert ollama_here.calls[1:] == [_call(ollama_here, 1, "me/tickets:v2")]


@pytest.mark.parametrize("name", ["Tickets", "-x", "a b", "me/", "a:b:c", "--help"])
def test_a_name_that_ollama_would_not_take_is_an_error_of_the_recipe(name: str) -> None:
    with pytest.raises(ValidationError, match="ollama_name"):
        make_recipe(ollama_name=name)


def test_the_one_who_delivers_brings_who_is_champion_by_then(tmp_path: Path, ollama_here: Ollama) -> None:
    publishing = _publishing(tmp_path, "never")
    publishing.publish(1)
    publishing.publish(2)
    publishing.recipe = make_recipe(ollama="auto")
    make_model(publishing.store, 1)
    publishing.reject(3)
    assert ollama_here.calls == [_call(ollama_here, 2)]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - what servers are told to listen on
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:", "http://1.2.3.4:11434"),
        ("1.2.3.4:99999", "http://1.2.3.4:11434"),
        (f"1.2.3.4:{'1' * 5000}", "http://1.2.3.4:11434"),
        ("example.com", "http://example.com:11434"),
        ("example.com:56789/", "http://example.com:56789"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]:7", "http://[::1]:7"),
        ("::1", "http://[::1]:11434"),
        ('"1.2.3.4:5"', "http://1.2.3.4:5"),
        (" 'localhost' ", "http://localhost:11434"),
    ],
)
def test_the_address_is_read_as_ollamas_client_reads_it(host: str, address: str) -> None:
    assert ollama_address(host) == address
