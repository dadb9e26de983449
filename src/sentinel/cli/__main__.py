"""``python -m sentinel.cli`` is ``sentinel``."""

from sentinel.cli.main import main

main()
