"""llama.cpp's own Jinja engine, which its server and what is built on it render chat templates with.

It is a small program that `make setup` builds from the source of the installed llama-cpp-python
(`scripts/llama_template.cpp`): one template, then conversations and their texts as lines of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ft_pipeline.datasets.rendering import TEMPLATE_DATE
from ft_pipeline.errors import ConversionError, EnvironmentMismatch
from ft_pipeline.quantization.trained_tokenizer import Conversation

# What llama.cpp's server tells a template besides the conversation (common/chat.cpp): that thinking is on, and the
# date, which stands still here as it does in training.
SERVER_VARIABLES: Mapping[str, Any] = {
    "enable_thinking": True,
    "date_string": TEMPLATE_DATE,
    "datetime": "Jan 01 2025",
}
# Drawn above the engine's messages.
_RULE = "-" * 12
_LONGEST_REASON = 300


def default_program() -> Path:
    """Where `make setup` puts the program."""
    return Path(sys.prefix) / "share" / "ft_pipeline" / "llama.cpp" / "llama-template"


def check_program(path: Path) -> None:
    """See that the program is there, runs, and comes from the source of the installed llama-cpp-python.

    Raises:
        EnvironmentMismatch: it does not.
    """
    with LlamaTemplate("", "", "", path):
        pass


class LlamaTemplate:
    """A chat template in llama.cpp's engine, in a process that lasts as long as this is open.

    Args:
        template: Jinja source.
        bos: The BOS token's text, empty if there is none.
        eos: The EOS token's text, likewise.
        program: None: where `make setup` put it.

    Raises:
        EnvironmentMismatch: the program is missing, does not run, or is of another version than the installed library.
    """

    def __init__(self, template: str, bos: str, eos: str, program: Path | None = None) -> None:
        self._program = program or default_program()
        self._first_line = {"template": template, "bos_token": bos, "eos_token": eos, "date": TEMPLATE_DATE}
        self._refusal: str | None = None

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen([self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as err:
            raise EnvironmentMismatch(
                f"llama.cpp's template engine must be set up; {self._program} does not start: {err.strerror}. "
                "Run: make setup"
            ) from err
        try:
            self._open_template()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with suppress(BrokenPipeError):  # a request that a dead process never read
            self._process.communicate()

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] = SERVER_VARIABLES,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: Role and content of each.
            add_generation_prompt: End with what asks for an answer.
            variables: What the template is told besides.

        Raises:
            ConversionError: the engine cannot parse the template, or not render this conversation.
        """
        if self._refusal is None:
            request = {"messages": [dict(message) for message in messages], "variables": dict(variables)}
            answer = self._ask(request | {"add_generation_prompt": add_generation_prompt})
            if "text" in answer:
                return str(answer["text"])
            raise ConversionError(f"llama.cpp cannot render it: {_shorten(answer['error'])}")
        raise ConversionError(f"llama.cpp cannot read the template: {self._refusal}")

    def _open_template(self) -> None:
        answer = self._ask(self._first_line)
        found, installed = answer.get("version"), version("llama-cpp-python")
        if found != installed:
            raise EnvironmentMismatch(
                f"llama.cpp's template engine must come from the source of the installed library; {self._program} is "
                f"of llama-cpp-python {found or '?'}, installed is {installed}. Run: make setup"
            )
        if "error" in answer:
            self._refusal = _shorten(answer["error"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018 - Popen was given pipes
        line = b""
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            status = self._process.wait()
            end = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            self._refusal = f"its engine ended with {end}"
            return {"error": self._refusal}
        return answer


def _shorten(reason: str) -> str:
    """The engine's message may be long, and its end says what is wrong."""
    return " ".join(reason.replace(_RULE, "").split())[-_LONGEST_REASON:]
