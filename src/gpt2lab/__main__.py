"""`python -m gpt2lab`, which torchrun can start: `torchrun ... -m gpt2lab train ...`."""

import sys

from gpt2lab.cli.main import main

sys.exit(main())
