"""The model card: valid metadata, scores beside their floors, and nothing that names this machine."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from models.family import VARIANTS
from tasks.checkpoints.card import METRIC_IDS, render_card
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import PYTHON_DOCS, DataSpec
from tasks.store.records import PublishResult
from tests.factories import RUN_ID, make_corpus, make_environment, make_pretraining, make_record, make_score


def spec_with(**sections: Any) -> dict[str, Any]:
    return ExperimentSpec.model_validate({"name": "test", "data": {}, **sections}).model_dump(mode="json")


def test_card_says_what_it_is_and_how_it_was_made() -> None:
    card = render_card(make_record())
    head = yaml.safe_load(card.split("---")[1])
    assert head.pop("model-index")
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["concept-encoder", "perceiver_mlm", "sentence-transformers"],
        "datasets": ["JeanKaddour/minipile"],
    }
    for fact in [
        RUN_ID,
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "| evaluation loss (nats per labelled token) | 4.0100 |",
        "| unigram entropy of the held-out text (nats, no context) | 7.2500 |",
        "| parameters | 36,000,000 |",
        "| global_batch_size | 512 |",
        "| mask_prob | 0.15 |",
        "| git commit | 54ee870c0ffee0123456789abcdef0123456789a |",
    ]:
        assert fact in card
    assert "stand-ins" not in card
    assert "stand-ins" in render_card(make_record(made_data=True))


@pytest.mark.parametrize("place", ["/home/ada/corpora/notes", "C:\\Users\\ada\\notes", "~/ada/notes", "../ada/notes"])
def test_card_shows_no_place_of_this_machine(place: str) -> None:
    spec = ExperimentSpec(name="test", data=DataSpec(dataset=place, tokenizer=place)).model_dump(mode="json")
    record = make_record(
        spec=spec,
        corpus=make_corpus(dataset=place, tokenizer_name=place, folder=Path("/home/ada/corpus")),
        pretraining=make_pretraining(model=Path("/home/ada/model"), curve=Path("/home/ada/curve.jsonl")),
        publishing=PublishResult(
            store="local", location="/home/ada/published/x", revision=None, url=None, weights_sha256="0" * 64
        ),
        environment=make_environment(machine="adas-laptop", git_dirty=True),
    )
    card = render_card(record)
    assert "ada" not in card
    assert "| dataset | notes |" in card
    assert "datasets:" not in card.split("---")[1]
    assert "uncommitted changes" in card


def test_card_of_a_run_without_results_still_renders() -> None:
    card = render_card(make_record(corpus=None, pretraining=None, spec={}))
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_scores_stand_beside_their_floors_in_the_metadata() -> None:
    scores = [
        make_score(split.label, 0.7, 0.5, metric=metric)
        for task in TASKS.values()
        for split in task.eval_splits
        for metric in task.metrics
    ]
    card = ModelCard(render_card(make_record(scores=scores)), ignore_metadata_errors=False)
    index = yaml.safe_load(card.content.split("---")[1])["model-index"]
    name, results = model_index_to_eval_results(index)
    assert name == RUN_ID and len(results) == len(scores)
    for result in results:
        assert result.metric_value == 0.7
        assert result.metric_args == {"floor": 0.5, "floor_name": "majority", "seeds": 1, "interval": [0.67, 0.72]}
    first = results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == ("nyu-mll/glue", "mrpc", "validation")
    assert {result.metric_type for result in results} == {METRIC_IDS.get(name, name) for name in METRICS}
    assert card.data.eval_results == results


def test_the_metadata_states_no_score_that_is_none() -> None:
    scores = [
        make_score("mrpc", None),
        make_score("qqp", math.nan),
        make_score("stsb", 0.3, start="random"),
        make_score("rte", 0.6, 0.53, start_from="mnli"),
    ]
    card = render_card(make_record(scores=scores))
    (result,) = ModelCard(card).data.eval_results
    assert (result.dataset_name, result.metric_value, result.metric_args["start_from"]) == ("RTE", 0.6, "mnli")
    assert "| mrpc | f1 | failed |" in card
    assert "| rte (from MNLI) | f1 | 0.600 |" in card
    made = render_card(make_record(scores=[make_score()], spec=spec_with(evaluation={"data": "made"}), made_data=True))
    assert ModelCard(made).data.eval_results is None and "model-index" not in made
    assert "| mrpc | f1 | 0.822 (at floor) |" in made
    assert "## Scores" not in render_card(make_record(scores=[]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pipeline_of_a_card_is_one_that_works(variant: str) -> None:
    card = render_card(make_record(spec=spec_with(model={"variant": variant})))
    fills = VARIANTS[variant].objective == "mlm"
    assert ModelCard(card).data.pipeline_tag == ("fill-mask" if fills else "feature-extraction")
    assert ('pipeline("fill-mask"' in card) is fills


def test_language_and_licence_are_stated_where_they_are_known() -> None:
    stated = ModelCard(render_card(make_record(spec=spec_with(publish={"language": "de", "license": "mit"})))).data
    assert (stated.language, stated.license) == ("de", "mit")
    assert ModelCard(render_card(make_record())).data.language is None, "the text of a data set may be in any"
    built_in = make_record(corpus=make_corpus(dataset=PYTHON_DOCS))
    assert ModelCard(render_card(built_in)).data.to_dict().items() >= {"language": "en"}.items()
    assert "datasets" not in ModelCard(render_card(built_in)).data.to_dict()
