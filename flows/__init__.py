"""The command line and the two Prefect flows."""

import logging
import os

# Our own lines from INFO on, whoever runs a flow: the command or a worker of Prefect.
logging.getLogger("cogito").setLevel(os.environ.get("COGITO_LOG_LEVEL") or "INFO")
