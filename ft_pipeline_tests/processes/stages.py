"""Stages for the tests of the launcher: what a real one might do wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from ft_pipeline.datasets.template_limits import OVER_TIME
from ft_pipeline.errors import DatasetError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Summary

_SECRET = "403 for https://bob:hunter2secret@mlflow.corp/api?token=abc Authorization: Bearer abcdefghijklmnopqrstuvw"


class PlayRequest(BaseModel):
    """What to play, and a file to write into."""

    act: str
    path: Path


def play(request: PlayRequest, reporter: Reporter) -> Summary:
    """Do what the request's act says."""
    match request.act:
        case "succeed":
            reporter.info("hello")
            reporter.progress(1, 2, loss=0.5)
            sys.stdout.write("chatter of a library\n")
            return Summary(figures={"answer": 42})
        case "list variables":
            request.path.write_text("\n".join(os.environ))
        case "refuse":
            raise DatasetError("rule, value, place, fix")
        case "crash":
            raise ZeroDivisionError("unforeseen")
        case "wait":
            _wait(request.path)
        case "put down slowly":
            _put_down_slowly(request.path)
        case "be deaf":
            _be_deaf(request.path)
        case other:
            _end(other)
    return Summary()


def _end(act: str) -> None:
    match act:
        case "die":
            sys.stderr.write("the last words\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash with a secret":
            sys.stderr.write(f"{_SECRET}\n")
            raise ConnectionError(_SECRET)
        case "die with a secret":
            sys.stderr.write(f"{_SECRET}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        case "compute without end":
            os.kill(os.getpid(), OVER_TIME)
        case "die and leave a fork":
            if os.fork() == 0:
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)


def _wait(path: Path) -> None:
    """Start a process of our own, say both ids, and wait to be stopped."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    path.write_text(f"{os.getpid()} {child.pid}")
    try:
        time.sleep(60)
    except BaseException:
        path.with_suffix(".checkpoint").touch()
        raise


def _put_down_slowly(path: Path) -> None:
    """Take the signal to stop ourselves, as training does, and need a while then."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    path.write_text(str(os.getpid()))
    while not asked:
        time.sleep(0.05)
    time.sleep(3)
    path.with_suffix(".checkpoint").touch()


def _be_deaf(path: Path) -> None:
    """Hear no signal, as in a long call of a library that does not come back to Python."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    path.write_text(str(os.getpid()))
    time.sleep(60)
