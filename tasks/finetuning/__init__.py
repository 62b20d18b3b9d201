"""Fine-tuning on the downstream tasks: the stage, the job, and the scores."""
