"""How the plugins end a command.

Hydra's plugin scan skips modules with a leading underscore, and so does not make this one twice.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from graft.errors import GraftError


def exit_with(error: GraftError) -> NoReturn:
    """Ends the command with the error's text and status, and without a traceback.

    Of all exceptions Hydra lets only SystemExit through as it is.
    """
    from graft.printable import printable

    sys.stdout.flush()
    print(printable(str(error)), file=sys.stderr)
    raise SystemExit(error.status)
