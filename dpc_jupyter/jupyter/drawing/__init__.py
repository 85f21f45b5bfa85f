"""Drawing in a cell: answers, tables and errors. HTML comes from an allow-list alone."""
