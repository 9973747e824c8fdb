"""The pack as one importable package, `compositional_inversion`, as ComfyUI loads it; importing it needs no ComfyUI."""

import asyncio
import importlib.util
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parent.parent


def package(name: str, folder: Path) -> ModuleType:
    """A folder as a package of this name, loaded once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


package("compositional_inversion", ROOT)
sys.modules["compinv_core"] = None  # pyright: ignore[reportArgumentType] - the same module under two names would be two modules


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, also in a thread whose loop runs, as it does once a browser was there."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, coroutine).result()
