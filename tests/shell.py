"""`semu` as the tests run it: in this process, or as a program of its own."""

import os
import sys
from unittest import mock

import pytest

from semu_diffusion.cli.entry import main

MAIN = "from semu_diffusion.cli import main; main()"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def call_semu(*arguments) -> int:
    """Runs the entry point with arguments and returns its exit status."""
    with mock.patch.object(sys, "argv", ["semu", *map(str, arguments)]), pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0
