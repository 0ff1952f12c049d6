"""llama.cpp's own Jinja engine, which its server and what is built on it render chat templates with.

It is a small program that `make setup` builds from the source of the installed llama-cpp-python
(`scripts/llama_template.cpp`): one template, then conversations and their texts as lines of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ft_pipeline.datasets.rendering import TEMPLATE_DATE
from ft_pipeline.datasets.template_limits import MAX_MEMORY_BYTES, MAX_TEXT_CHARS
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
# A template comes with the base, and may loop for ever. By the clock, so a busy machine must have its time too.
_MAX_SECONDS = 60.0
# A character may take six bytes in JSON.
_MAX_ANSWER_BYTES = 6 * MAX_TEXT_CHARS
_READ_BYTES = 1 << 20


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
            self._process = subprocess.Popen([self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except OSError as err:
            raise EnvironmentMismatch(
                f"llama.cpp's template engine must be set up; {self._program} does not start: {err.strerror}. "
                "Run: make setup"
            ) from err
        try:
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
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
        if self._refusal and self._first_line["template"]:
            return  # the engine looks at what a template can do by rendering it: that has ended it
        found, installed = answer.get("version"), version("llama-cpp-python")
        if found != installed:
            raise EnvironmentMismatch(
                f"llama.cpp's template engine must come from the source of the installed library; {self._program} is "
                f"of llama-cpp-python {found or '?'}, installed is {installed}. Run: make setup"
            )
        if "error" in answer:
            self._refusal = _shorten(answer["error"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        line = b""
        with suppress(BrokenPipeError):
            self._write(json.dumps(request).encode() + b"\n")
            line = self._read_line()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self._refusal = self._refusal or self._describe_end()
            return {"error": self._refusal}
        return answer

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - Popen was given a pipe
        rest = memoryview(line)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    def _read_line(self) -> bytes:
        """The answer; an engine that does not end it in time, or writes without end, is ended."""
        assert self._process.stdout is not None  # noqa: S101 - Popen was given a pipe
        line, give_up_at = bytearray(), time.monotonic() + _MAX_SECONDS
        while not line.endswith(b"\n"):
            left = give_up_at - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return self._give_up(f"it does not render a conversation within {_MAX_SECONDS:.0f} s")
            if len(line) > _MAX_ANSWER_BYTES:
                return self._give_up(f"it writes more than {MAX_TEXT_CHARS:,} characters")
            if not (read := os.read(self._process.stdout.fileno(), _READ_BYTES)):
                break
            line += read
        return bytes(line)

    def _give_up(self, reason: str) -> bytes:
        self._process.kill()
        self._refusal = reason
        return b""

    def _describe_end(self) -> str:
        status = self._process.wait()
        return f"its engine ended with {signal.Signals(-status).name if status < 0 else f'exit status {status}'}"


def _shorten(reason: str) -> str:
    """The engine's message may be long, and its end says what is wrong."""
    return " ".join(reason.replace(_RULE, "").split())[-_LONGEST_REASON:]
