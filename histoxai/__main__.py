"""The `histoxai` command, also as `python -m histoxai`."""

from __future__ import annotations

import sys

from histoxai.core import signals
from histoxai.core.errors import Interrupted


def main() -> None:
    """Catch signals before anything slow is imported, run the command, and end with its exit code.

    A signal that hits where no command runs yet, or its clean-up, ends with 75 like any other.
    """
    code: object = 0
    stopped = False
    try:
        signals.install_handlers()
        from histoxai.cli.app import main as run

        run()
    except SystemExit as stop:
        code = stop.code
        stopped = signals.stop_requested() and code not in (0, None, Interrupted.exit_code)
    except KeyboardInterrupt:
        stopped = True
    signals.ignore()
    if stopped:
        print(f"histoxai: stopped by a signal; {signals.RESUME_HINT}", file=sys.stderr)
    if stopped or code == Interrupted.exit_code:
        signals.exit_now(Interrupted.exit_code)
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
