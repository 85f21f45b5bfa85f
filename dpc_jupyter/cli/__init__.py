"""``dpc-jupyter``: a node for the command line. One room a command; `main` puts them together."""

from dpc_jupyter.cli.main import app as app
