"""The tokenizer of one family beside the config of another: read as it stands, or refused, or warned of."""

import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from encoder_folders import FAMILIES, SENTENCES, encoder_folder

from models.tokenizing import TOKENIZER_FILES
from tasks.data.tokenizers import PLAIN_TOKENS, load_tokenizer
from tasks.errors import UserError

# With whose config a tokenizer of which kind is read: all else would be made into another kind.
READ = {
    **{family: {"bert", "distilbert", "electra"} for family in ("bert", "distilbert", "electra")},
    "modernbert": set(FAMILIES),  # it names its class itself
    "mpnet": {"bert", "distilbert", "electra"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: encoder_folder(family, root / family) for family in FAMILIES}


def beside(tokenizer: Path, config: Path, target: Path) -> Path:
    """The files of a tokenizer beside the config.json of another model."""
    target.mkdir()
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, target / name)
    shutil.copyfile(config / "config.json", target / "config.json")
    return target


@pytest.mark.parametrize(("family", "other"), list(permutations(FAMILIES, 2)))
def test_a_tokenizer_of_another_family_is_read_as_it_stands_or_refused(
    family: str, other: str, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = load_tokenizer(folders[family], PLAIN_TOKENS)
    mixed = beside(folders[family], folders[other], tmp_path / "mixed")
    try:
        read = load_tokenizer(mixed, PLAIN_TOKENS)
    except UserError as error:
        assert "\n" not in str(error) and "fix: " in str(error) and other not in READ.get(family, ())
        return
    both = [[one.encode(text, add_special_tokens=False) for text in SENTENCES] for one in (read, own)]
    assert both[0] == both[1] or "otherwise than its tokenizer.json does" in caplog.text


def test_each_kind_of_refusal_says_what_is_wrong(folders: dict[str, Path], tmp_path: Path) -> None:
    said = {
        (
            "roberta",
            "bert",
        ): "tokenizer.json holds a BPE, of which transformers' BertTokenizer makes a WordPiece; fix: ",
        (
            "xlm-roberta",
            "roberta",
        ): "holds a Unigram, of which transformers' RobertaTokenizer makes a BPE; fix: state the",
        (
            "deberta-v2",
            "bert",
        ): "transformers' BertTokenizer finds no vocabulary in its files; fix: state the model_type",
    }
    for number, ((family, other), says) in enumerate(said.items()):
        mixed = beside(folders[family], folders[other], tmp_path / str(number))
        with pytest.raises(UserError) as refused:
            load_tokenizer(mixed, PLAIN_TOKENS)
        assert says in str(refused.value)
        stated = json.loads((folders[other] / "config.json").read_text()) | {"model_type": family}
        (mixed / "config.json").write_text(json.dumps(stated))
        own = load_tokenizer(folders[family], PLAIN_TOKENS)
        assert load_tokenizer(mixed, PLAIN_TOKENS).encode(SENTENCES[0]) == own.encode(SENTENCES[0]), "the fix works"
