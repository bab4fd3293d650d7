"""``python -m gatv2_pyg script.py``: see :mod:`gatv2_pyg.zero_edit.script`."""

import sys

from gatv2_pyg.zero_edit.script import main

if __name__ == "__main__":
    sys.exit(main())
