"""A concept in a CLIP, the columns of words, and the encoding that training differentiates."""

import copy

import pytest
import torch

PROMPT = "a photo of embedding:my-cat, on the (red:1.2) grass"


def text_encoder():
    from compositional_inversion.compinv_core.host import text_encoder

    return text_encoder


def text_gradient():
    from compositional_inversion.compinv_core.host import text_gradient

    return text_gradient


def same(a, b) -> bool:
    return torch.equal(a[0][0], b[0][0]) and torch.equal(a[0][1]["pooled_output"], b[0][1]["pooled_output"])


def test_the_file_means_the_same_bit_for_bit_as_the_wire(clip, concept_for, embeddings):
    from compositional_inversion.compinv_core.concept import read_concept, write_concept

    concept = concept_for(clip, "by-file")
    path = embeddings / "by-file.safetensors"
    write_concept(concept, path, replace=True)
    for text in (
        "a photo of embedding:by-file, on grass",
        "(embedding:by-file:1.3)\nand a dog",
        "x embedding:by-file,",
    ):
        on_wire = text_encoder().encode(text_encoder().with_concept(clip, concept), text)
        assert same(text_encoder().encode(clip, text), on_wire)
    assert all(torch.equal(read_concept(path).vectors[key], concept.vectors[key]) for key in concept.vectors)
    path.unlink()


@pytest.mark.parametrize("told", [[], ["my-cat,"]])
def test_the_look_up_answers_as_the_hosts_own_does(told):
    """ComfyUI after 0.8 says the name, too."""
    vectors = torch.rand(2, 8)
    find = text_encoder()._finder(lambda _: (None, *told, ", on grass"), "my-cat", vectors)
    assert find("my-cat, on grass") == (vectors, *told, ", on grass")
    find = text_encoder()._finder(lambda _: (None, *told, ", on grass"), "my-dog", vectors)
    assert find("my-cat, on grass") == (None, *told, ", on grass")


def test_applying_a_concept_changes_nothing_else(clip, concept_for):
    before = text_encoder().encode(clip, "a photo of a cat")
    tokenizer = copy.copy(vars(clip.tokenizer))
    applied = text_encoder().with_concept(clip, concept_for(clip))
    assert same(text_encoder().encode(applied, "a photo of a cat"), before)
    assert vars(clip.tokenizer) == tokenizer
    assert not text_encoder().known_concepts(clip)


def test_concepts_are_chained_and_outlive_the_clones_that_stock_nodes_make(clip, concept_for):
    applied = text_encoder().with_concept(clip, concept_for(clip, "one"))
    applied = text_encoder().with_concept(applied, concept_for(clip, "two", 3)).clone()
    assert list(text_encoder().known_concepts(applied)) == ["one", "two"]
    assert find_columns(applied, "embedding:one and embedding:two", "embedding:two") == (4, 5, 6)


def find_columns(clip, text, phrase):
    return text_encoder().columns_between(clip, text, *text_encoder().find_phrase(text, phrase))


@pytest.mark.parametrize(
    ("text", "phrase", "columns"),
    [
        ("a car", "car", (2,)),
        ("a carpet and a car", "car", (5,)),
        ("a (red car:1.3) and a dog", "red car", (2, 3)),
        ("a (red car:1.3) and a dog", "dog", (6,)),
        ("(a ((car))) and a dog", "dog", (5,)),
        ("a photo of embedding:my-cat, a dog", "embedding:my-cat", (4, 5)),
        ("a photo of embedding:my-cat, a dog", "dog", (8,)),
        ("(embedding:my-cat:1.4) dog", "dog", (3,)),
        ("a\nembedding:my-cat dog", "embedding:my-cat dog", (2, 3, 4)),
        ("word " * 80 + "car", "car", (77 + 6,)),
        ("a red boat and a Red boat", "Red boat", (6, 7)),
        ("a Red boat", "red boat", (2, 3)),
        ("a red  boat", "red boat", (2, 3)),
        ("a red\nboat", "red boat", (2, 3)),
        ("a red boat", "red  boat", (2, 3)),
        ("a (red:1.2) boat", "red boat", (2, 3)),
        ("a ((big red:1.2) boat) and a dog", "red boat", (3, 4)),
        ("a red boat and a dog", "(red:1.2) boat", (2, 3)),
        ("a embedding:my-cat and a dog", "my-cat", (2, 3)),
        ("a embedding:my-cat and a dog", "My-Cat", (2, 3)),
        ("a (embedding:my-cat:1.2) dog", "my-cat dog", (2, 3, 4)),
        ("my-cat and embedding:my-cat", "my-cat", (1, 2, 3)),
    ],
)
def test_columns(clip, concept_for, text, phrase, columns):
    applied = text_encoder().with_concept(clip, concept_for(clip))
    assert find_columns(applied, text, phrase) == columns
    assert columns[-1] < text_encoder().encode(applied, text)[0][0].shape[1]


@pytest.mark.parametrize(
    ("text", "phrases", "columns"),
    [
        ("a photo of a photo", ["photo"], [(5,)]),
        ("a photo of a photo and a car", ["photo", "car"], [(5,), (8,)]),
        ("a photo of a cat and a photo", ["cat", "photo"], [(5,), (8,)]),
        ("a photo of a embedding:my-cat and a cat", ["embedding:my-cat", "cat"], [(5, 6), (9,)]),
    ],
)
def test_columns_of_what_is_asked_for_are_not_those_of_the_words_around_it(clip, concept_for, text, phrases, columns):
    assert (
        text_encoder().columns_in_turn(text_encoder().with_concept(clip, concept_for(clip)), text, phrases) == columns
    )


@pytest.mark.parametrize(
    ("text", "phrase", "message"),
    [
        ("a photo of a car", "dog", 'The subject "dog" is not in the prompt'),
        ("a supercar", "car", "is not in the prompt"),
        ("word " * 74 + "teddy bear", "teddy bear", "cut in two by the end of a chunk of 77 tokens"),
        ("a dog,embedding:my-cat", "embedding:my-cat", "is not read as such"),
        ("a dog embedding:nobody", "embedding:nobody", "has no tokens of its own"),
        (
            "a dog, my-cat",
            "embedding:my-cat",
            'has "my-cat" as an ordinary word; for the concept, write embedding:my-cat',
        ),
        ("a embedding: my-cat", "my-cat", "within the name of an embedding"),
        ("a supercar", "Car", "is not in the prompt"),
        ("embedding:my-cat-2", "my-cat", "is not in the prompt"),
        ("a car", "()", "is not in the prompt"),
    ],
)
def test_a_subject_that_the_prompt_lacks_or_cuts_is_refused(sd1, concept_for, text, phrase, message):
    with pytest.raises(ValueError, match=message):
        applied = text_encoder().with_concept(sd1, concept_for(sd1))
        find_columns(applied, text, phrase)


def test_a_word_is_found_in_a_language_without_spaces():
    found = text_encoder().find_phrase("一只猫和car", "猫")
    assert found == (2, 3)
    assert text_encoder().find_phrase("一只猫和car", "car") == (4, 7)
    with pytest.raises(ValueError, match="is not in the prompt"):
        text_encoder().find_phrase("一只supercar", "car")


def test_a_subject_that_no_chunk_holds_is_not_sent_to_another_place(sd1, concept_for):
    encoder = text_encoder()
    for count, place, sentence in (
        (76, "", "has 76 tokens, and a chunk of the prompt holds 75"),
        (75, "a ", "move it"),
    ):
        applied = encoder.with_concept(sd1, concept_for(sd1, "long", count))
        with pytest.raises(ValueError, match=sentence):
            find_columns(applied, f"{place}embedding:long", "embedding:long")
    assert find_columns(applied, "embedding:long", "embedding:long") == tuple(range(1, 76))


@pytest.mark.parametrize("layer", [None, -1, -2])
def test_the_differentiable_encoding_is_the_stock_encoding(clip, concept_for, layer):
    from compositional_inversion.compinv_core.host.model import frozen_weights

    encoder = text_encoder()
    concept = concept_for(clip)
    prompts = ["a photo of a embedding:my-cat", "embedding:my-cat", "a rendering of the embedding:my-cat, on grass"]
    skipping = clip.clone()
    skipping.clip_layer(layer)
    applied = encoder.with_concept(skipping, concept)
    stock = [encoder.encode(applied, prompt) for prompt in prompts]
    encoders = encoder.text_encoders(clip)
    prepared = text_gradient().prepare(skipping, [(prompt, "my-cat") for prompt in prompts], {"my-cat": 2})
    with torch.inference_mode(False), frozen_weights(*encoders.values()), text_gradient().differentiable(skipping):
        for i, reference in enumerate(stock):
            encoded = text_gradient().encode_prepared(skipping, prepared, [i], {"my-cat": concept.vectors})
            assert torch.equal(encoded.context, reference[0][0])
            assert torch.equal(encoded.pooled, reference[0][1]["pooled_output"])
        cond = text_gradient().encode_prepared(skipping, prepared, [2, 0, 1, 0], {"my-cat": concept.vectors}).context
        together = torch.cat([stock[i][0][0] for i in (2, 0, 1, 0)])
        torch.testing.assert_close(cond, together, rtol=1e-5, atol=1e-5)  # a batch may round its products otherwise


def test_a_concept_of_two_text_encoders_is_not_for_a_model_of_one(sd1, sdxl, concept_for):
    both = concept_for(sdxl)
    with pytest.raises(ValueError, match=r"is for another family of models.*clip_l: 48, clip_g: 64.*needs clip_l: 48"):
        text_encoder().with_concept(sd1, both)


def test_the_refiner_takes_the_concepts_of_sdxl(refiner, sdxl, concept_for):
    applied = text_encoder().with_concept(refiner, concept_for(sdxl))
    assert text_encoder().encode(applied, "a embedding:my-cat")


def test_another_embedding_in_a_prompt_stays_what_it_is(clip, concept_for):
    from compositional_inversion.compinv_core.host.model import frozen_weights

    encoder = text_encoder()
    known = encoder.with_concept(clip, concept_for(clip, "their-dog", 3))
    concept, encoders = concept_for(clip), encoder.text_encoders(clip)
    prompt = "a embedding:their-dog beside a embedding:my-cat"
    stock = encoder.encode(encoder.with_concept(known, concept), prompt)[0][0]
    asked, counts = [(prompt, "my-cat"), ("a embedding:my-cat", "my-cat")], {"my-cat": 2}
    prepared = text_gradient().prepare(known, asked, counts)
    with torch.inference_mode(False), frozen_weights(*encoders.values()), text_gradient().differentiable(known):
        assert torch.equal(
            text_gradient().encode_prepared(known, prepared, [0], {"my-cat": concept.vectors}).context, stock
        )
    for wrong in ("a embedding:my-cat.", "a cat", "embedding:my-cat and embedding:my-cat"):
        with pytest.raises(ValueError, match=f'The prompt "{wrong}" must hold "embedding:my-cat" once'):
            text_gradient().prepare(known, [("a embedding:my-cat", "my-cat"), (wrong, "my-cat")], counts)


def test_two_placeholders_in_prompts_of_their_own_are_each_written_where_they_go(clip, concept_for):
    """One of two vectors, one of three, in one batch."""
    from compositional_inversion.compinv_core.host.model import frozen_weights

    encoder = text_encoder()
    one, two, encoders = concept_for(clip, "one", 2), concept_for(clip, "two", 3), encoder.text_encoders(clip)
    prompts = [("a photo of a embedding:one", "one"), ("embedding:two on grass", "two"), ("the embedding:one", "one")]
    applied = encoder.with_concept(encoder.with_concept(clip, one), two)
    stock = torch.cat([encoder.encode(applied, prompt)[0][0] for prompt, _ in prompts])
    prepared = text_gradient().prepare(clip, prompts, {"one": 2, "two": 3})
    assert prepared.placeholders == ("one", "two", "one")
    words = {"one": one.vectors, "two": two.vectors}
    with torch.inference_mode(False), frozen_weights(*encoders.values()), text_gradient().differentiable(clip):
        for i in range(3):
            assert torch.equal(text_gradient().encode_prepared(clip, prepared, [i], words).context, stock[i : i + 1])
        together = text_gradient().encode_prepared(clip, prepared, [2, 1, 0], words).context
        torch.testing.assert_close(together, stock[[2, 1, 0]], rtol=1e-5, atol=1e-5)


def test_the_gradient_reaches_the_vectors_and_only_them(clip, concept_for):
    from compositional_inversion.compinv_core.host.model import frozen_weights

    encoder = text_encoder()
    encoders = encoder.text_encoders(clip)
    before = encoder.encode(clip, "a photo of a cat")
    with torch.inference_mode():  # as every node runs
        prepared = text_gradient().prepare(clip, [("a photo of a embedding:my-cat", "my-cat")], {"my-cat": 2})
        with torch.inference_mode(False), torch.enable_grad():
            vectors = {k: v.double().float().requires_grad_() for k, v in concept_for(clip).vectors.items()}
            with frozen_weights(*encoders.values()), text_gradient().differentiable(clip):

                def loss(vectors) -> torch.Tensor:
                    cond = text_gradient().encode_prepared(clip, prepared, [0, 0], {"my-cat": vectors}).context
                    return (cond * torch.linspace(-1, 1, cond[0].numel()).reshape(cond[0].shape)).sum()

                gradients = torch.autograd.grad(loss(vectors), list(vectors.values()))
                for (key, vector), gradient in zip(vectors.items(), gradients, strict=True):
                    step = gradient / gradient.norm() * 1e-2
                    up, down = (loss({**vectors, key: (vector + sign * step).detach()}) for sign in (1, -1))
                    slope = (up - down) / 2e-2
                    torch.testing.assert_close(slope, gradient.norm(), rtol=2e-2, atol=0)  # differences in float32
    assert all(weight.is_inference() for weight in clip.cond_stage_model.parameters())
    assert all("forward" not in vars(layer) for e in encoders.values() for layer in e.modules())
    assert same(encoder.encode(clip, "a photo of a cat"), before)


def test_differentiable_is_undone_after_an_error(sd1):
    with pytest.raises(KeyError), text_gradient().differentiable(sd1):
        raise KeyError
    assert all("forward" not in vars(layer) for layer in sd1.cond_stage_model.modules())


def test_a_concept_of_another_family_is_refused(sd1, sd2, sdxl, concept_for):
    for clip, other in ((sd1, sd2), (sd2, sd1), (sdxl, sd1)):
        with pytest.raises(ValueError, match="is for another family of models"):
            text_encoder().with_concept(clip, concept_for(other))


def test_a_text_encoder_that_is_not_supported_is_refused(sd1):
    from comfy.text_encoders.sd3_clip import SD3ClipModel, SD3Tokenizer

    stranger = sd1.clone()
    stranger.tokenizer = copy.copy(sd1.tokenizer)
    stranger.tokenizer.t5xxl = object()
    with pytest.raises(ValueError, match=r"SD 1\.x, SD 2\.x and SDXL are supported"):
        text_encoder().text_encoders(stranger)
    assert SD3ClipModel and "t5xxl" in SD3Tokenizer.__init__.__code__.co_names  # what the test imitates


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat", "is an ordinary word"),
        ("Cat", "is an ordinary word"),
        ("my cat", "without spaces"),
        ("../cat", "without spaces or folders"),
        ("", "cannot be used"),
        ("applied", "ordinary word|already an embedding"),
        ("one-more", "already an embedding"),
    ],
)
def test_a_placeholder_that_cannot_be_learnt_is_refused(sd1, concept_for, name, message):
    applied = text_encoder().with_concept(sd1, concept_for(sd1, "one-more"))
    with pytest.raises(ValueError, match=message):
        text_encoder().check_new_placeholder(applied, name)


def test_somebody_elses_embedding_is_not_overwritten_by_a_placeholder(sd1, embeddings):
    path = embeddings / "bought-cat.pt"
    torch.save({"string_to_param": {"*": torch.zeros(1, 48)}}, path)
    with pytest.raises(ValueError, match="already an embedding"):
        text_encoder().check_new_placeholder(sd1, "bought-cat")
    path.unlink()


def test_the_vocabulary_is_the_words_known_whole(clip):
    for key in text_encoder().text_encoders(clip):
        words = text_encoder().vocabulary(clip, key)
        assert "cat" in words and "qwxzy" not in words
        assert not words.vectors.is_inference() and words.vectors.dtype == torch.float32
        row = clip.tokenize("cat")[key.removeprefix("clip_")][0][1][0]
        table = text_encoder().text_encoders(clip)[key].transformer.get_input_embeddings().weight
        assert torch.equal(words.vector("cat"), table[row])
        with pytest.raises(ValueError, match="umbrella"):
            words.vector("umbrela")
