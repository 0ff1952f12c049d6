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


def examine(root: Path, recipe_name: str, artifacts: Path, device: str) -> Iterator[Finding]:
    """Look at everything that a run of this recipe needs, with its artifacts in that folder and on that device."""
    looks: dict[str, Callable[[], Finding | Iterable[Finding]]] = {
        "Python": _examine_python,
        "packages": lambda: _examine_packages(root / "constraints.txt"),
        "llama.cpp's converter": lambda: _guard("llama.cpp's converter", _find_converter, "make setup"),
        "llama.cpp's template engine": lambda: _guard(
            "llama.cpp's template engine", _find_template_engine, "make setup"
        ),
        "C++ compiler": _examine_compiler,
        "torch": _examine_torch,
        "device": lambda: _examine_device(device),
        "locks of devices": lambda: examine_locks(environment.lock_folder()),
        f"recipe {recipe_name}": lambda: _examine_recipe(root, recipe_name, artifacts),
        "names of recipes": lambda: examine_names(root, place_recipe(recipe_name, root)),
        "alerts": _examine_alerts,
        "artifact store": lambda: examine_store(artifacts, environment.published_folder(artifacts)),
        "Dagster": lambda: examine_dagster(environment.dagster_home(), environment.read_variable),
        "servers": examine_servers,
    }
    for subject, look in looks.items():
        yield from _look(subject, look)


def _look(subject: str, look: Callable[[], Finding | Iterable[Finding]]) -> Iterator[Finding]:
    """What is found; what breaks the look off is a finding too, and the rest is looked at."""
    try:
        found = look()
        yield from [found] if isinstance(found, Finding) else found
    except Exception as err:  # noqa: BLE001 - whatever is wrong with a machine
        said = hide_credentials(f"{type(err).__name__}: {err}")
        yield Finding(subject, f"it cannot be looked at: {said}", "mend what the message names")


def _find_converter() -> str:
    tree = default_converter()
    check_converter(tree)
    return str(tree)


def _find_template_engine() -> str:
    program = default_program()
    check_program(program)
    return str(program)


def _guard(subject: str, look: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding(subject, look())
    except PipelineError as err:
        return Finding(subject, str(err), fix)


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
    try:
        device = find_device(wanted)
    except PipelineError as err:
        yield Finding("device", str(err), "mend what the message names")
        return
    yield Finding("device", "; ".join([_describe(device), *device.notes]))
    if device.is_gpu:
        others = describe_neighbours(list_neighbours(device.name))
        yield Finding("others on the card", " ".join(others) or "none")


def _examine_alerts() -> Finding:
    try:
        settings = environment.alert_settings()
    except PipelineError as err:
        return Finding("alerts", str(err), "mend what the message names (docs/alerts.md)")
    names = [receiver.name for receiver in list_receivers(settings)]
    if not names:
        return Finding("alerts", "nobody is told of runs by the variables of this shell (docs/alerts.md)")
    return Finding(
        "alerts", f"{' and '.join(names)}: {', '.join(sorted(settings.kinds))}; make alert-test sends a trial"
    )


def _describe(device: Device) -> str:
    memory = f"{device.free_bytes / 2**30:.1f} of {device.total_bytes / 2**30:.1f} GiB free"
    if not device.is_gpu:
        return f"{device.label}, {memory}"
    generation = ".".join(map(str, device.compute_capability or ("unknown",)))
    numbers = "bf16" if device.supports_bf16 else "no bf16"
    return f"{device.label}, {memory}, driver {device.driver_version}, compute capability {generation}, {numbers}"


def _examine_recipe(root: Path, name: str, artifacts: Path) -> Iterator[Finding]:
    try:
        recipe = load_recipe(find_recipe(name, root))
        base = open_base(recipe.base_model, root)
        require_context(base, recipe.dataset.max_row_tokens)
        require_vocabulary(base)
        sources = find_sources(recipe.dataset, root, artifacts / "_downloads", environment.own_folders(artifacts))
    except PipelineError as err:
        yield Finding(f"recipe {name}", str(err), "mend what the message names")
        return
    shown = {"base": base.name, "source files": len(sources)}
    yield Finding(f"recipe {name}", json.dumps(shown))
    yield examine_disk(artifacts, recipe, root)
    yield examine_ollama(recipe)
