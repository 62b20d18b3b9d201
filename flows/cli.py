"""The command. `cogito --help` lists what it can do; `python -m flows.cli` is the same.

Exit codes: 0 done, 1 a stage failed, 2 bad input. With --json standard output carries JSON alone.
"""

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flows import LOG_LEVEL
from flows.checkpoint_commands import app as checkpoint_app
from flows.log_commands import AsJson, LogPath
from flows.log_commands import app as log_app
from flows.upkeep_commands import clean, doctor
from tasks.errors import StageError, UserError, unknown_name
from tasks.secrets import redact

app = typer.Typer(
    name="cogito",
    help="Pretrain, evaluate and log concept encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(log_app, name="log")
app.add_typer(checkpoint_app, name="checkpoint")
app.command()(doctor)
app.command()(clean)

SpecPath = Annotated[Path, typer.Argument(help="Experiment file, for example experiments/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. training.epochs=1.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that mirrors data sets and tokenizers by Hub name (COGITO_DATA_ROOT).")
]
Miniature = Annotated[
    bool, typer.Option("--miniature", help="Shrink to a few minutes on two cores: same variant and losses, made tasks.")
]


@app.command()
def run(
    spec: SpecPath,
    fresh: Annotated[bool, typer.Option(help="Start a new run even if this spec was run before.")] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Save and pause after so many hours; the same command goes on.")
    ] = None,
    miniature: Miniature = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Training processes; default every GPU, or one on a CPU.")
    ] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole experiment, or continue or reuse its run."""
    from tasks.preflight import find_inputs
    from tasks.run_folder import cogito_home
    from tasks.sources import resolve_data_root
    from tasks.sweeps import expand

    (loaded,) = expand([spec], overrides or [], [], small=miniature)
    mirror = resolve_data_root(data_root)
    find_inputs(loaded, cogito_home(), mirror, processes, fresh=fresh)
    arguments = {"spec": loaded, "processes": processes, "fresh": fresh, "max_hours": max_hours}
    state, log_path = _run_flow("experiment", arguments, mirror, log)
    _report_outcome(state, log_path, as_json)


@app.command()
def sweep(
    specs: Annotated[list[Path], typer.Argument(help="Experiment files.")],
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=[A,B]", help="Run every value of a key, e.g. training.seed=[1,2].")
    ] = None,
    miniature: Miniature = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Training processes of each experiment.")] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run several experiments, or a grid of one, in one flow: a row each and a comparison."""
    from tasks.preflight import find_inputs
    from tasks.run_folder import cogito_home
    from tasks.sources import resolve_data_root
    from tasks.stages import PAUSED
    from tasks.sweeps import comparison_table, expand, read_comparison, sweep_folder

    expanded = expand(specs, overrides or [], grid or [], small=miniature)
    home, mirror = cogito_home(), resolve_data_root(data_root)
    problems = []
    for one in expanded:
        try:
            find_inputs(one, home, mirror, processes)
        except UserError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
    if problems:
        raise UserError("\n".join(problems))
    arguments = {"specs": expanded, "count": len(expanded), "processes": processes}
    state, _ = _run_flow("sweep", arguments, mirror, log)
    if state.name == PAUSED:
        print(state.message)
        return
    rows = read_comparison(sweep_folder(expanded, home))
    if as_json:
        _print_json(rows)
    else:
        print(comparison_table(rows), end="")
    if not state.is_completed():
        raise StageError(state.message or "the sweep failed")


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Run id, folder or Hub id[@revision]; plain encoders too.")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated rows of `cogito ls tasks`.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=100, help="Seeds per task.")] = None,
    head: Annotated[str | None, typer.Option(help="Row of `cogito ls heads`; default the variant's own.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder, for a checkpoint without one.")] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune, score and analyse an existing checkpoint: a row in the evaluation table."""
    from tasks.preflight import find_evaluation_inputs, find_task_sources
    from tasks.run_folder import cogito_home
    from tasks.runs import evaluation_head, evaluation_spec
    from tasks.sources import find_dataset, resolve_data_root

    home, mirror = cogito_home(), resolve_data_root(data_root)
    names = [name.strip() for name in tasks.split(",")] if tasks else None
    found, _ = find_evaluation_inputs(checkpoint, tokenizer, home, mirror)
    spec = evaluation_spec(found, names, seeds, head, overrides or [])
    evaluation_head(spec, found)
    find_task_sources(spec.evaluation, home, mirror)
    if found.family == "concept":
        find_dataset(spec.data.dataset, home, mirror, spec.data.revision)
    arguments = {
        "checkpoint": checkpoint, "tasks": names, "seeds": seeds, "head": head, "tokenizer": tokenizer,
        "overrides": overrides,
    }  # fmt: skip
    state, log_path = _run_flow("evaluation", arguments, mirror, log)
    _report_outcome(state, log_path, as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Baseline, then others: run ids, record.json, LOG.md#RUN_ID.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="The log's table of updated baselines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between runs and which differences of their figures are more than noise."""
    from flows.listing import print_comparison
    from tasks.comparisons import compare_all, updated_baselines
    from tasks.run_folder import cogito_home

    if markdown and as_json:
        raise UserError("compare: got --markdown and --json; fix: drop one of them")
    comparisons = compare_all(runs, cogito_home())
    if as_json:
        _print_json([one.model_dump(mode="json") for one in comparisons])
        return
    for one in comparisons:
        if markdown:
            print(updated_baselines(one))
        else:
            print_comparison(one)


@app.command()
def reproduce(
    row: Annotated[str, typer.Argument(help="A row as LOG.md#RUN_ID, or a run id of --log.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the experiment and what it assumes; run nothing.")
    ] = False,
    miniature: Miniature = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Training processes.")] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Repeat the run behind a row of a log and hold the new figures against it."""
    from tasks.comparisons import compare, find_side
    from tasks.experiment_log import default_log
    from tasks.preflight import find_inputs
    from tasks.reproduction import plan_reproduction, verdicts
    from tasks.run_folder import cogito_home
    from tasks.sources import resolve_data_root
    from tasks.stages import PAUSED

    path, _, run_id = row.rpartition("#")
    source = default_log(path or log)
    home, mirror = cogito_home(), resolve_data_root(data_root)
    experiments = sorted(Path("experiments").glob("*.yaml"))
    asked = plan_reproduction(source, run_id, home, experiments, overrides or [], small=miniature)
    if plan:
        import yaml

        spec = asked.spec.model_dump(mode="json", exclude_defaults=True)
        if as_json:
            _print_json({**asked.facts(), "spec": spec})
        else:
            print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="")
            print("\n".join(f"# {line}" for line in asked.lines()))
        return
    print("\n".join(asked.lines()), file=sys.stderr)
    find_inputs(asked.spec, home, mirror, processes, repeats=run_id)
    arguments = {"spec": asked.spec, "processes": processes, "repeats": run_id}
    state, log_path = _run_flow("experiment", arguments, mirror, log)
    if state.name == PAUSED:
        print(state.message)
        return
    again = _finished_run(state)
    first = run_id if asked.has_record else f"{source}#{run_id}"
    found = verdicts(compare(find_side(first, home), find_side(again, home)))
    if as_json:
        _print_json({**asked.facts(), "run_id": again, "verdicts": [one.model_dump(mode="json") for one in found]})
    else:
        from flows.listing import print_verdicts

        print_verdicts(run_id, again, found, log_path)
    if not state.is_completed():
        raise StageError(state.message or "the repetition failed")


@app.command()
def rescore(run: Annotated[str, typer.Argument(help="Run id.")], log: LogPath = None, as_json: AsJson = False) -> None:
    """Score a run again from its stored predictions with today's code; updates its record and row."""
    from flows.listing import print_changes
    from tasks.experiment_log import default_log
    from tasks.records import find_run
    from tasks.rescoring import rescore_run
    from tasks.run_folder import cogito_home

    folder, log_path = find_run(run, cogito_home()), default_log(log)
    changes = rescore_run(folder, log_path)
    if as_json:
        facts = {"run_id": folder.run_id, "changes": [change.model_dump(mode="json") for change in changes]}
        _print_json({**facts, "record": str(folder.record), "log": str(log_path)})
    else:
        print_changes(changes, folder, log_path)


@app.command()
def analyse(
    checkpoint: Annotated[str, typer.Argument(help="Run id, folder, or Hub id with an optional @revision.")],
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder, for a checkpoint without one.")] = None,
    data_root: DataRoot = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure the concept geometry of a checkpoint on held-out text; writes no row."""
    from tasks.concept_analysis import analyse_concepts
    from tasks.corpus import prepare_corpus
    from tasks.preflight import find_evaluation_inputs
    from tasks.run_folder import RunFolder, cogito_home
    from tasks.runs import evaluation_spec
    from tasks.sources import find_dataset, resolve_data_root

    home, mirror = cogito_home(), resolve_data_root(data_root)
    found, tokenizer_folder = find_evaluation_inputs(checkpoint, tokenizer, home, mirror)
    if found.family == "plain":
        raise UserError(f"checkpoint {found.name}: is a plain {found.variant} and has no concepts to analyse")
    spec = evaluation_spec(found, None, None, None, overrides or [])
    source = find_dataset(spec.data.dataset, home, mirror, spec.data.revision)
    corpus = prepare_corpus(spec.data, source, home, mirror, tokenizer_folder=tokenizer_folder)
    folder = RunFolder(home.root / "analyses" / f"{found.weights_sha256[:16]}-{corpus.corpus_id}")
    result = analyse_concepts(found, corpus, spec.analysis, folder, home)
    if as_json:
        _print_json({"checkpoint": found.name, **result.model_dump(mode="json")})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"Concept geometry of {found.name}, {result.samples} samples")
    for name, value in result.figures.items():
        table.add_row(name, f"{value:.5g}")
    Console().print(table)
    for name, path in result.plots.items():
        print(f"{name}: {path}")


@app.command()
def encode(
    checkpoint: Annotated[str, typer.Argument(help="Run id, folder, or Hub id with an optional @revision.")],
    file: Annotated[Path, typer.Argument(help="Texts: .txt (one per line), .jsonl, .csv or .parquet.")],
    output: Annotated[Path, typer.Option(help="Vectors in the order of the texts: .parquet or .safetensors.")],
    pool: Annotated[str, typer.Option(help="none: all concepts of a text; mean: their mean.")] = "none",
    column: Annotated[str, typer.Option(help="The column with the texts.")] = "text",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per batch.")] = 32,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a text; default all positions.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder, for a checkpoint without one.")] = None,
    data_root: DataRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Encode a file of texts into concept vectors."""
    from functools import partial

    from tasks.encoding import encode_file
    from tasks.progress import DISPLAY
    from tasks.run_folder import cogito_home
    from tasks.sources import resolve_data_root

    mirror, progress = resolve_data_root(data_root), partial(DISPLAY.update, "encode")
    with DISPLAY.on_terminal():
        done = encode_file(
            checkpoint, file, output, cogito_home(), mirror, pool=pool, column=column, batch_size=batch_size,
            max_length=max_length, tokenizer=tokenizer, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    print(f"{output}: {done.texts:,} texts, float32 {list(done.shape)} each")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Id or folder of a run or of a sweep.")],
    baseline: Annotated[str | None, typer.Option(metavar="RUN", help="Id or folder of a run to compare with.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder; default that of the run.")] = None,
) -> None:
    """Write report.md and report.html of a run or a sweep from its records."""
    from tasks.report import write_report
    from tasks.run_folder import cogito_home

    for path in write_report(run, cogito_home(), baseline=baseline, output=output):
        print(path)


@app.command()
def check(specs: Annotated[list[Path], typer.Argument(help="Experiment files.")], overrides: Overrides = None) -> None:
    """Check experiment files; all mistakes of all files at once."""
    from tasks.spec_file import load_spec

    problems = []
    for path in specs:
        try:
            for warning in load_spec(path, overrides or []).warnings:
                print(f"{path}: warning: {warning}", file=sys.stderr)
            print(f"{path}: ok")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


@app.command()
def show(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the resolved spec with its parameter count and identity."""
    import yaml

    from models.autoencoder import ConceptModelForMaskedLM
    from models.configuration import ConceptConfig
    from tasks.pretraining import model_config
    from tasks.run_folder import content_hash
    from tasks.spec_file import load_spec

    loaded = load_spec(spec, overrides or [])
    resolved = loaded.model_dump(mode="json")
    vocab_size = loaded.data.train_tokenizer_vocab_size or ConceptConfig().vocab_size
    config = ConceptConfig(**model_config(loaded, vocab_size, None, {}))
    facts = {
        "parameters": ConceptModelForMaskedLM.count_parameters(config),
        "vocab_size": vocab_size,
        "identity": content_hash(resolved),
    }
    if as_json:
        _print_json({"spec": resolved, **facts})
        return
    print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")
    assumed = "" if loaded.data.train_tokenizer_vocab_size else " (assuming ModernBERT's vocabulary)"
    print(f"# parameters: {facts['parameters']:,} with {vocab_size:,} tokens{assumed}")
    print(f"# identity: {facts['identity']}")


@app.command("ls")
def list_kind(
    kind: Annotated[str, typer.Argument(help="variants, objectives, decoders, heads, losses, tasks or experiments")],
    as_json: AsJson = False,
) -> None:
    """List what can be named in a spec."""
    from flows.listing import KINDS

    if kind not in KINDS:
        raise UserError(unknown_name("kind", kind, KINDS))
    rows = KINDS[kind]()
    if as_json:
        _print_json([{"name": name, "summary": summary} for name, summary in rows])
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:{width}}  {summary}")


@app.command()
def ui(stop: Annotated[bool, typer.Option("--stop", help="End the server of this COGITO_HOME.")] = False) -> None:
    """Start or find the local Prefect server and print the address of its UI."""
    from flows.server import ensure_server, stop_server, ui_address
    from tasks.run_folder import cogito_home

    if stop:
        print("stopped" if stop_server(cogito_home()) else "no server was running")
        return
    url = ensure_server(cogito_home())
    if url is None:
        raise StageError("no server could be started; see logs/server.log under COGITO_HOME")
    print(ui_address(url))


def _run_flow(name: str, arguments: dict[str, Any], mirror: Path | None, log: Path | None) -> tuple[Any, Path]:
    """Run a flow against the home's server; its final state and the path of the log."""
    from flows.server import ensure_server, ui_address
    from tasks.experiment_log import check_log_place, default_log
    from tasks.progress import DISPLAY
    from tasks.run_folder import cogito_home

    log_path = default_log(log)
    check_log_place(log_path)  # found before the work, not after it
    url = ensure_server(cogito_home())
    if url is not None:
        print(f"Prefect UI: {ui_address(url)}", file=sys.stderr)
    from importlib import import_module

    from tasks.launch import pause_on_sigterm, stop_all_jobs

    pause_on_sigterm.set()

    def interrupt(number: int, frame: Any) -> None:
        # The jobs end here, whatever code the interrupt falls into and whether that lets it pass.
        stop_all_jobs()
        raise KeyboardInterrupt

    from prefect import tags

    from tasks.leases import active

    flow = getattr(import_module(f"flows.{name}"), name)
    arguments |= {"data_root": str(mirror) if mirror else None, "log": str(log_path)}
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        # Known before Prefect knows the flow run and after it has ended: a kill at any moment leaves it to be found.
        with active(cogito_home()) as mark, tags(mark), DISPLAY.on_terminal():
            return flow(**arguments, return_state=True), log_path
    except KeyboardInterrupt:
        print("cogito: interrupted; what is done is saved, and the same command goes on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _finished_run(state: Any) -> str:
    """The run id of a flow that came as far as having a run."""
    from tasks.run_folder import cogito_home
    from tasks.stages import BAD_INPUT

    message = state.message or ""
    if state.name == BAD_INPUT:
        raise UserError(message)
    run_id: str = message.partition(":")[0]
    if not cogito_home().has_run(run_id):
        raise StageError(message or f"the flow ended as {state.name}")
    return run_id


def _report_outcome(state: Any, log_path: Path, as_json: bool) -> None:
    from tasks.records import load_record
    from tasks.run_folder import cogito_home
    from tasks.stages import PAUSED

    if state.name == PAUSED:
        if as_json:
            _print_json({"run_id": state.message.partition(":")[0], "status": "paused"})
        else:
            print(state.message)
        return
    folder = cogito_home().run(_finished_run(state))
    record = load_record(folder)
    if as_json:
        _print_json(
            {
                "run_id": record.run_id,
                "status": record.status,
                "scores": [_score_facts(score) for score in record.scores if score.start == "checkpoint"],
                "random_start": [_score_facts(score) for score in record.scores if score.start == "random"],
                "zero_shot": [_score_facts(score) for score in record.scores if score.start == "zero_shot"],
                "record": str(folder.record),
                "log": str(log_path),
            }
        )
    else:
        from flows.listing import print_record

        print_record(record, folder, log_path)
    if not state.is_completed():
        raise StageError(state.message or "the flow failed")


def _score_facts(score: Any) -> dict[str, Any]:
    facts = (
        "task", "metric", "value", "n", "seed_values", "interval", "floor", "above_floor", "overlap_baseline",
        "start_from", "unreliable",
    )  # fmt: skip
    return {name: getattr(score, name) for name in facts}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str, allow_nan=False))


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"cogito: {error}", file=sys.stderr)
    sys.exit(code)


def _leave_at_once(message: str) -> NoReturn:
    """End without what Prefect does at exit: it would try for minutes to reach a server that is gone, and say so."""
    print(f"\ncogito: {message}", file=sys.stderr)  # its threads may be in the middle of a line
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _fail_usage(error: Any) -> NoReturn:
    """Typer's own message in the form of all others."""
    words = error.ctx.command_path if getattr(error, "ctx", None) else "cogito"
    text = " ".join(error.format_message().split())
    if not text:  # no command at all: Typer has printed the help
        sys.exit(2)
    _fail(UserError(f"{text}; fix: `{words} --help` lists what is allowed"), 2)


def main() -> None:
    """The entry point: one clear message and an exit code instead of a traceback."""
    # Our own lines only: the root logger would repeat what Prefect logs.
    logger = logging.getLogger("cogito")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False  # else Prefect's console handler, which sits on the root, says warnings a second time
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        if LOG_LEVEL not in logging.getLevelNamesMapping():
            raise UserError(unknown_name("COGITO_LOG_LEVEL", LOG_LEVEL, logging.getLevelNamesMapping()))
        sys.exit(app(standalone_mode=False) or 0)
    except UserError as error:
        _fail(error, 2)
    except StageError as error:
        _fail(error, 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's, of a wrong word on the command line
            _fail_usage(error)
        from flows.server import lost_server
        from tasks.hub import gave_up, is_transient
        from tasks.run_folder import disk_full

        if message := lost_server(error):
            _leave_at_once(message)
        if disk_full(error):
            _fail(StageError(f"no space left on device: {error}; fix: make room, then run it again"), 1)
        if not is_transient(error):
            print(redact(traceback.format_exc()), file=sys.stderr)  # a fault of ours
            sys.exit(1)
        _fail(StageError(gave_up(error)), 1)


if __name__ == "__main__":
    main()
