"""`python -m channelkit`: the command."""

import sys

from channelkit.cli import main

sys.exit(main())
