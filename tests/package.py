"""The pack as one importable package, `compositional_inversion`, as ComfyUI loads it; importing it needs no ComfyUI."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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
