"""`python -m tasks.gpu_check [FILE.json]`: the check alone, where neither Prefect nor typer is installed."""

import sys
from pathlib import Path

from tasks.errors import UserError
from tasks.gpu_check.checking import run_checks

if __name__ == "__main__":
    try:
        passed = run_checks(Path(sys.argv[1] if len(sys.argv) > 1 else "gpu_check.json"))
    except UserError as error:
        print(f"cogito: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if passed else 1)
