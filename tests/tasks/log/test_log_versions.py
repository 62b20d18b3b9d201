"""`cogito log check` against another version of the log and against a Git repository."""

import os
import subprocess
from pathlib import Path

import pytest
from typed_log import OTHER, RUN, TRAINING, USER_LOG, found, needs_user_log, of, training_row

from tasks.errors import UserError


def test_another_version_of_the_log(tmp_path: Path) -> None:
    old = TRAINING.replace("Task Loss", "MLM Loss") + training_row(loss="2.640") + training_row(OTHER)
    (tmp_path / "old.md").write_text(old, encoding="utf-8")
    findings = found(tmp_path, TRAINING + training_row(), against=tmp_path / "old.md")
    assert [(one.rule, one.row, one.column) for one in findings] == [
        ("versions-differ", OTHER, None),
        ("versions-differ", RUN, "Task Loss"),
    ]
    assert found(tmp_path, old, against=tmp_path / "old.md") == found(tmp_path, old)


BASELINES = (
    "\n**Updated baselines:**\n\n| Task | CLS-Query (old) | ViaDecoder (new) | Delta |\n|---|---|---|---|\n"
    "| QQP F1 | 72.5% | **75.0%** | +2.5% |\n| MNLI-m Acc | 59.1% | TBD | — |\n"
    "\n1. Gradient norm peaked at 6.81 in epoch 12, see `x_20260221.md`.\n2. LR was 2e-4 on 2026-02-21.\n"
)


@pytest.mark.parametrize(
    ("before", "now", "place"),
    [
        ("| 72.5% | **75.0%**", "| 72.5% | **75.1%**", (14, None, "ViaDecoder (new)")),
        ("| 72.5% | **75.0%**", "| 73.5% | **75.0%**", (14, None, "CLS-Query (old)")),
        ("+2.5%", "+2.6%", (14, None, "Delta")),
        ("| MNLI-m Acc | 59.1% | TBD | — |\n", "", (12, None, None)),
        ("peaked at 6.81", "peaked at 68.1", (17, None, None)),
        ("in epoch 12", "in epoch 11", (17, None, None)),
        ("Fine. |\n| 2026-01", "Trained for 40 epochs. |\n| 2026-01", None),
        # what is no other figure
        ("**75.0%**", "75.0%", None),
        ("**75.0%**", "75%", None),
        ("TBD", "59.75%", None),
        ("CLS-Query (old)", "CLS (old)", None),
        ("1. Gradient", "- Gradient", None),
        ("2. LR was", "1. The LR still was", None),
        ("peaked at 6.81 in epoch 12", "peaked late, at epoch 3, at 7.25", None),
        ("**Updated baselines:**", "**Baselines of February:**", None),
    ],
)
def test_tables_and_sentences_of_another_version(
    tmp_path: Path, before: str, now: str, place: tuple[int, str | None, str | None] | None
) -> None:
    old = TRAINING + training_row() + training_row(OTHER) + BASELINES
    assert before in old
    (tmp_path / "old.md").write_text(old, encoding="utf-8")
    findings = of(found(tmp_path, old.replace(before, now), against=tmp_path / "old.md"), "versions-differ")
    assert [(one.line, one.row, one.column) for one in findings] == ([place] if place else [])


def test_a_conclusion_of_another_version(tmp_path: Path) -> None:
    old = TRAINING + training_row(conclusion="**Best** after epoch 10: 6.81 nats.") + training_row(OTHER)
    (tmp_path / "old.md").write_text(old, encoding="utf-8")
    (one,) = found(tmp_path, old.replace("6.81", "6.18"), against=tmp_path / "old.md")
    assert (one.rule, one.line, one.row, one.column) == ("versions-differ", 7, RUN, "Conclusion / Takeaway")


@needs_user_log
def test_versions_of_the_users_log_differ_where_they_do(tmp_path: Path) -> None:
    text = USER_LOG.read_text(encoding="utf-8")
    for before, now, line in [
        ("59.34%", "61.4%", 34),
        ("0.23.", "0.32.", 18),
        ("deletion (60%)", "deletion (50%)", 78),
        ("MLM 2.640", "MLM 2.641", 13),
    ]:
        assert text.count(before) == 1
        findings = of(found(tmp_path, text.replace(before, now), against=USER_LOG), "versions-differ")
        assert [one.line for one in findings] == [line]


def git(folder: Path, *arguments: str, day: str = "", stamp: str = "") -> None:
    stamp = stamp or f"{day}T12:00:00+01:00"
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, "GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp, "HOME": str(folder)},
    )


def test_tags_and_commits_of_a_repository(tmp_path: Path) -> None:
    repository = tmp_path / "code"
    repository.mkdir()
    git(repository, "init", "-q", day="2026-02-01")
    git(repository, "commit", "-q", "--allow-empty", "-m", "one", day="2026-02-01")
    git(repository, "tag", "-a", "first", "-m", "first", day="2026-02-01")
    git(repository, "tag", "-a", "afterwards", "-m", "late", day="2026-03-01")
    git(repository, "commit", "-q", "--allow-empty", "-m", "two", day="2026-02-20")
    git(repository, "tag", "second", day="2026-02-20")

    def judged(tag: str) -> list[tuple[str, str]]:
        findings = found(tmp_path, TRAINING + training_row(tag=f"`{tag}`"), repository=repository)
        return [(one.rule, one.severity) for one in findings]

    assert judged("first") == []
    assert judged("second") == [("young-tag", "error")]
    assert judged("afterwards") == [("young-tag", "warning")]
    assert judged("nowhere") == [("young-tag", "warning")]
    with pytest.raises(UserError, match="--git"):
        found(tmp_path, TRAINING + training_row(), repository=tmp_path / "none")


@pytest.mark.parametrize(
    ("stamp", "severities"),
    [
        ("2026-02-08T13:10:00-08:00", []),  # 6 minutes before the run, in UTC
        ("2026-02-09T10:10:00+13:00", []),  # the same moment, on another day
        ("2026-02-08T21:10:00-08:00", []),  # 6 minutes before the run, if its machine stood there
        ("2026-02-07T23:30:00-08:00", []),  # another day in UTC, and before the run by both
        ("2026-02-08T23:30:00-08:00", ["warning"]),
        ("2026-02-09T00:10:00+01:00", ["warning"]),
        ("2026-02-09T23:30:00-08:00", ["error"]),
    ],
)
def test_a_commit_is_judged_by_its_zone(tmp_path: Path, stamp: str, severities: list[str]) -> None:
    repository = tmp_path / "code"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main", stamp=stamp)
    git(repository, "commit", "-q", "--allow-empty", "-m", "one", stamp=stamp)
    git(repository, "tag", "light", stamp=stamp)
    git(repository, "tag", "-a", "heavy", "-m", "heavy", stamp=stamp)
    for tag in ("light", "heavy"):
        findings = found(tmp_path, TRAINING + training_row(tag=f"`{tag}`"), repository=repository)
        assert [(one.rule, one.severity) for one in findings] == [("young-tag", severity) for severity in severities]


def test_branches_and_light_tags_of_a_repository_and_of_its_clone(tmp_path: Path) -> None:
    repository = tmp_path / "code"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main", day="2026-02-01")
    git(repository, "commit", "-q", "--allow-empty", "-m", "one", day="2026-02-01")
    git(repository, "branch", "arch/still", day="2026-02-01")
    git(repository, "tag", "set-later", day="2026-03-01")  # a light tag does not tell when it was set
    git(repository, "checkout", "-q", "-b", "arch/moved", day="2026-02-20")
    git(repository, "commit", "-q", "--allow-empty", "-m", "two", day="2026-02-20")
    git(repository, "tag", "both", "main", day="2026-02-01")
    git(repository, "branch", "both", day="2026-02-20")  # Git takes the tag
    git(tmp_path, "clone", "-q", "code", "clone", day="2026-03-01")
    for folder in (repository, tmp_path / "clone"):
        for tag, severities in [
            ("arch/still", []),
            ("main", []),
            ("set-later", []),
            ("both", []),
            ("arch/moved", ["note"]),
            ("arch/none", ["warning"]),
            ("--output=x", ["warning"]),
            ("*", ["warning"]),
        ]:
            findings = found(tmp_path, TRAINING + training_row(tag=f"`{tag}`"), repository=folder)
            assert [(one.rule, one.severity) for one in findings] == [("young-tag", one) for one in severities], tag
    assert not (tmp_path / "x").exists()


def test_the_day_in_a_tags_name_may_be_that_of_another_zone(tmp_path: Path) -> None:
    for day, severities in [("20260208", []), ("20260209", ["warning"]), ("20260210", ["error"])]:
        findings = found(tmp_path, TRAINING + training_row(tag=f"`arch/x-{day}`"))
        assert [(one.rule, one.severity) for one in findings] == [("young-tag", severity) for severity in severities]
