"""The identity of a training: what its contract version, and that of its objective, are a part of."""

from dataclasses import replace

import pytest

from models.family import OBJECTIVES, VARIANTS
from tasks.pretraining.stage import CONTRACT_VERSION, pretraining_identity
from tasks.spec.experiment import ExperimentSpec, pretraining_part
from tasks.spec.pretraining import DataSpec, ModelSpec
from tasks.store.files import content_hash


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_objective_renews_its_own_trainings_alone(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExperimentSpec(name="test", data=DataSpec(), model=ModelSpec(variant=variant))
    identity, objective = pretraining_identity(spec, "corpus"), OBJECTIVES[VARIANTS[variant].objective]
    assert objective.contract == (2 if variant == "tsdae" else 1)
    if objective.contract == 1:  # as it was before objectives had contracts
        assert identity == content_hash([CONTRACT_VERSION, "corpus", pretraining_part(spec)])
    monkeypatch.setitem(OBJECTIVES, "denoising", replace(OBJECTIVES["denoising"], contract=9))
    assert (pretraining_identity(spec, "corpus") == identity) == (variant != "tsdae")
