"""`python -m compinv_core`: from a file to embeddings, in one process and in two; from a checkpoint to its layout predictor."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
sys.path += [{root!r}, {root!r} + "/microworld"]
sys.path.insert(0, {comfyui!r})
from comfy.cli_args import args
args.cpu = True
import comfyui_microworld, torch
from compinv_core.__main__ import main
torch.set_num_threads(1)
sys.exit(main())
"""

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
"""Starts two processes, as `accelerate launch` does on two GPUs; on a CPU it starts one, whatever it is told."""


@pytest.fixture
def place(base: Path, comfyui: Path, tmp_path: Path) -> Path:
    """A folder with a file of settings for two concepts of the micro world."""
    (tmp_path / "train.py").write_text(PROGRAM.format(root=str(ROOT), comfyui=str(comfyui)))
    lines = [f'checkpoint = "{base}/models/checkpoints/microworld.safetensors"', 'output = "words"']
    for name, word in (("mittens", "cat"), ("zippy", "car")):
        lines += [
            "[[concepts]]", f'placeholder = "my-{name}"', f'class_word = "{word}"', f'pictures = "{base}/input/{name}"',
            "resolution = 64", "steps = 12", "batch = 3", "seed = 5",
        ]  # fmt: skip
    (tmp_path / "config.toml").write_text("\n".join(lines))
    return tmp_path


def run(place: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*(launcher or (sys.executable,)), str(place / "train.py"), "train", str(place / "config.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


def words(place: Path) -> dict[str, torch.Tensor]:
    from compinv_core.concept import read_concept

    return {file.stem: read_concept(file).vectors["clip_l"] for file in (place / "words").iterdir()}


def test_two_processes_learn_what_one_does(place: Path):
    done = run(place)
    assert done.returncode == 0, done.stderr
    alone = words(place)
    assert set(alone) == {"my-mittens", "my-zippy"}
    again = run(place)
    assert again.returncode == 0 and "my-mittens: learnt already" in again.stderr
    config = (place / "config.toml").read_text()
    for together, tolerance in (("true", 1e-5), ("false", 0)):
        (place / "config.toml").write_text(
            f"together = {together}\n{config}".replace("seed = 5", "seed = 5\nreplace = true")
        )
        for file in (place / "words").iterdir():
            file.unlink()
        done = run(place, *TWO)
        assert done.returncode == 0, done.stderr
        assert (
            f"2 processes, {'every concept together' if together == 'true' else 'each its own concepts'}" in done.stderr
        )
        both = words(place)
        assert set(both) == set(alone)
        for name, vectors in both.items():
            # Sums in another order, through twelve steps of AdamW.
            assert torch.allclose(vectors, alone[name], rtol=0, atol=tolerance), (together, name)


def test_the_same_command_goes_on_where_it_was(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from compinv_core.host.command_line import ConfigError, train_all

    from compinv_core.training.loop import Task

    config, folder = place / "config.toml", place / "words"
    text = config.read_text()
    assert train_all(config) == []
    undisturbed = words(place)
    for file in folder.iterdir():
        file.unlink()
    backward, begun = Task.backward, list[None]()

    def stopped(*inputs: Any) -> torch.Tensor:
        begun.append(None)
        if len(begun) == 12 + 11:
            raise KeyboardInterrupt
        return backward(*inputs)

    monkeypatch.setattr(Task, "backward", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_all(config)
    assert set(words(place)) == {"my-mittens"}
    config.write_text(text.replace("seed = 5", "seed = 5\nreplace = true"))
    capfd.readouterr()
    assert train_all(config) == []
    said = capfd.readouterr().err
    assert "my-mittens: learnt already" in said and "goes on after step 10" in said and len(begun) == 12 + 11 + 2
    for name, vectors in words(place).items():
        assert torch.equal(vectors, undisturbed[name])
    config.write_text(text.replace("seed = 5", "seed = 6"))
    with pytest.raises(ConfigError, match=r'The embedding "my-mittens\.safetensors" exists already'):
        train_all(config)


def test_a_machine_that_has_nothing_of_a_run_goes_on_with_the_first_ones(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two processes with folders of their own, as on two machines: the first has one word, and most of a run."""
    from compinv_core.host.command_line import train_all

    from compinv_core.training.loop import Task

    config, backward, begun = place / "config.toml", Task.backward, list[None]()
    assert train_all(config) == []
    undisturbed = words(place)
    (place / "words" / "my-zippy.safetensors").unlink()

    def stopped(*inputs: Any) -> torch.Tensor:
        begun.append(None)
        if len(begun) == 11:
            raise KeyboardInterrupt
        return backward(*inputs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Task, "backward", stopped)
        train_all(config)
    other = place / "other"
    other.mkdir()
    (other / "config.toml").write_text(config.read_text())
    program = place / "train.py"
    own = f"""
import os, folder_paths
here = {str(place)!r} + ("/other" if os.environ["RANK"] == "1" else "")
folder_paths.set_user_directory(here + "/user")
sys.argv[-1] = here + "/config.toml"
from comp"""
    program.write_text(program.read_text().replace("\nfrom compinv_core", f"{own}inv_core", 1))
    done = run(place, *TWO)
    assert done.returncode == 0, done.stderr
    assert "my-mittens: learnt already" in done.stderr and "goes on after step 10" in done.stderr
    assert not (other / "words").exists()
    # Sums in another order, through two steps of AdamW.
    assert torch.allclose(words(place)["my-zippy"], undisturbed["my-zippy"], rtol=0, atol=1e-5)


def test_a_concept_that_goes_astray_does_not_stop_the_others(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    from compinv_core.host.command_line import train_all

    optimizer_step, begun = torch.optim.AdamW.step, list[None]()

    def astray(self: Any) -> None:
        begun.append(None)
        optimizer_step(self)
        if len(begun) == 12:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", astray)
    (failure,) = train_all(place / "config.toml")
    assert failure.startswith("my-mittens: Training went astray before step 12")
    assert "after step 10" in failure and str(place / "words" / "my-mittens-unfinished-1.safetensors") in failure
    assert set(words(place)) == {"my-mittens-unfinished-1", "my-zippy"}


def test_a_disk_that_is_full_at_the_end_costs_two_steps(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from test_training import room_on_disk

    from compinv_core.host import command_line

    runs, write_concept = own_folders / "user" / "compositional_inversion" / "runs", command_line.write_concept

    def full(*inputs: Any) -> None:
        with room_on_disk(100):
            write_concept(*inputs)

    config = place / "config.toml"
    config.write_text(config.read_text().rpartition("[[concepts]]")[0])
    with monkeypatch.context() as patched:
        patched.setattr(command_line, "write_concept", full)
        (failure,) = command_line.train_all(config)
    assert "my-mittens.safetensors" in failure and "cannot be written" in failure
    assert not words(place) and len(list(runs.iterdir())) == 1
    command_line.train_all(config)
    assert "goes on after step 10" in capfd.readouterr().err
    assert set(words(place)) == {"my-mittens"} and not list(runs.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[[concepts]]", "[[concepts", "cannot be read as TOML"),
        ("steps = 12", "stepps = 12", 'Concept 1 of ".*" sets "stepps", which means nothing'),
        ('class_word = "cat"', "", "Concept 1 of .* is not whole, it may lack one of class_word"),
        ("steps = 12", 'steps = "many"', "sets \"steps\" to 'many'; a whole number is needed"),
        ("my-zippy", "my-mittens", "names a placeholder twice"),
        ("checkpoint =", "chekpoint =", 'The file of ".*" sets "chekpoint"'),
        ("steps = 12", "anchors = [3]", r"sets \"anchors\" to \[3\]; a list of texts is needed"),
        ("steps = 12", "anchors = 3", r"sets \"anchors\" to 3; a list of texts is needed"),
        ("steps = 12", 'anchors = "cat"', "sets \"anchors\" to 'cat'; a list of texts is needed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(place: Path, pack: Any, old: str, new: str, sentence: str):
    from compinv_core.host.command_line import ConfigError, read_config

    config = place / "config.toml"
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=sentence):
        read_config(config)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('placeholder = "my cat"', 'The placeholder "my cat" cannot be used'),
        ('placeholder = ""', 'The placeholder "" cannot be used'),
        ('placeholder = "../cat"', r'The placeholder "\.\./cat" cannot be used'),
        ('class_word = " "', "class_word is empty; one ordinary word"),
        ("vectors = 0", "vectors is 0; 1 to 16 is allowed"),
        ("vectors = 17", "vectors is 17; 1 to 16 is allowed"),
        ("learning_rate = 0", r"learning_rate is 0; 0\.0001 to 10\.0 is allowed"),
        ("learning_rate = -0.1", r"learning_rate is -0\.1"),
        ("learning_rate = nan", "learning_rate is nan"),
        ("anchor_weight = -0.1", r"anchor_weight is -0\.1; 0\.0 to 1\.0 is allowed"),
        ("anchor_weight = 1.1", r"anchor_weight is 1\.1"),
        ("steps = 0", "steps is 0; 1 to 100000 is allowed"),
        ("batch = 0", "batch is 0; 1 to 64 is allowed"),
        ("seed = -1", "seed is -1"),
        ("resolution = 56", "resolution is 56; 64 to 2048 is allowed"),
        ("resolution = 100", "resolution is 100; a multiple of 8 is needed"),
        ('kind = "thing"', 'kind is "thing"; object, style are allowed'),
        ('noise_levels = "loud"', 'noise_levels is "loud"; even, high, low are allowed'),
    ],
)
def test_values_that_cannot_be_trained_with_are_refused(place: Path, pack: Any, setting: str, sentence: str):
    from compinv_core.host.command_line import ConfigError, read_config

    name = setting.split(" = ")[0]
    concept = {"placeholder": '"my-cat"', "class_word": '"cat"', "pictures": '"pictures"'}
    lines = [f"{key} = {value}" for key, value in concept.items() if key != name]
    config = place / "config.toml"
    config.write_text("\n".join(['checkpoint = "microworld.safetensors"', "[[concepts]]", *lines, setting]))
    with pytest.raises(ConfigError, match=f'Concept 1 of ".*": {sentence}'):
        read_config(config)


@pytest.mark.parametrize("text", ["", '[concepts]\nplaceholder = "my-cat"'])
def test_a_file_without_a_list_of_concepts_is_refused(place: Path, pack: Any, text: str):
    from compinv_core.host.command_line import ConfigError, read_config

    (place / "config.toml").write_text(f'checkpoint = "microworld.safetensors"\n{text}')
    with pytest.raises(ConfigError, match="lists no concept"):
        read_config(place / "config.toml")


def test_pictures_come_with_captions_and_masks_of_their_names(place: Path, microworld: Any):
    from compinv_core.host.command_line import ConfigError, Job, _training
    from PIL import Image

    folder = place / "pictures"
    (folder / "masks").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64), (200, 90, 40)).save(folder / f"{i}.jpg")
        (folder / f"{i}.txt").write_text(f"a {{}} number {i}\n")
        Image.new("L", (64, 64), 255 if i else 128).save(folder / "masks" / f"{i}.png")
    job = Job("captioned", "cat", "pictures", masks="pictures/masks", resolution=64, mirror=False)
    training = _training(*microworld, job, place)
    assert training.prompts.tolist() == [[0], [1]] and training.anchors.words == ("cat",)
    assert training.pictures[..., 3].amax(dim=(1, 2)).tolist() == pytest.approx([128 / 255, 1], abs=1e-3)
    (folder / "masks" / "1.png").unlink()
    with pytest.raises(ConfigError, match=r'holds no mask for "1\.jpg"'):
        _training(*microworld, job, place)
    with pytest.raises(ConfigError, match="holds no picture"):
        _training(*microworld, Job("captioned", "cat", "empty"), place)


def test_a_file_sets_what_the_nodes_do(base: Path, place: Path, microworld: Any):
    from compinv_core.host.command_line import ConfigError, Job, _training

    from compinv_core.concept import Concept, write_concept

    write_concept(Concept("old", {"clip_l": torch.randn(2, 96)}), place / "old.safetensors")
    pictures = str(base / "input" / "mittens")
    job = Job("my-old", "cat", pictures, anchors=["cat", "cup"], resolution=64, start_from="old.safetensors", seed=7)
    training = _training(*microworld, replace(job, learn_weights=True, growing=True), place)
    assert training.anchors.learnt and training.recipe.growing and training.start["clip_l"].shape[0] == 2
    with pytest.raises(ConfigError, match='start_from is "nowhere", neither a file nor a name'):
        _training(*microworld, replace(job, start_from="nowhere"), place)
    paper = _training(*microworld, replace(job, paper=True, start_from="", steps=3), place)
    assert (paper.recipe.steps, paper.recipe.batch, paper.recipe.seed, paper.recipe.reference) == (5000, 8, 7, True)
    assert paper.anchors.words == ("cat",) and paper.start["clip_l"].shape[0] == 3
    assert paper.looks[0] == "a photo of a embedding:my-old cat"


def test_a_checkpoints_layout_predictor_is_trained(place: Path, base: Path):
    from compinv_core.layout.predictor import read_predictor

    program = place / "train.py"
    own = f"import folder_paths\nfolder_paths.models_dir = folder_paths.user_directory = {str(place)!r}\nfrom comp"
    program.write_text(program.read_text().replace("from comp", own, 1))
    settings = ("--resolution", "64", "--steps", "2", "--prompts", "20")
    command = [sys.executable, str(program), "layouts", "--checkpoint", "models/checkpoints/microworld.safetensors"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=500, cwd=base)
    assert done.returncode == 0, done.stderr
    assert "prompt 20/20" in done.stderr and "the default boxes" in done.stderr
    (file,) = (place / "compositional_inversion" / "layout_predictors").iterdir()
    assert str(file) in done.stderr and read_predictor(file, file.stem).provenance.recoveries > 0


def test_a_layout_predictor_that_cannot_be_trained_is_refused(pack: Any):
    from compinv_core.host.command_line import ConfigError, train_layouts

    with pytest.raises(ConfigError, match="neither a file nor a name in ComfyUI's checkpoints folder"):
        train_layouts("nowhere.safetensors", {})
    with pytest.raises(ValueError, match="prompts is 2; 20 to 100000 is allowed"):
        train_layouts("nowhere.safetensors", {"prompts": 2})
