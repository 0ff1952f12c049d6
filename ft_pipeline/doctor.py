"""Looks at the machine and says what is missing or mismatched, each with its fix."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.alerts.outbox import list_receivers
from ft_pipeline.base_model import open_base, require_context, require_vocabulary
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.errors import PipelineError
from ft_pipeline.finetuning.device import Device, find_device
from ft_pipeline.finetuning.neighbours import describe_neighbours, list_neighbours
from ft_pipeline.finetuning.torch_build import read_torch_build
from ft_pipeline.operations.dagster_home import examine_dagster, examine_servers
from ft_pipeline.operations.finding import Finding
from ft_pipeline.operations.health import examine_disk, examine_locks, examine_names, examine_ollama, examine_store
from ft_pipeline.quantization.convert import check_converter, default_converter
from ft_pipeline.quantization.llama_template import check_program, default_program
from ft_pipeline.recipe_file import find_recipe, load_recipe, place_recipe

_MEND = "mend what the message names"


def examine(root: Path, recipe_name: str, artifacts: Path, device: str) -> Iterator[Finding]:
    """Look at everything that a run of this recipe needs, with its artifacts in that folder and on that device."""
    yield from _look("Python", _examine_python)
    yield from _look("packages", lambda: _examine_packages(root / "constraints.txt"))
    yield from _look("llama.cpp's converter", _find_converter, "make setup")
    yield from _look("llama.cpp's template engine", _find_template_engine, "make setup")
    yield from _look("C++ compiler", _examine_compiler)
    yield from _look("torch", _examine_torch)
    yield from _look("device", lambda: _examine_device(device))
    yield from _look("locks of devices", lambda: examine_locks(environment.lock_folder()))
    yield from _look(f"recipe {recipe_name}", lambda: _examine_recipe(root, recipe_name, artifacts))
    yield from _look("names of recipes", lambda: examine_names(root, place_recipe(recipe_name, root)))
    yield from _look("alerts", _describe_alerts, f"{_MEND} (docs/alerts.md)")
    yield from _look("artifact store", lambda: examine_store(artifacts, environment.published_folder(artifacts)))
    yield from _look("Dagster", lambda: examine_dagster(environment.dagster_home(), environment.read_variable))
    yield from _look("servers", examine_servers)


def _look(subject: str, look: Callable[[], str | Finding | Iterable[Finding]], fix: str = _MEND) -> Iterator[Finding]:
    """What is found: a state that needs no fix, or findings. What breaks the look off is one too, and ends no other."""
    try:
        found = look()
        if isinstance(found, str):
            found = Finding(subject, found)
        yield from [found] if isinstance(found, Finding) else found
    except PipelineError as err:
        yield Finding(subject, str(err), fix)
    except Exception as err:  # noqa: BLE001 - whatever is wrong with a machine
        said = hide_credentials(f"{type(err).__name__}: {err}")
        yield Finding(subject, f"it cannot be looked at: {said}", _MEND)


def _find_converter() -> str:
    tree = default_converter()
    check_converter(tree)
    return str(tree)


def _find_template_engine() -> str:
    program = default_program()
    check_program(program)
    return str(program)


def _examine_python() -> Finding:
    shown = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("Python", shown, "" if fits else "Python 3.11, 3.12 or 3.13: make clean setup PYTHON=python3.11")


def _examine_packages(constraints: Path) -> Finding:
    if not constraints.is_file():
        return Finding("packages", f"no {constraints} to compare with")
    wrong = []
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    for name, wanted in pins:
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name} is {found}, tested with {wanted}")
    return Finding("packages", "; ".join(wrong) or f"{len(pins)} as tested", "make setup" if wrong else "")


def _examine_compiler() -> Finding:
    compiler = shutil.which("c++")
    return Finding("C++ compiler", compiler or "none", "" if compiler else "needed by make setup: install g++ or clang")


def _examine_torch() -> Finding:
    build = read_torch_build()
    if build is None:
        return Finding("torch", "missing", "make setup")
    made_for = "ROCm" if build.is_rocm else f"CUDA {build.cuda[0]}.{build.cuda[1]}" if build.cuda else "the CPU"
    return Finding("torch", f"{build.version}, for {made_for}")


def _examine_device(wanted: str) -> Iterator[Finding]:
    device = find_device(wanted)
    yield Finding("device", "; ".join([_describe(device), *device.notes]))
    if device.is_gpu:
        others = describe_neighbours(list_neighbours(device.name))
        yield Finding("others on the card", " ".join(others) or "none")


def _describe_alerts() -> str:
    settings = environment.alert_settings()
    names = [receiver.name for receiver in list_receivers(settings)]
    if not names:
        return "nobody is told of runs by the variables of this shell (docs/alerts.md)"
    return f"{' and '.join(names)}: {', '.join(sorted(settings.kinds))}; make alert-test sends a trial"


def _describe(device: Device) -> str:
    memory = f"{device.free_bytes / 2**30:.1f} of {device.total_bytes / 2**30:.1f} GiB free"
    if not device.is_gpu:
        return f"{device.label}, {memory}"
    generation = ".".join(map(str, device.compute_capability or ("unknown",)))
    numbers = "bf16" if device.supports_bf16 else "no bf16"
    return f"{device.label}, {memory}, driver {device.driver_version}, compute capability {generation}, {numbers}"


def _examine_recipe(root: Path, name: str, artifacts: Path) -> Iterator[Finding]:
    recipe = load_recipe(find_recipe(name, root))
    base = open_base(recipe.base_model, root)
    require_context(base, recipe.dataset.max_row_tokens)
    require_vocabulary(base)
    sources = find_sources(recipe.dataset, root, artifacts / "_downloads", environment.own_folders(artifacts))
    shown = {"base": base.name, "source files": len(sources)}
    yield Finding(f"recipe {name}", json.dumps(shown))
    yield examine_disk(artifacts, recipe, root)
    yield examine_ollama(recipe)
