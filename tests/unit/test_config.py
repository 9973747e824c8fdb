"""The file of settings: what is refused before anything is loaded."""

from pathlib import Path

import pytest
from compositional_inversion.compinv_core.cli.config import ConfigError, read_config


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file of settings for two concepts."""
    lines = ['checkpoint = "microworld.safetensors"', 'output = "words"']
    for name, word in (("mittens", "cat"), ("zippy", "car")):
        lines += ["[[concepts]]", f'placeholder = "my-{name}"', f'class_word = "{word}"', f'pictures = "{name}"']
        lines += ["resolution = 64", "steps = 12", "batch = 3", "seed = 5"]
    (tmp_path / "config.toml").write_text("\n".join(lines))
    return tmp_path


def test_what_is_set_is_read_and_the_rest_are_defaults(place: Path):
    config = read_config(place / "config.toml")
    assert [job.placeholder for job in config.concepts] == ["my-mittens", "my-zippy"]
    job = config.concepts[0]
    assert (job.steps, job.batch, job.seed, job.what, job.rank, job.prior) == (12, 3, 5, "word", 16, "DCO")
    assert config.together and not config.jointly and config.output == "words"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[[concepts]]", "[[concepts", "cannot be read as TOML"),
        ("steps = 12", "stepps = 12", 'Concept 1 of ".*" sets the unknown key "stepps"; valid keys: placeholder'),
        ('class_word = "cat"', "", "Concept 1 of .* is incomplete; it may lack one of class_word"),
        ("steps = 12", 'steps = "many"', "sets \"steps\" to 'many'; a whole number is needed"),
        ("my-zippy", "my-mittens", "names a placeholder twice"),
        ("checkpoint =", "chekpoint =", 'The file of ".*" sets the unknown key "chekpoint"'),
        ("steps = 12", "anchors = [3]", r"sets \"anchors\" to \[3\]; a list of texts is needed"),
        ("steps = 12", "anchors = 3", r"sets \"anchors\" to 3; a list of texts is needed"),
        ("steps = 12", 'anchors = "cat"', "sets \"anchors\" to 'cat'; a list of texts is needed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(place: Path, old: str, new: str, sentence: str):
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
        (
            'what = "everything"',
            'what is "everything"; word, attributes, keys and values, attention, whole UNet are allowed',
        ),
        ('prior = "some"', 'prior is "some"; none, DCO, class images are allowed'),
        ('noise_levels = "loud"', 'noise_levels is "loud"; even, high, low are allowed'),
        ('optimizer = "SGD"', 'optimizer is "SGD"; AdamW, sphere are allowed'),
    ],
)
def test_values_that_cannot_be_trained_with_are_refused(place: Path, setting: str, sentence: str):
    name = setting.split(" = ")[0]
    concept = {"placeholder": '"my-cat"', "class_word": '"cat"', "pictures": '"pictures"'}
    lines = [f"{key} = {value}" for key, value in concept.items() if key != name]
    config = place / "config.toml"
    config.write_text("\n".join(['checkpoint = "microworld.safetensors"', "[[concepts]]", *lines, setting]))
    with pytest.raises(ConfigError, match=f'Concept 1 of ".*": {sentence}'):
        read_config(config)


@pytest.mark.parametrize("text", ["", '[concepts]\nplaceholder = "my-cat"', "concepts = [[]]", "concepts = [1]"])
def test_a_file_without_a_list_of_concepts_is_refused(place: Path, text: str):
    (place / "config.toml").write_text(f'checkpoint = "microworld.safetensors"\n{text}')
    with pytest.raises(ConfigError, match="lists no concept"):
        read_config(place / "config.toml")


def test_a_byte_order_mark_is_no_part_of_the_file(place: Path):
    config = place / "config.toml"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert len(read_config(config).concepts) == 2


@pytest.mark.parametrize(
    "line", ["a = " + "[" * 50_000, f"{'x' * 5000} = 1", f'kind = "{"x" * 5000}"', f"seed = {'9' * 4000}"]
)
def test_sentences_about_long_or_deep_texts_are_short(place: Path, line: str):
    config = place / "config.toml"
    config.write_text(config.read_text().replace("seed = 5", line, 1))
    with pytest.raises(ConfigError) as raised:
        read_config(config)
    said = str(raised.value).replace(str(config), "").partition("valid keys")[0]
    assert len(said) <= 300 and "\n" not in said
