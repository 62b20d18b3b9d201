"""A sweep: several experiments one after another as one parent flow, each with its run and its row, then a comparison.

Resumable like an experiment: what is finished is found finished. A failed experiment does not stop the others.
Example: `cogito sweep experiments/*.yaml --miniature`
"""

from typing import Any

from flows.bookkeeping import report_on
from flows.experiment import experiment
from flows.life_cycle import call, heeding, known_as_active, run_of, without_tags
from flows.prefect_api import server_lost
from tasks.artifacts import artifact_key, show
from tasks.errors import PAUSED
from tasks.interruption import pausing
from tasks.prefect_entry import Completed, Failed, FlowRunContext, State, create_markdown_artifact, flow
from tasks.review.sweeps import compare_runs, comparison_table, sweep_folder
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import cogito_home


@flow(flow_run_name="sweep-of-{count}")
def sweep(
    specs: list[ExperimentSpec],
    count: int,
    data_root: str | None = None,
    log: str | None = None,
    processes: int | None = None,
) -> State:
    """Run every experiment and compare them.

    Args:
        specs: the experiments.
        count: how many there are, for the name of this run.
        data_root: a mirror folder, searched before the Hub; default COGITO_DATA_ROOT.
        log: the Master Experiment Log; default COGITO_LOG.
        processes: training processes of each; default every GPU, or one on a CPU.
    """
    with known_as_active():
        return heeding(lambda: _sweep(specs, {"data_root": data_root, "log": log, "processes": processes}))


def _sweep(specs: list[ExperimentSpec], options: dict[str, Any]) -> State:
    home = cogito_home()
    folder = sweep_folder(specs, home)
    outcomes: list[tuple[str, str | None, str]] = []
    failed: list[str] = []
    for spec in specs:
        # Hours lie between the starts, so that each experiment finds its own inputs.
        if pausing.is_set():
            return Completed(message=f"paused before {spec.name}; the same command goes on", name=PAUSED)
        state = call(
            experiment, {"spec": spec, **options}, shown=FlowRunContext.get() is not None and not server_lost.is_set()
        )
        if state.name == PAUSED:
            return Completed(message=state.message, name=PAUSED, data=run_of(state))
        message = state.message or state.name or ""
        outcomes.append((spec.name, run_of(state), message))
        if not state.is_completed():
            failed.append(f"{spec.name}: {message}")
        rows = compare_runs(outcomes, home, folder, verdicts=len(outcomes) == len(specs))
    show(create_markdown_artifact, comparison_table(rows), key=artifact_key("sweep", folder.name))
    with without_tags():
        report_on(folder)
    if failed:
        return Failed(message="; ".join(failed))
    return Completed(message=f"{len(specs)} experiments: {folder / 'comparison.md'}")
