"""`python -m compinv_core`: from a file to embeddings, in one process and in two; from a checkpoint to its layout predictor."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
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
"""Starts two processes, as `accelerate launch` does on two GPUs; on a CPU it starts one, whatever is asked."""


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
    from compositional_inversion.compinv_core.concept import read_concept

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
    from compositional_inversion.compinv_core.cli.config import ConfigError
    from compositional_inversion.compinv_core.cli.train import train_all
    from compositional_inversion.compinv_core.training.task import Task

    config, folder = place / "config.toml", place / "words"
    text = config.read_text()
    assert train_all(config) == []
    undisturbed = words(place)
    for file in folder.iterdir():
        file.unlink()
    backward, begun = Task.backward, list[None]()

    def stopped(*inputs: Any, **named: Any) -> Any:
        begun.append(None)
        if len(begun) == 12 + 11:
            raise KeyboardInterrupt
        return backward(*inputs, **named)

    monkeypatch.setattr(Task, "backward", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_all(config)
    assert set(words(place)) == {"my-mittens"}
    config.write_text(text.replace("seed = 5", "seed = 5\nreplace = true"))
    capfd.readouterr()
    assert train_all(config) == []
    said = capfd.readouterr().err
    assert "my-mittens: learnt already" in said and "resumes after step 10" in said and len(begun) == 12 + 11 + 2
    for name, vectors in words(place).items():
        assert torch.equal(vectors, undisturbed[name])
    config.write_text(text.replace("seed = 5", "seed = 6"))
    with pytest.raises(ConfigError, match=r'The embedding "my-mittens\.safetensors" exists already'):
        train_all(config)


def test_a_file_that_came_to_be_while_it_trained_is_not_written_over_and_nothing_is_lost(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """As of another training of the same placeholder. What a kill before the clean-up leaves goes with the next command."""
    from compositional_inversion.compinv_core.cli.train import train_all
    from compositional_inversion.compinv_core.concept import read_concept
    from compositional_inversion.compinv_core.training.task import Task

    config, folder = place / "config.toml", place / "words"
    config.write_text("[[concepts]]".join(config.read_text().split("[[concepts]]")[:2]))
    folder.mkdir()
    theirs, backward = folder / "my-mittens.safetensors", Task.backward

    def meanwhile(*inputs: Any, **named: Any) -> Any:
        theirs.write_text("somebody's")
        return backward(*inputs, **named)

    monkeypatch.setattr(Task, "backward", meanwhile)
    (said,) = train_all(config)
    own = folder / "my-mittens-1.safetensors"
    assert said == f"my-mittens: my-mittens.safetensors came to be while this trained, so it is in {own}."
    assert theirs.read_text() == "somebody's" and read_concept(own).class_word == "cat"
    own.replace(theirs)
    runs = own_folders / "user" / "compositional_inversion" / "runs"
    left = runs / f"{read_concept(theirs).provenance['run']}.pt"
    runs.mkdir(parents=True, exist_ok=True)
    left.touch()
    assert train_all(config) == [] and not left.exists()


def test_a_machine_that_has_nothing_of_a_run_goes_on_with_the_first_ones(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two processes with folders of their own, as on two machines: the first has one word, and most of a run."""
    from compositional_inversion.compinv_core.cli.train import train_all
    from compositional_inversion.compinv_core.training.task import Task

    config, backward, begun = place / "config.toml", Task.backward, list[None]()
    assert train_all(config) == []
    undisturbed = words(place)
    (place / "words" / "my-zippy.safetensors").unlink()

    def stopped(*inputs: Any, **named: Any) -> Any:
        begun.append(None)
        if len(begun) == 11:
            raise KeyboardInterrupt
        return backward(*inputs, **named)

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
    assert "my-mittens: learnt already" in done.stderr and "resumes after step 10" in done.stderr
    assert not (other / "words").exists()
    # Sums in another order, through two steps of AdamW.
    assert torch.allclose(words(place)["my-zippy"], undisturbed["my-zippy"], rtol=0, atol=1e-5)


def test_a_concept_that_diverges_does_not_stop_the_others(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    from compositional_inversion.compinv_core.cli.train import train_all

    optimizer_step, begun = torch.optim.AdamW.step, list[None]()

    def diverging(self: Any) -> None:
        begun.append(None)
        optimizer_step(self)
        if len(begun) == 12:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", diverging)
    (failure,) = train_all(place / "config.toml")
    assert failure.startswith("my-mittens: Training diverged before step 12")
    assert "after step 10" in failure and str(place / "words" / "my-mittens-unfinished-1.safetensors") in failure
    assert set(words(place)) == {"my-mittens-unfinished-1", "my-zippy"}


def test_a_disk_that_is_full_at_the_end_costs_two_steps(
    place: Path, pack: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from compositional_inversion.compinv_core.cli import train
    from test_training import room_on_disk

    runs, write_concept = own_folders / "user" / "compositional_inversion" / "runs", train.write_concept

    def full(*inputs: Any, **settings: Any) -> None:
        with room_on_disk(100):
            write_concept(*inputs, **settings)

    config = place / "config.toml"
    config.write_text(config.read_text().rpartition("[[concepts]]")[0])
    with monkeypatch.context() as patched:
        patched.setattr(train, "write_concept", full)
        (failure,) = train.train_all(config)
    assert "my-mittens.safetensors" in failure and "cannot be written" in failure
    assert not words(place) and len(list(runs.iterdir())) == 1
    train.train_all(config)
    assert "resumes after step 10" in capfd.readouterr().err
    assert set(words(place)) == {"my-mittens"} and not list(runs.iterdir())


def trainings_of(place: Path, base: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[Any]:
    """What a file of one concept would learn."""
    from compositional_inversion.compinv_core.cli.train import train_all
    from compositional_inversion.compinv_core.training.concept_training import ConceptTraining

    begun: list[Any] = []

    def begin(self: Any, *_: Any) -> None:
        begun.append(self)
        raise FloatingPointError

    monkeypatch.setattr(ConceptTraining, "run", begin)
    checkpoint = f'checkpoint = "{base}/models/checkpoints/microworld.safetensors"'
    (place / "config.toml").write_text("\n".join([checkpoint, "[[concepts]]", "resolution = 64", *lines]))
    train_all(place / "config.toml")
    return begun


def test_pictures_come_with_captions_and_masks_of_their_names(
    place: Path, base: Path, pack: Any, monkeypatch: pytest.MonkeyPatch
):
    from compositional_inversion.compinv_core.cli.config import ConfigError
    from PIL import Image

    folder = place / "pictures"
    (folder / "masks").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64), (200, 90, 40)).save(folder / f"{i}.jpg")
        (folder / f"{i}.txt").write_text(f"a {{}} number {i}\n")
        Image.new("L", (64, 64), 255 if i else 128).save(folder / "masks" / f"{i}.png")
    named = ('placeholder = "captioned"', 'class_word = "cat"', "mirror = false")
    whole = (*named, 'pictures = "pictures"', 'masks = "pictures/masks"')
    (training,) = trainings_of(place, base, monkeypatch, *whole)
    (examples,), (word,) = training.examples, training.words
    assert examples.fitting.tolist() == [[0], [1]] and word.anchors.words == ("cat",)
    assert examples.images[..., 3].amax(dim=(1, 2)).tolist() == pytest.approx([128 / 255, 1], abs=1e-3)
    (folder / "masks" / "1.png").unlink()
    with pytest.raises(ConfigError, match=r'holds no mask for "1\.jpg"'):
        trainings_of(place, base, monkeypatch, *whole)
    with pytest.raises(ConfigError, match="holds no image"):
        trainings_of(place, base, monkeypatch, *named, 'pictures = "empty"')


def test_a_file_sets_what_the_nodes_do(place: Path, base: Path, pack: Any, monkeypatch: pytest.MonkeyPatch):
    from compositional_inversion.compinv_core.cli.config import ConfigError
    from compositional_inversion.compinv_core.concept import Concept, write_concept

    write_concept(Concept("old", {"clip_l": torch.randn(2, 96)}), place / "old.safetensors")
    named = ('placeholder = "my-old"', 'class_word = "cat"', f'pictures = "{base}/input/mittens"', "seed = 7")
    words = 'anchors = ["cat", "cup"]'
    begun = ('start_from = "old.safetensors"', "learn_weights = true", "growing = true", 'optimizer = "sphere"')
    (training,) = trainings_of(place, base, monkeypatch, *named, words, *begun)
    (word,) = training.words
    assert word.anchors.learnt and training.recipe.anchor_schedule == "growing" and word.start["clip_l"].shape[0] == 2
    assert training.recipe.optimizer == "sphere"
    with pytest.raises(ConfigError, match='start_from is "nowhere", neither a file nor a name'):
        trainings_of(place, base, monkeypatch, *named, 'start_from = "nowhere"')
    (paper,) = trainings_of(place, base, monkeypatch, *named, words, "paper = true", "steps = 3")
    assert (paper.recipe.steps, paper.recipe.batch, paper.recipe.seed) == (5000, 8, 7)
    assert paper.words[0].anchors.words == ("cat",) and paper.words[0].start["clip_l"].shape[0] == 3
    assert paper.examples[0].prompts[0] == "a photo of a embedding:my-old cat"


TUNED, PARTED = {"what": "attention"}, {"what": "attributes"}
ARRIVES: dict[str, tuple[Any, dict[str, Any], Callable[[Any], Any], Any]] = {
    "placeholder": ("other", {}, lambda t: t.requests[0].name, "other"),
    "class_word": ("car", {}, lambda t: (t.requests[0].class_word, t.words[0].anchors.words), ("car", ("car",))),
    "pictures": ("two", {}, lambda t: len(t.requests[0].images), 2),
    "masks": ("masks", {"pictures": "two"}, lambda t: [m.shape[0] for m in t.requests[0].masks], [1, 1]),
    "anchors": (["cup"], {}, lambda t: t.words[0].anchors.words, ("cup",)),
    "learn_weights": (True, {}, lambda t: t.words[0].anchors.learnt, True),
    "growing": (True, {}, lambda t: t.recipe.anchor_schedule, "growing"),
    "start_from": ("old.safetensors", {}, lambda t: len(t.words[0].start["clip_l"]), 5),
    "paper": (True, {}, lambda t: t.recipe.steps, 5000),
    "resolution": (128, {}, lambda t: t.requests[0].resolution, 128),
    "steps": (7, {}, lambda t: t.recipe.steps, 7),
    "batch": (2, {}, lambda t: t.recipe.batch, 2),
    "vectors": (2, {}, lambda t: len(t.words[0].start["clip_l"]), 2),
    "learning_rate": (0.03, {}, lambda t: t.recipe.learning_rate, 0.03),
    "anchor_weight": (0.3, {}, lambda t: (t.recipe.anchor_weight, t.recipe.reconstruction_weight), (0.3, 0.7)),
    "kind": ("style", {}, lambda t: t.requests[0].kind, "style"),
    "mirror": (False, {}, lambda t: t.requests[0].mirror, False),
    "ignore_background": (False, {}, lambda t: t.requests[0].ignore_background, False),
    "rescale": (True, {}, lambda t: t.requests[0].rescale, True),
    "noise_levels": ("high", {}, lambda t: t.recipe.noise_levels, "high"),
    "prompts": (["a {} here"], {}, lambda t: t.examples[0].prompts, ["a embedding:mine here"]),
    "seed": (3, {}, lambda t: t.recipe.seed, 3),
    "what": ("attention", {}, lambda t: t.fine_tune and t.fine_tune.what, "attention"),
    "rank": (4, TUNED, lambda t: t.fine_tune.rank, 4),
    "weights_learning_rate": (0.2, TUNED, lambda t: t.recipe.weights_learning_rate, 0.2),
    "prior": ("none", TUNED, lambda t: t.fine_tune.prior, "none"),
    "prior_images": ("two", {**TUNED, "prior": "class images"}, lambda t: t.fine_tune.prior_images is not None, True),
    "prior_count": (9, TUNED, lambda t: t.fine_tune.prior_count, 9),
    "prior_weight": (0.4, TUNED, lambda t: t.fine_tune.prior_weight, 0.4),
    "anchor_loss": ("text features", {}, lambda t: t.recipe.anchor_loss, "text features"),
    "optimizer": ("sphere", {}, lambda t: t.recipe.optimizer, "sphere"),
    "attributes": ("per layer (P+)", PARTED, lambda t: t.asked.kind, "per layer (P+)"),
    "table": ("colour: fine\nobject: coarse", PARTED, lambda t: str(t.cells), "colour: fine\nobject: coarse"),
    "colour_words": ("blue, red", PARTED, lambda t: t.words[0].anchors.words, ("blue", "red")),
    "style_word": ("striped", PARTED, lambda t: t.words[1].class_word, "striped"),
    "colour_style_loss": (False, PARTED, lambda t: t.attributes.colour_style, False),
    "object_loss": (False, PARTED, lambda t: t.attributes.object_class, False),
}  # fmt: skip
"""By key: a value that is not its default, what must be set as well, where it arrives in the training, and as what."""


def test_every_key_of_the_file_arrives_in_the_training(base: Path, tmp_path: Path, microworld: Any):
    from compositional_inversion.compinv_core.cli.config import Job
    from compositional_inversion.compinv_core.cli.train import _training
    from compositional_inversion.compinv_core.concept import Concept, write_concept

    assert {*ARRIVES, "replace"} == {field.name for field in fields(Job)}  # which is of the file that is written
    pictures = sorted((base / "input" / "mittens").glob("*.*"))[:2]
    for folder in ("two", "masks"):
        (tmp_path / folder).mkdir()
        for picture in pictures:
            shutil.copy(picture, tmp_path / folder)
    write_concept(Concept("old", {"clip_l": torch.randn(5, 96)}), tmp_path / "old.safetensors")
    plain = {"placeholder": "mine", "class_word": "cat", "pictures": str(base / "input" / "mittens"), "resolution": 64}
    plain |= {"style_word": "plain"}  # the micro world has no "style"
    for key, (value, besides, where, right) in ARRIVES.items():
        jobs = [Job(**{**plain, **besides, **changed}) for changed in ({}, {key: value})]
        before, after = (where(_training(microworld, [job], tmp_path)) for job in jobs)
        assert after == (pytest.approx(right) if key == "anchor_weight" else right), key
        assert before != after, key


def test_words_and_a_change_of_the_model_are_learnt_together_and_written_beside_each_other(
    place: Path, pack: Any, microworld: Any, own_folders: Path
):
    """Custom Diffusion of two concepts: two embeddings, and one LoRA file that the stock loader loads."""
    from compositional_inversion.compinv_core.cli.train import train_all
    from safetensors.torch import load_file

    import nodes

    config = place / "config.toml"
    settings = 'seed = 5\nwhat = "keys and values"\nrank = 2\nprior = "none"'
    text = config.read_text().replace("seed = 5", settings)
    config.write_text(f"jointly = true\n{text}")
    assert train_all(config) == []
    assert {file.stem for file in (place / "words").iterdir()} == {
        "my-mittens",
        "my-zippy",
        "my-mittens+my-zippy-adapter",
    }
    lora = load_file(place / "words" / "my-mittens+my-zippy-adapter.safetensors")
    assert all(".lora_" in name or name.endswith(".alpha") for name in lora) and len(lora) % 6 == 0
    import folder_paths

    folder_paths.add_model_folder_path("loras", str(place / "words"))
    model, clip, _ = microworld
    with torch.inference_mode():
        patched, _ = nodes.LoraLoader().load_lora(model, clip, "my-mittens+my-zippy-adapter.safetensors", 1.0, 0.0)
    assert len(patched.patches) == len(lora) // 3


def test_a_checkpoints_layout_predictor_is_trained(place: Path, base: Path):
    from compositional_inversion.compinv_core.layout.predictor import read_predictor

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
    from compositional_inversion.compinv_core.cli.config import ConfigError
    from compositional_inversion.compinv_core.cli.train import train_layouts

    with pytest.raises(ConfigError, match="neither a file nor a name in ComfyUI's checkpoints folder"):
        train_layouts("nowhere.safetensors", {})
    with pytest.raises(ValueError, match="prompts is 2; 20 to 100000 is allowed"):
        train_layouts("nowhere.safetensors", {"prompts": 2})


def test_attributes_are_learnt_from_a_file_as_by_their_node(
    place: Path, base: Path, pack: Any, microworld: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """A key for each input of the node, the same defaults, and the same concept in the end."""
    from compositional_inversion.compinv_core.cli.config import ConfigError, Job, read_config
    from compositional_inversion.compinv_core.cli.train import train_all
    from compositional_inversion.compinv_core.concept import read_concept
    from compositional_inversion.compinv_core.training.picture_folder import read_folder

    config = place / "config.toml"
    own = {
        "placeholder": "my-ember",
        "class_word": "cat",
        "steps": 2,
        "batch": 2,
        "resolution": 64,
        "style_word": "plain",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    head = [config.read_text().splitlines()[0], 'output = "words"', "[[concepts]]", f'pictures = "{base}/input/ember"']
    config.write_text("\n".join([*head, 'what = "attributes"', *lines]))
    kinds = pack.nodes["CompInvTrainAttributes"].INPUT_TYPES()
    inputs = {name: told for part in ("required", "optional") for name, told in kinds[part].items()}
    wired = {name for name, told in inputs.items() if told[0] in ("MODEL", "CLIP", "VAE", "IMAGE", "MASK")}
    assert {*inputs} - wired <= {field.name for field in fields(Job)}
    (job,) = read_config(config).concepts
    usual = {
        n: told.get("default", told.get("options", [None])[0]) for n, (_, told) in inputs.items() if n not in wired
    }
    assert {name: getattr(job, name) for name in usual} == {**usual, **own}
    assert train_all(config) == []
    (made,) = (place / "words").iterdir()
    found = read_concept(made)
    pictures = [picture.pixels for picture in read_folder(base / "input" / "ember").pictures]
    model, clip, vae = microworld
    given = {**usual, **own, "model": model, "clip": clip, "vae": vae}
    (concept, *_) = pack.run(
        "CompInvTrainAttributes", images=pictures, **{name: [value] for name, value in given.items()}
    )
    assert found.cells == concept.cells and [*found.attributes] == ["colour", "style", "object", "layout"]
    for name, vectors in concept.attributes.items():
        assert torch.equal(found.attributes[name]["clip_l"], vectors["clip_l"]), name
    for line, said in (
        ('anchors = ["cat"]', 'sets "anchors", which attributes do not have'),
        ('attributes = "all"', 'attributes is "all"; colour, style, object, layout, per layer'),
    ):
        config.write_text("\n".join([*head, 'what = "attributes"', *lines, line]))
        with pytest.raises(ConfigError, match=said):
            train_all(config)
    config.write_text("\n".join(["jointly = true", *head, 'what = "attributes"', *lines]))
    with pytest.raises(ConfigError, match="sets jointly, but attributes are learnt one concept after the other"):
        train_all(config)
