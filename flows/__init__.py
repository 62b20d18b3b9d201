"""The command line and the two Prefect flows."""

import logging
import os

from tasks.secrets import redact_logs

# Our own lines from INFO on, whoever runs a flow: the command or a worker of Prefect.
LOG_LEVEL = (os.environ.get("COGITO_LOG_LEVEL") or "INFO").upper()
logging.getLogger("cogito").setLevel(LOG_LEVEL if LOG_LEVEL in logging.getLevelNamesMapping() else "INFO")
redact_logs()
