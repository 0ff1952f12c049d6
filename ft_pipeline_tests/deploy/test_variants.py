"""The files of deploy/, as far as they can be judged without the programs that run them."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline_tests.alerts.hook_server import serve_hook
from ft_pipeline_tests.needs import need_program
from ft_pipeline_tests.publishing.small_models import Publishing

CHECKOUT = "/opt/ft_pipeline"
CARE = ("ft_pipeline-gc", "ft_pipeline-history", "ft_pipeline-backup")
UNITS = ("ft_pipeline-code", "ft_pipeline-daemon", "ft_pipeline-page", *CARE)


@pytest.fixture
def compose(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project / "deploy/compose/compose.yaml").read_text())
    return found


def test_with_postgres_all_but_the_storage_is_as_without(project: Path) -> None:
    with_postgres = yaml.safe_load((project / "deploy/postgres/dagster.yaml").read_text())
    assert with_postgres.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_PG_URL"}}}
    assert with_postgres == yaml.safe_load((project / "dagster.yaml").read_text())


def test_the_documented_copies_of_a_configuration_leave_the_checkouts_own_alone(project: Path, tmp_path: Path) -> None:
    copies = re.findall(r"cp \S* ?\S*dagster\.yaml \.dagster/\S*", (project / "docs/operations.md").read_text())
    assert len(copies) == 2
    (tmp_path / "deploy/postgres").mkdir(parents=True)
    (tmp_path / ".dagster").mkdir()
    (tmp_path / "dagster.yaml").write_text("the project's")
    (tmp_path / "deploy/postgres/dagster.yaml").write_text("for PostgreSQL")
    for copy in copies:
        (tmp_path / ".dagster/dagster.yaml").unlink(missing_ok=True)
        (tmp_path / ".dagster/dagster.yaml").symlink_to("../dagster.yaml")  # as make makes it
        subprocess.run(shlex.split(copy), cwd=tmp_path, check=True)
        assert (tmp_path / "dagster.yaml").read_text() == "the project's"
        assert not (tmp_path / ".dagster/dagster.yaml").is_symlink()


# -- Docker Compose --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_are_of_the_compose_specification(project: Path, name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(project / "deploy/compose" / name)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_only_this_machine_reaches_a_container(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:${PORT:-3000}:3000"]


def test_every_container_that_stays_comes_back_writes_bounded_logs_and_is_watched(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "tables":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
        if name != "postgres":
            assert service["user"] == "${FT_PIPELINE_UID:?in .env}:${FT_PIPELINE_GID:?in .env}", name
            assert service["cap_drop"] == ["ALL"], name


def test_no_secret_stands_in_a_tracked_file_or_in_the_image(project: Path, compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "URL" in name:
                assert "${POSTGRES_PASSWORD:?in .env}" in value
    assert re.findall(r"^POSTGRES_PASSWORD=(.*)$", (project / "deploy/compose/env.example").read_text(), re.M) == [""]
    ignored = (project / "deploy/compose/Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert not allowed & {"data", "deploy", ".env", ".git", ".dagster"}
    copied = re.findall(r"^COPY (.+) \S+$", (project / "deploy/compose/Dockerfile").read_text(), re.M)
    assert {word.partition("/")[0] for words in copied for word in words.split()} <= allowed
    assert {word.partition("/")[0] for words in copied for word in words.split()} <= {p.name for p in project.iterdir()}


def test_the_tables_are_made_once_before_anything_else_starts(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["tables"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["code"]["depends_on"] == {"tables": {"condition": "service_completed_successfully"}}
    for name in ("daemon", "page"):
        assert services[name]["depends_on"] == {"code": {"condition": "service_healthy"}}


def test_the_service_of_runs_is_stopped_with_its_runs(compose: dict[str, Any]) -> None:
    code = compose["services"]["code"]
    assert code["init"]
    assert code["environment"]["TINI_KILL_PROCESS_GROUP"] == "1"
    assert int(code["stop_grace_period"].removesuffix("s")) > 30


def test_containers_take_turns_on_the_device_with_the_host(project: Path, compose: dict[str, Any]) -> None:
    code = compose["services"]["code"]
    folder = code["environment"]["FT_PIPELINE_LOCK_DIR"]
    assert {"type": "bind", "source": folder, "target": folder, "bind": {"create_host_path": False}} in code["volumes"]
    assert f"d {folder} 1777 root root" in (project / "deploy/systemd/ft_pipeline.tmpfiles").read_text()


# -- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(project: Path, tmp_path: Path) -> Path:
    """The units with this checkout in the place of the documented one, and a user that there is."""
    folder = tmp_path / "units"
    folder.mkdir()
    for path in (project / "deploy/systemd").glob("ft_pipeline-*"):
        text = path.read_text().replace(CHECKOUT, str(project))
        (folder / path.name).write_text(re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.M))
    return folder


def _read_unit(project: Path, name: str) -> dict[str, list[str]]:
    """The settings of a service; one may stand there several times."""
    found: dict[str, list[str]] = {}
    for line in (project / f"deploy/systemd/{name}.service").read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_systemd_takes_every_unit(here: Path) -> None:
    program = need_program("systemd-analyze", install="apt-get install systemd")
    units = sorted(str(path) for path in here.iterdir())
    done = subprocess.run([program, "verify", "--man=no", *units], check=False, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ft_pipeline" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("name", [*UNITS, "ft_pipeline-alert@"])
def test_a_unit_is_hardened(here: Path, name: str) -> None:
    program = need_program("systemd-analyze", install="apt-get install systemd")
    limit = "45" if name == "ft_pipeline-code" else "40"  # tenths; CUDA and torch need devices and executable memory
    command = [program, "security", "--offline=yes", f"--threshold={limit}", str(here / f"{name}.service")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_as_its_own_user_and_writes_where_it_must_and_nowhere_else(project: Path, name: str) -> None:
    unit = _read_unit(project, name)
    assert unit["User"] == ["ft_pipeline"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["NoNewPrivileges"] == ["yes"]
    (writable,) = unit["ReadWritePaths"]
    assert f"{CHECKOUT}/.dagster" in writable.split()
    assert ("/run/lock/ft_pipeline" in writable.split()) == (name == "ft_pipeline-code"), "who trains takes turns"
    assert ("FT_PIPELINE_LOCK_DIR=/run/lock/ft_pipeline" in unit["Environment"]) == (name == "ft_pipeline-code")


def test_a_stopped_training_has_time_for_its_checkpoint(project: Path) -> None:
    from ft_pipeline.processes.child import GRACE_SECONDS

    unit = _read_unit(project, "ft_pipeline-code")
    assert (unit["KillMode"], unit["KillSignal"]) == (["control-group"], ["SIGTERM"])
    assert int(unit["TimeoutStopSec"][0]) >= 2 * GRACE_SECONDS


def test_the_page_listens_on_this_machine_alone(project: Path) -> None:
    (command,) = _read_unit(project, "ft_pipeline-page")["ExecStart"]
    assert "--host 127.0.0.1" in command
    workspace = yaml.safe_load((project / "deploy/systemd/workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert server["socket"] == "/run/ft_pipeline/code.sock"
    assert "port" not in server, "anybody on the machine could run code through a port"


def test_unit_and_container_serve_the_same_code(project: Path, compose: dict[str, Any]) -> None:
    (command,) = _read_unit(project, "ft_pipeline-code")["ExecStart"]
    words = [word for word in command.split()[1:] if not word.startswith("/run/")]
    served = compose["services"]["code"]["command"]
    assert [word for word in served[1:] if not word.startswith("/srv/")] == words


def test_a_container_serves_code_by_a_socket_that_its_owner_alone_can_use(
    project: Path, compose: dict[str, Any]
) -> None:
    workspace = yaml.safe_load((project / "deploy/compose/workspace.yaml").read_text())
    server, code = workspace["load_from"][0]["grpc_server"], compose["services"]["code"]
    assert "port" not in server, "anybody on the host could run code through a container's port"
    (folder,) = {volume["target"] for volume in code["volumes"] if volume["source"] == "./home"}
    assert Path(server["socket"]).parent == Path(folder)
    for words in (code["command"], code["healthcheck"]["test"]):
        assert words[words.index("--socket") + 1] == server["socket"]


def test_the_timer_is_of_a_unit_that_is_there(project: Path) -> None:
    timer = configparser.ConfigParser()
    timer.read(project / "deploy/systemd/ft_pipeline-care.timer")
    assert timer["Timer"]["Persistent"] == "yes"
    assert timer["Timer"]["Unit"] == "ft_pipeline-backup.service"


def test_the_backup_comes_last_and_depends_on_nothing(project: Path) -> None:
    unit = _read_unit(project, "ft_pipeline-backup")
    others = "ft_pipeline-gc.service ft_pipeline-history.service"
    assert (unit["Wants"], unit["After"], unit.get("Requires")) == ([others], [others], None)


@pytest.mark.parametrize("name", CARE)
def test_a_unit_of_the_night_does_one_thing_within_a_time_and_tells_when_it_fails(project: Path, name: str) -> None:
    unit = _read_unit(project, name)
    assert len(unit["ExecStart"]) == 1
    assert unit["TimeoutStartSec"]
    assert unit["OnFailure"] == ["ft_pipeline-alert@%n.service"]
    assert (project / "deploy/systemd/ft_pipeline-alert@.service").exists()


@pytest.mark.usefixtures("project_of_the_night")
@pytest.mark.parametrize("name", CARE)
def test_the_commands_of_the_night_do_what_they_say(project: Path, tmp_path: Path, name: str) -> None:
    (command,) = _read_unit(project, name)["ExecStart"]
    words = shlex.split(command.replace(CHECKOUT, str(project)).replace("/var/backups", str(tmp_path / "backups")))
    done = subprocess.run(words, cwd=project, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = {"gc": "are free", "history": "Dagster's runs: 0", "backup": "read back and whole"}
    assert said[name.removeprefix("ft_pipeline-")] in done.stdout


@pytest.fixture
def project_of_the_night(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with a champion, and a home of Dagster."""
    machine = Publishing(tmp_path)
    machine.publish(1)
    (tmp_path / "home").mkdir()
    shutil.copy(project / "dagster.yaml", tmp_path / "home")
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))


def test_who_is_told_of_runs_is_told_of_a_unit_that_has_failed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = _read_unit(project, "ft_pipeline-alert@")["ExecStart"]
    words = shlex.split(command.replace("%i", "ft_pipeline-backup.service").replace("%H", "host"))
    assert words[1:4] == ["-m", "ft_pipeline", "alert"]
    with serve_hook() as hook:
        monkeypatch.setenv("FT_PIPELINE_ALERT_WEBHOOK", hook.url)
        CliRunner().invoke(main, words[3:], catch_exceptions=False)
    ((_, told),) = hook.taken
    assert "ft_pipeline-backup.service has failed on host: journalctl -u ft_pipeline-backup.service" in str(told)
