"""Prompts become the recorded token ids, whatever they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.tokenizer import Tokenizer, clean

Golden = dict[str, NDArray[Any]]

START, END = 49406, 49407


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tokenizer"
    Vocabulary.clip().write(path, 77)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


def test_vocabulary_is_clips() -> None:
    tokens = Vocabulary.clip().tokens
    assert len(tokens) == len(set(tokens)) == 49408
    assert (tokens[START], tokens[END]) == ("<|startoftext|>", "<|endoftext|>")


def test_recorded_prompts_give_the_recorded_ids(tokenizer: Tokenizer, golden: Golden) -> None:
    assert len(golden["prompts"]) == 10
    for prompt, expected in zip(golden["prompts"], golden["tokens"], strict=True):
        found = tokenizer(str(prompt))
        assert found.ids.dtype == np.int64
        np.testing.assert_array_equal(found.ids, expected, err_msg=str(prompt))


def test_ids_start_end_and_are_padded_with_zeros(tokenizer: Tokenizer) -> None:
    tokens = tokenizer("a cat")
    assert tokens.ids[:4].tolist() == [START, 320, 2368, END]
    assert not tokens.ids[4:].any()
    assert (tokens.count, tokens.truncated) == (4, False)


def test_an_empty_prompt_is_start_and_end(tokenizer: Tokenizer) -> None:
    assert tokenizer(" \n").ids[:3].tolist() == [START, END, 0]


@pytest.mark.parametrize(("words", "cut"), [(74, False), (75, False), (76, True), (300, True)])
def test_a_long_prompt_is_cut_and_says_so(tokenizer: Tokenizer, words: int, cut: bool) -> None:
    tokens = tokenizer("cat " * words)
    assert (len(tokens.ids), tokens.count, tokens.truncated) == (77, words + 2, cut)
    assert tokens.ids[min(words + 1, 76)] == END
    assert (tokens.ids[1 : min(words + 1, 76)] == 2368).all()


def test_the_length_is_the_text_encoders(folder: Path) -> None:
    tokens = Tokenizer(folder, 5)("a cat a cat")
    assert tokens.ids.tolist() == [START, 320, 2368, 320, END]
    assert tokens.truncated


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  A\tCat \n", "a cat"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("l&#39;Hiver", "l'hiver"),
        ("schÃ¶n", "schön"),
        ("‘quoted’", "'quoted'"),
    ],
)
def test_prompts_are_repaired_as_openclip_does(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


@pytest.mark.parametrize("prompt", ["猫 🐈", "\x00", "e\u0301", "<|endoftext|>", "\u202e"])
def test_any_unicode_has_tokens(tokenizer: Tokenizer, prompt: str) -> None:
    tokens = tokenizer(prompt)
    inner = tokens.ids[1 : tokens.count - 1]
    assert tokens.ids[0] == START
    assert tokens.ids[tokens.count - 1] == END
    # Text that spells a special token is text.
    assert (inner < START).all()


def test_half_a_character_is_a_replacement_character(tokenizer: Tokenizer) -> None:
    np.testing.assert_array_equal(tokenizer("a \ud800 cat").ids, tokenizer("a \ufffd cat").ids)


def test_a_restricted_vocabulary_splits_its_words_alike(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    words = ["a", "red", "circle", "moving", "right", "background", "counterclockwise"]
    small = Vocabulary.clip().restricted_to(words)
    small.write(tmp_path, 20)
    restricted = Tokenizer(tmp_path, 20)
    whole_names, names = Vocabulary.clip().tokens, small.tokens
    assert len(names) < 600
    for word in [*words, " ".join(words)]:
        ids, expected = restricted(word), tokenizer(word)
        assert [names[i] for i in ids.ids[: ids.count]] == [
            whole_names[i] for i in expected.ids[: expected.count]
        ]


def test_a_restricted_vocabulary_spells_other_words(tmp_path: Path) -> None:
    small = Vocabulary.clip().restricted_to(["red"])
    small.write(tmp_path, 77)
    tokens = Tokenizer(tmp_path, 77)("red zebra!")
    spelled = "".join(small.tokens[i] for i in tokens.ids[1 : tokens.count - 1])
    assert spelled == "red</w>zebra</w>!</w>"


def test_words_that_a_small_model_does_not_know_are_found(tmp_path: Path) -> None:
    Vocabulary.clip().restricted_to(["a", "red", "t-rex"]).write(tmp_path, 77)
    tokenizer = Tokenizer(tmp_path, 77)
    assert tokenizer("A RED zebra, a red Löwe's 2 zebra!").unknown == ("zebra", "löwe", "s")
    assert tokenizer("a red, red T-Rex").unknown == ()


def test_a_model_of_all_words_knows_all(tokenizer: Tokenizer) -> None:
    assert tokenizer("xyzzy plugh").unknown == ()


@pytest.mark.parametrize("damage", [b"red \x1b[31m", b"\xff\xfe"])
def test_damaged_words_are_refused(tmp_path: Path, damage: bytes) -> None:
    Vocabulary.clip().restricted_to(["red"]).write(tmp_path, 77)
    (tmp_path / "words.txt").write_bytes(damage)
    with pytest.raises(BundleError, match="export the bundle again"):
        Tokenizer(tmp_path, 77)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    Vocabulary.clip().restricted_to(["red"]).write(tmp_path, 77)
    file = tmp_path / name
    text = file.read_text(encoding="utf-8")
    file.unlink()
    if damage == "cut":
        file.write_text(text[: len(text) - 3 if name == "merges.txt" else 40], encoding="utf-8")
    elif damage == "empty":
        file.write_text("" if name == "vocab.json" else "a b\nc\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"^the tokenizer in .* cannot be read .*again$"):
        Tokenizer(tmp_path)


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(BundleError, match="startoftext"):
        Tokenizer(tmp_path)
