"""A whole run of a small project, as a user in CI starts it, with secrets around it and a base that brings code."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline_tests.ci_run import materialize_command
from ft_pipeline_tests.loopback_server import serving
from ft_pipeline_tests.user_project import RECIPE, ROW

# In no package, file or library, so wherever one is found it was put by the run.
ENVIRONMENT_SECRETS = {
    "HF_TOKEN": "hf_QcanaryHuggingFaceTokenAAAAAAAAAAAA1",
    "AWS_ACCESS_KEY_ID": "AKIAQCANARYAWSKEYID2",
    "AWS_SECRET_ACCESS_KEY": "Qcanary/aws/secret/access/key/AAAAAAAAA3",
    "WANDB_API_KEY": "qcanarywandb0123456789abcdef0123456789a4",
    "FT_PIPELINE_ALERT_WEBHOOK": "https://hooks.invalid/Qcanary-webhook-5",
    "FT_PIPELINE_ALERT_SMTP": "smtps://ops:Qcanary-mail-password-6@mail.invalid",
}
URL_USER, URL_TOKEN = "Qcanary-url-password-7", "Qcanary-url-token-8"
KEY_IN_DATA = "hf_QcanaryKeyInARowAAAAAAAAAAAAAAAAAA9"
# Loaded by every Python process of the run: writes down who unpickles, who imports the base's code, and which
# environment the process was given.
_SPY = """
import os, sys, traceback
_log = os.environ["SPY_LOG"]
def _note(event, arguments):
    if event == "pickle.find_class":
        frames = [frame.filename for frame in traceback.extract_stack()]
        if not any("multiprocessing" in name or "concurrent/futures" in name for name in frames):
            with open(_log, "a") as log:
                log.write("pickle " + " ".join(map(str, arguments)) + " " + " < ".join(frames[-6:]) + "\\n")
sys.addaudithook(_note)
if "ft_pipeline.processes.child" in " ".join(sys.orig_argv):
    with open(_log, "a") as log:
        log.write("stage " + ",".join(name for name in os.environ if name.startswith("FT_PIPELINE_ALERT_")) + "\\n")
"""
_EVIL = "import os\nopen(os.environ['CANARY'], 'w').write(__name__)\nclass Evil:\n    pass\n"


@dataclass(frozen=True)
class WholeRun:
    """What a run has left.

    Attributes:
        root: The project's folder; its base brings `evil.py`, which writes `canary`.
        home: DAGSTER_HOME.
        said: All that was printed.
        spied: What its processes did.
    """

    root: Path
    home: Path
    status: int
    said: str
    canary: Path
    spied: list[str]

    @property
    def store(self) -> Path:
        """Its artifacts."""
        return self.root / "data/artifacts"


def run_all(root: Path, base: Path, project: Path) -> WholeRun:
    """Lay out the project, serve its data from this machine, and materialize everything."""
    home, spy = root / "home", root / "spy"
    for folder in (home, spy, root / "recipes", root / "served"):
        folder.mkdir(parents=True)
    shutil.copy(project / "dagster.yaml", home)
    (spy / "sitecustomize.py").write_text(_SPY)
    (spy / "log").touch()
    _bring_code(Path(shutil.copytree(base, root / "base")))
    rows = [ROW % (number, number) for number in range(40)]
    rows.append(json.dumps({"messages": [_say("user", f"keep {KEY_IN_DATA}"), _say("assistant", "kept")]}) + "\n")
    (root / "served/rows.jsonl").write_text("".join(rows))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, root / "served"))) as web:
        host = f"127.0.0.1:{web.server_address[1]}"
        (root / "recipes/mine.yaml").write_text(yaml.safe_dump(_write_recipe(host)))
        environment = (
            os.environ
            | ENVIRONMENT_SECRETS
            | {
                "DAGSTER_HOME": str(home),
                "FT_PIPELINE_ROOT": str(root),
                "FT_PIPELINE_RECIPE": "mine",
                "FT_PIPELINE_DEVICE": "cpu",
                "FT_PIPELINE_LOCK_DIR": str(root / "locks"),
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": os.pathsep.join([str(spy), str(project)]),
                "SPY_LOG": str(spy / "log"),
                "CANARY": str(root / "canary"),
            }
        )
        done = subprocess.run(
            materialize_command("*"),
            cwd=project,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    spied = (spy / "log").read_text().splitlines()
    return WholeRun(root, home, done.returncode, done.stdout, root / "canary", spied)


def _bring_code(base: Path) -> None:
    (base / "evil.py").write_text(_EVIL)
    (base / "custom_generate").mkdir()
    (base / "custom_generate/generate.py").write_text(_EVIL)
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    ):
        settings = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps(settings | {"auto_map": classes}))


def _write_recipe(host: str) -> dict[str, Any]:
    source = f"http://reader:{URL_USER}@{host}/rows.jsonl?token={URL_TOKEN}"
    dataset = RECIPE["dataset"] | {"sources": [source], "allowed_roots": [f"http://{host}/"]}
    gate = {"rules": ["exact_match > champion"], "tie": "newer"}  # a model of random numbers gets through
    evaluation = {"max_new_tokens": 4, "general_set": False, "compare_with_16bit": False, "gate": gate}
    training = {"effective_batch_tokens": 256, "importance_tokens": 0}
    changes = {"dataset": dataset, "evaluation": evaluation, "training": training}
    return RECIPE | changes | {"quantization": {"types": ["Q8_0"]}}


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


class _Files(http.server.SimpleHTTPRequestHandler):
    def __init__(self, folder: Path, *arguments: Any) -> None:
        super().__init__(*arguments, directory=str(folder))

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"reader:{URL_USER}".encode()).decode()
        if self.headers.get("Authorization") == wanted and self.path.endswith(URL_TOKEN):
            super().do_GET()
        else:
            self.send_error(401)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_arguments: Any) -> None:
        """Nothing is printed."""
