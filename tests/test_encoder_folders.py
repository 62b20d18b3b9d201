"""The tiny encoders of the tests are what the Hub has: transformers loads every weight of them by its name."""

from pathlib import Path

import pytest
import torch
import transformers
from encoder_folders import FAMILIES, encoder_folder, family_weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", [{}, {"sharded": True, "format": "bin"}])
def test_transformers_loads_every_weight(tmp_path: Path, family: str, layout: dict[str, object]) -> None:
    folder = encoder_folder(family, tmp_path / family, **layout)  # type: ignore[arg-type]
    made = getattr(transformers, FAMILIES[family].architecture)
    model, report = made.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    state = model.state_dict()
    stored = family_weights(family, folder)
    assert len(stored) > 10 and all(torch.equal(state[name], tensor) for name, tensor in stored)
