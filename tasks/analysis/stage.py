"""The launch side of concept analysis: geometry of a checkpoint's concepts on held-out text."""

from models.weight_files import weights_size
from tasks.jobs.history import Work
from tasks.jobs.launch import claimed_job, run_on_one_device
from tasks.jobs.messages import AnalysisJob, OnProgress
from tasks.spec.evaluation import AnalysisSpec
from tasks.store.files import content_hash
from tasks.store.home import Home, RunFolder
from tasks.store.records import AnalysisResult, Checkpoint, CorpusResult

# Raise when the same checkpoint and text would give other figures.
CONTRACT_VERSION = 3


def analysis_work(checkpoint: Checkpoint, corpus: CorpusResult, spec: AnalysisSpec) -> Work:
    """By which the duration of an analysis is judged."""
    tokens = min(spec.max_samples, corpus.held_out_blocks) * corpus.block_tokens
    return Work(kind="analysis", size=weights_size(checkpoint.folder), tokens=tokens)


def analyse_concepts(
    checkpoint: Checkpoint,
    corpus: CorpusResult,
    spec: AnalysisSpec,
    run: RunFolder,
    home: Home,
    on_progress: OnProgress | None = None,
) -> AnalysisResult:
    """Analyse a checkpoint, or find it analysed.

    Raises:
        StageError: the job failed.
    """
    identity = content_hash([CONTRACT_VERSION, checkpoint.model_hashes, corpus.corpus_id, spec.model_dump(mode="json")])
    with claimed_job(run.analysis, identity, home, AnalysisResult) as done:
        if done is not None:
            return done
        job = AnalysisJob(
            identity=identity,
            checkpoint=checkpoint.folder,
            corpus=corpus.folder,
            special_token_ids=corpus.special_token_ids,
            max_samples=spec.max_samples,
            batch_size=spec.batch_size,
            work=analysis_work(checkpoint, corpus, spec),
        )
        return run_on_one_device(run.analysis, job, home, on_progress)
