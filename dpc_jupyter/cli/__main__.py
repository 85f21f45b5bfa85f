"""``python -m dpc_jupyter.cli``, for when the script is not on the path."""

from dpc_jupyter.cli.main import app

app()
