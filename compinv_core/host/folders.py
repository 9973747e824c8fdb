"""Where our files lie among the user's, by ComfyUI's own `folder_paths`."""

from pathlib import Path

import folder_paths

PREDICTORS = "layout_predictors"


def predictor_folders() -> list[str]:
    """Where predictors lie, the first for new ones; `layout_predictors` in extra_model_paths.yaml adds others."""
    own = Path(folder_paths.models_dir) / "compositional_inversion" / PREDICTORS
    folder_paths.add_model_folder_path(PREDICTORS, str(own))
    return folder_paths.get_folder_paths(PREDICTORS)


def new_predictor_file(model: str) -> Path:
    """Where the predictor of a model is written."""
    return Path(predictor_folders()[0]) / f"{model}.safetensors"


def predictor_file(model: str) -> Path | None:
    """The predictor of a model, where there is one."""
    predictor_folders()
    file = folder_paths.get_full_path(PREDICTORS, f"{model}.safetensors")
    return None if file is None else Path(file)


def predictor_files() -> list[tuple[str, int, int]]:
    """What predictors there are, so that a graph notices a new one: path, size and time."""
    files = sorted(file for folder in predictor_folders() for file in Path(folder).glob("*.safetensors"))
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def recoveries_file(name: str) -> Path:
    """Where the recoveries of a predictor's training are stored."""
    return Path(folder_paths.get_user_directory()) / "compositional_inversion" / "layouts" / f"{name}.json"
