"""The one entry to Prefect: whatever Cogito uses of it is imported here, after its environment has been set.

Prefect reads its settings when it is imported: where it keeps its state, what it reports home, what it prints. An
import past this file would find none of ours, so import-linter allows none. A process that has imported Prefect by
itself, such as a worker or a notebook, keeps its settings.
"""

import sys

from tasks.libraries import configure_libraries
from tasks.store.home import cogito_home

if "prefect" not in sys.modules:
    cogito_home().create()  # for its owner alone, which Prefect would not do
    configure_libraries()

from prefect import Task, allow_failure, flow, tags
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, TagsContext, TaskRunContext, refresh_global_settings_context
from prefect.exceptions import Pause
from prefect.flows import Flow
from prefect.futures import PrefectFuture
from prefect.results import ResultRecord
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

__all__ = [
    "PREFECT_API_URL",
    "ArtifactUpdate",
    "Cancelled",
    "Completed",
    "Failed",
    "Flow",
    "FlowRunContext",
    "Pause",
    "PrefectFuture",
    "ResultRecord",
    "State",
    "StateType",
    "TagsContext",
    "Task",
    "TaskRunContext",
    "ThreadPoolTaskRunner",
    "allow_failure",
    "create_image_artifact",
    "create_markdown_artifact",
    "create_progress_artifact",
    "create_table_artifact",
    "exponential_backoff",
    "flow",
    "flow_run",
    "get_client",
    "refresh_global_settings_context",
    "tags",
    "update_progress_artifact",
]
