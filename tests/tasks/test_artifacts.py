"""A picture that changes while a stage works is one artifact, renewed in place."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tasks import artifacts

RED, BLUE = "data:image/png;base64,cmVk", "data:image/png;base64,Ymx1ZQ=="


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The artifacts of a server that stands in: their content by id."""
    held: dict[str, str] = {}

    def create(data: str, key: str, description: str) -> str:
        name = f"{key}-{len(held)}"
        held[name] = data
        return name

    def update(artifact: str, change: Any) -> None:
        assert artifact in held
        held[artifact] = change.data

    client = MagicMock()
    client.__enter__.return_value.update_artifact = update
    monkeypatch.setattr(artifacts, "create_image_artifact", create)
    monkeypatch.setattr(artifacts, "get_client", lambda sync_client: client)
    monkeypatch.setattr(artifacts.FlowRunContext, "get", lambda: object())  # outside a flow run nothing is shown
    return held


def test_a_picture_is_renewed_and_never_a_second_node_of_the_graph(shown: dict[str, str], tmp_path: Path) -> None:
    picture, key, words = tmp_path / "ranks.png", "ranks", "Concept ranks"
    picture.write_bytes(b"red")
    first = artifacts.show_image(picture, key, words)
    assert shown == {first: RED}
    picture.write_bytes(b"blue")
    assert artifacts.show_image(picture, key, words, first) == first
    assert shown == {first: BLUE}
    artifacts.show_image(picture, "loss", words)
    assert list(shown.values()) == [BLUE, BLUE] and len(shown) == 2


def test_a_server_that_fails_neither_ends_the_stage_nor_loses_the_artifact(
    shown: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    picture = tmp_path / "ranks.png"
    picture.write_bytes(b"red")
    first = artifacts.show_image(picture, "ranks", "Concept ranks")
    monkeypatch.setattr(artifacts, "get_client", MagicMock(side_effect=OSError("away")))
    monkeypatch.setattr(artifacts, "_unseen", artifacts.threading.Event())
    assert artifacts.show_image(picture, "ranks", "Concept ranks", first) == first
    assert "an artifact could not be shown, the work goes on: away" in caplog.text
