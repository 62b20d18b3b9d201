"""A published folder in other people's hands: transformers, its pipelines and Trainer, sentence-transformers."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import load_checkpoint, save_checkpoint
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.text_encoder import load_encoder
from tasks.checkpoints.converting import convert_checkpoint
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.checkpoints.folder import SENTENCE_CONFIG, SENTENCE_MODULES
from tasks.checkpoints.publishing import publish_checkpoint
from tasks.data.corpus import train_tokenizer
from tasks.data.tokenizers import tokenizer_fingerprint
from tasks.runs.checkpoint_spec import own_spec
from tasks.spec.experiment import ExperimentSpec, PublishSpec
from tasks.store.files import check_manifest, read_json, write_json
from tasks.store.home import Home
from tests.factories import make_corpus, make_environment, make_pretraining, make_record

POSITIONS = 32
TEXTS = ["the cat sat", "a dog ran far away from here"]
FILLS_MASKS = [name for name, row in VARIANTS.items() if row.objective == "mlm"]
OLD_CONFIG = Path(__file__).parent / "config_before_0.2.json"


def run_id_of(variant: str) -> str:
    return f"{variant}_H32L2C6_20260208_211633"


def make_model(variant: str, **changes: Any) -> ConceptModelForMaskedLM:
    row = VARIANTS[variant]
    torch.manual_seed(len(variant))
    fields = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_concepts": 6,
        "num_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_sequence_length": POSITIONS,
        "decoder_type": row.decoder,
        "head": row.default_head,
        "tie_word_embeddings": row.tied,
        "mask_token_id": 4,
        "variant": variant,
        "run_id": run_id_of(variant),
    }
    return ConceptModelForMaskedLM(ConceptConfig(**fields | changes)).eval()


def write_model(folder: Path, variant: str, tokenizer: Path, spec: ExperimentSpec) -> Path:
    """The folder of a finished pretraining."""
    save_checkpoint(make_model(variant), folder)
    for path in tokenizer.iterdir():
        shutil.copyfile(path, folder / path.name)
    write_json(folder / "experiment.json", {"run_id": run_id_of(variant), "spec": spec.model_dump(mode="json")})
    return folder


def make_spec(variant: str = "perceiver_mlm", place: str = "/home/ada/notes", **sections: Any) -> ExperimentSpec:
    shape = {"hidden_size": 32, "num_layers": 2, "num_concepts": 6, "num_attention_heads": 4, "intermediate_size": 24}
    parts: dict[str, Any] = {
        "name": "test",
        "data": {"dataset": place, "tokenizer": place, "block_tokens": POSITIONS},
        "model": {**shape, "variant": variant},
        "evaluation": {"max_length": POSITIONS},
    }
    return ExperimentSpec.model_validate(parts | sections)


def publish(model: Path, variant: str, spec: ExperimentSpec, home: Home) -> Path:
    record = make_record(run_id=run_id_of(variant), spec=spec.model_dump(mode="json"), scores=[])
    return Path(publish_checkpoint(model, record, PublishSpec(store="local"), home).location)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(["the cat sat on the mat", "a dog ran far away"] * 50), 300, folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> dict[str, Path]:
    """The published folder of every variant."""
    root = tmp_path_factory.mktemp("published")
    folders = {}
    for variant in VARIANTS:
        spec = make_spec(variant)
        model = write_model(root / "models" / variant, variant, tokenizer, spec)
        folders[variant] = publish(model, variant, spec, Home(root / "home"))
    return folders


def load(kind: Any, folder: Path, **options: Any) -> Any:
    return kind.from_pretrained(folder, trust_remote_code=True, **options)


def tokenized(folder: Path, **options: Any) -> Any:
    return load(AutoTokenizer, folder)(TEXTS, padding=True, return_tensors="pt", **options)


# --- loading ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_auto_class_loads_it(published: dict[str, Path], variant: str) -> None:
    folder = published[variant]
    ours, batch = load_checkpoint(folder), tokenized(folder)
    config = load(AutoConfig, folder)
    assert (config.decoder_type, config.run_id) == (VARIANTS[variant].decoder, run_id_of(variant))
    with torch.no_grad():
        expected = ours(**batch)
        assert torch.equal(load(AutoModel, folder)(**batch).concepts, expected.concepts)
        for place in ("cpu", "auto"):
            assert torch.equal(load(AutoModelForMaskedLM, folder, device_map=place)(**batch).logits, expected.logits)
        low = load(AutoModelForMaskedLM, folder, dtype=torch.bfloat16)
        assert low.lm_head.weight.dtype == low.encoder.layers[0].cross_attention.q_proj.weight.dtype == torch.bfloat16
        torch.testing.assert_close(low(**batch).logits.float(), expected.logits, rtol=0.05, atol=0.05)
        classifier = load(AutoModelForSequenceClassification, folder, num_labels=3).eval()
        assert torch.equal(classifier(**batch).concepts, expected.concepts)
        assert classifier(**batch).logits.shape == (2, 3)


def test_its_tokenizer_knows_the_positions_of_the_model(published: dict[str, Path]) -> None:
    folder = published["perceiver_mlm"]
    tokenizer = load(AutoTokenizer, folder)
    assert tokenizer.model_max_length == POSITIONS
    batch = tokenizer([*TEXTS, "a long text " * 40], padding=True, truncation=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"] and batch["input_ids"].shape == (3, POSITIONS)
    assert load(AutoModel, folder)(**batch).concepts.shape == (3, 6, 32)


@pytest.mark.parametrize("variant", ["perceiver_mlm", "diffusion_selfattn"])
def test_saving_what_was_loaded_loses_nothing(published: dict[str, Path], variant: str, tmp_path: Path) -> None:
    folders = [published[variant], tmp_path / "first", tmp_path / "second"]
    for source, target in pairwise(folders):
        load(AutoModelForMaskedLM, source).save_pretrained(target)
        load(AutoTokenizer, source).save_pretrained(target)
    original, first, second = folders
    assert read_json(first / "config.json") == read_json(original / "config.json")
    assert (first / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
    settings = read_json(original / "tokenizer_config.json")
    assert read_json(first / "tokenizer_config.json").items() >= settings.items()
    names = {path.name for path in original.iterdir()}
    assert {path.name for path in first.iterdir()} == names - {
        *("README.md", "manifest.json", "summary.png", "experiment.json", "modules.json", "sentence_bert_config.json")
    }, "the code of every class travels on"
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    load(AutoModelForSequenceClassification, second, num_labels=2)


# --- transformers' tools ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_fill_mask_answers_with_the_model_s_own_figures(published: dict[str, Path], variant: str) -> None:
    folder = published[variant]
    fill = pipeline("fill-mask", model=str(folder), trust_remote_code=True)
    text = f"the {fill.tokenizer.mask_token} sat"
    if variant not in FILLS_MASKS:
        with pytest.raises(ValueError, match=f"a {variant} model cannot fill the masks of its own input"):
            fill(text)
        return
    ids = fill.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = load_checkpoint(folder)(**ids).logits
    chances = logits[0, (ids["input_ids"][0] == fill.tokenizer.mask_token_id).nonzero().item()].softmax(dim=0)
    best = chances.topk(5)
    answers = fill(text)
    assert [answer["token"] for answer in answers] == best.indices.tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feature_extraction_gives_the_concepts(published: dict[str, Path], variant: str) -> None:
    extract = pipeline("feature-extraction", model=str(published[variant]), trust_remote_code=True)
    expected = load_encoder(published[variant], device="cpu").encode(TEXTS)
    for batch_size in (1, 2):
        found = torch.tensor([vectors[0] for vectors in extract(TEXTS, batch_size=batch_size)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_trainer_takes_a_step(published: dict[str, Path], tmp_path: Path) -> None:
    folder = published["perceiver_mlm"]
    model, batch = load(AutoModelForMaskedLM, folder, hidden_dropout_prob=0.0), tokenized(folder)
    model.config.attention_probs_dropout_prob = 0.0
    examples = [
        {**{name: values[row] for name, values in batch.items()}, "labels": batch["input_ids"][row]} for row in (0, 1)
    ]
    before = model(**batch, labels=batch["input_ids"]).loss.item()
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        learning_rate=1e-2,
        use_cpu=True,
        gradient_checkpointing=True,
        save_strategy="no",
        report_to=[],
    )
    result = Trainer(model, arguments, train_dataset=examples).train()
    assert result.global_step == 3
    assert model.eval()(**batch, labels=batch["input_ids"]).loss.item() < before


# --- the card ---

RUN_BLOCKS = """
import importlib.util, json, sys
for block in json.load(sys.stdin):
    if "sentence_transformers" in block and importlib.util.find_spec("sentence_transformers") is None:
        continue
    space = {}
    exec(block, space)
    for name in ("concepts", "answers", "vectors"):
        if name in space:
            print(name, space[name].shape if name != "answers" else len(space[name]))
"""


@pytest.mark.parametrize("variant", ["perceiver_mlm", "tsdae"])
def test_the_code_of_the_card_runs_offline_and_asks_nothing(
    published: dict[str, Path], variant: str, tmp_path: Path
) -> None:
    folder = published[variant]
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == (3 if variant in FILLS_MASKS else 2)
    (tmp_path / "blocks.json").write_text(json.dumps(blocks))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "blocks.json").open() as stdin:
        done = subprocess.run(
            [sys.executable, "-c", RUN_BLOCKS],
            stdin=stdin,
            cwd=folder.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Do you wish to run the custom code" not in done.stdout + done.stderr
    assert "concepts torch.Size([2, 6, 32])" in done.stdout
    assert ("answers 5" in done.stdout) is (variant in FILLS_MASKS)


def test_no_published_file_names_a_place_or_a_person(tmp_path: Path, tokenizer: Path) -> None:
    place = str(tmp_path / "ada" / "notes")
    spec = make_spec(
        place=place,
        training={"init_from": f"{place}/start"},
        publish={"repo": "ada/private", "store": "local"},
        tracking={"entity": "ada", "project": "adas"},
    )
    model = write_model(tmp_path / "model", "perceiver_mlm", tokenizer, spec)
    settings = read_json(model / "tokenizer_config.json")
    odd = {"name_or_path": place, "special_tokens_map_file": f"{place}/map.json", "cache_dir": "C:\\Users\\ada"}
    write_json(model / "tokenizer_config.json", settings | odd)
    record = make_record(
        run_id=run_id_of("perceiver_mlm"),
        spec=spec.model_dump(mode="json"),
        corpus=make_corpus(dataset=place, tokenizer_name=place, folder=Path(place)),
        pretraining=make_pretraining(
            model=model, curve=Path(place) / "curve.jsonl", wandb_url="https://wandb.example/ada/cogito/runs/x"
        ),
        environment=make_environment(machine="adas-laptop"),
    )
    folder = Path(publish_checkpoint(model, record, PublishSpec(store="local"), Home(tmp_path / "home")).location)
    names = [r"\bada", str(tmp_path), str(Path.home()), str(Path.cwd()), rf"/home/{getpass.getuser()}"]
    names += [rf"\b{re.escape(socket.gethostname())}\b"]
    for path in folder.iterdir():
        text = path.read_bytes().decode("utf-8", "replace")
        binary = path.suffix in (".safetensors", ".png")  # a short name may occur there by chance
        found = [name for name in names if re.search(name, text) and not (binary and len(name) < 12)]
        assert not found, f"{path.name} names {found}"
    stated = read_json(folder / "experiment.json")["spec"]
    assert stated["data"]["dataset"] == "notes" and "tracking" not in stated and "publish" not in stated
    read_back = own_spec(resolve_checkpoint(str(folder), Home(tmp_path / "home")), POSITIONS)
    assert read_back.model == spec.model and read_back.training.init_from == "start"
    assert (
        read_json(folder / "tokenizer_config.json").items() >= {"mask_token": "[MASK]", "model_max_length": 32}.items()
    )


def test_publishing_keeps_the_identity_of_a_tokenizer(
    published: dict[str, Path], tokenizer: Path, tmp_path: Path
) -> None:
    assert tokenizer_fingerprint(published["tsdae"]) == tokenizer_fingerprint(tokenizer)
    other = shutil.copytree(tokenizer, tmp_path / "other")
    write_json(other / "tokenizer_config.json", read_json(other / "tokenizer_config.json") | {"do_lower_case": True})
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


# --- sentence-transformers ---


def test_sentence_transformers_finds_its_files(published: dict[str, Path]) -> None:
    """What they say is done here by hand; with the library installed the next test does it for real."""
    folder = published["weighted_mlm"]
    assert read_json(folder / "modules.json") == SENTENCE_MODULES
    assert read_json(folder / "sentence_bert_config.json") == SENTENCE_CONFIG
    (method,) = SENTENCE_CONFIG["modality_config"].values()
    model = load(AutoModel, folder)
    with torch.no_grad():
        vectors: Tensor = getattr(model, method["method"])(**tokenized(folder), return_dict=True)[
            method["method_output_name"]
        ]
    expected = load_encoder(folder, device="cpu").encode(TEXTS, pool="mean")
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sentence_transformers_gives_the_mean_of_the_concepts(
    published: dict[str, Path], variant: str, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    model = library.SentenceTransformer(str(published[variant]), trust_remote_code=True, device="cpu")
    assert model.max_seq_length == POSITIONS
    texts = [*TEXTS, "a long text " * 40]
    expected = load_encoder(published[variant], device="cpu").encode(TEXTS, pool="mean")
    torch.testing.assert_close(torch.from_numpy(model.encode(texts)[:2]), expected, rtol=1e-4, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert (again.encode(texts) == model.encode(texts)).all()


# --- folders of before ---


@pytest.fixture
def old_folder(tmp_path: Path, tokenizer: Path) -> Path:
    """A model folder as version 0.1 wrote it: its configuration, and the weights of that shape."""
    stated = json.loads(OLD_CONFIG.read_text())
    assert "decoder" in stated and "decoder_type" not in stated
    folder = write_model(tmp_path / "old", "weighted_mlm", tokenizer, make_spec("weighted_mlm"))
    (folder / "config.json").write_text(OLD_CONFIG.read_text())
    return folder


def test_a_folder_of_before_loads(old_folder: Path, tmp_path: Path) -> None:
    batch, expected = tokenized(old_folder), make_model("weighted_mlm")
    with torch.no_grad():
        for model in (load_checkpoint(old_folder), load(AutoModelForMaskedLM, old_folder)):
            assert torch.equal(model(**batch).logits, expected(**batch).logits)
            assert model.resize_token_embeddings(310).num_embeddings == 310
    home = Home(tmp_path / "home")
    checkpoint = resolve_checkpoint(str(old_folder), home)
    assert (checkpoint.variant, own_spec(checkpoint, POSITIONS).model.variant) == ("weighted_mlm", "weighted_mlm")
    convert_checkpoint(checkpoint, tmp_path / "converted", None)
    folders = [tmp_path / "converted", publish(old_folder, "weighted_mlm", make_spec("weighted_mlm"), home)]
    for folder in folders:
        check_manifest(folder)
        stated = read_json(folder / "config.json")
        assert "decoder" not in stated and stated["decoder_type"] == "weighted"
        assert torch.equal(load(AutoModelForMaskedLM, folder)(**batch).logits, expected(**batch).logits)
        assert load(AutoTokenizer, folder).model_max_length == POSITIONS
