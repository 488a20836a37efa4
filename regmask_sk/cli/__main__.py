"""``python -m regmask_sk.cli`` is ``regmask``."""

import sys

from regmask_sk.cli import main

if __name__ == "__main__":
    sys.exit(main())
